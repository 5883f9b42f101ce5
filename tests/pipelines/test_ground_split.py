"""By command: a split by blocks of ground, and how many tiles of val meet tiles of train."""

import runpy
import sys

import numpy as np
import pytest
from data.hostile import numbers, tiff
from rasterio import Affine


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """A scene of 8 x 8 tiles of 24 x 32 px of 10 m, and one more that cannot be read."""
    root = tmp_path_factory.mktemp("archive")
    (root / "tiles").mkdir()
    rows = ["tile,ship"]
    for i in range(64):
        place = Affine(10, 0, 5e5 + 320 * (i % 8), 0, -10, 5.2e6 - 240 * (i // 8))
        content = tiff(numbers(1), crs="EPSG:32633", transform=place)
        (root / f"tiles/t{i:02}.tif").write_bytes(content)
        rows.append(f"t{i:02},{int(np.random.default_rng(i).random() < 0.3)}")
    (root / "tiles/bad.tif").write_bytes(b"II*\0")
    (root / "labels.csv").write_text("\n".join([*rows, "bad,1"]))
    return root


def prepared(root, monkeypatch, capfd, *keys) -> tuple[int, str]:
    given = [f"images={root}/tiles", f"labels={root}/labels.csv", f"out={root}/{len(keys)}"]
    monkeypatch.setattr(sys, "argv", ["prepare", *given, *keys])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path("jobs/prepare.py", run_name="__main__")
    captured = capfd.readouterr()
    return int(ended.value.code or 0), captured.out + captured.err


def met_of(said: str) -> tuple[int, int]:
    """(tiles of val that meet train, tiles of val) as the summary says."""
    met, count = said.split("split: ")[2].split(" tiles of val")[0].split(" of ")
    return int(met), int(count)


def test_the_summary_says_how_many_tiles_meet(archive, monkeypatch, capfd):
    status, said = prepared(archive, monkeypatch, capfd, "split.val=0.25")
    met, count = met_of(said)
    assert (status, met) == (0, count)
    assert count in (16, 17)
    assert "split.by=ground" in said
    keys = ("split.by=ground", "split.block=1000", "split.val=0.25", "split.stratify=true")
    status, said = prepared(archive, monkeypatch, capfd, *keys)
    met, count = met_of(said)
    assert status == 0
    assert 10 <= count <= 22
    assert met < count
    assert "drawn by blocks of ground of 1000 m, seed 0, stratified" in said


def test_tiles_without_ground_are_refused_with_what_is_accepted(archive, monkeypatch, capfd):
    (archive / "tiles/t63.tif").write_bytes(tiff(numbers(1)))
    status, said = prepared(archive, monkeypatch, capfd, "split.by=ground", "split.block=500")
    assert status == 2
    assert "1 of 64 images have no georeference, e.g. t63.tif; accepted: images with a CRS" in said
    assert "split.group=COLUMN" in said
