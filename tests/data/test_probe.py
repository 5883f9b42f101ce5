import numpy as np
import pytest
from data.hostile import numbers, pillow, tiff
from PIL import Image

from satray.data.probe import TILES, Kind, probe, total
from satray.data.statistics import COUNTS, summarise
from satray.storage import Storage


@pytest.fixture
def archive(tmp_path):
    """Twelve tiles: ten of one kind, one gray, one broken."""
    uris = []
    for i in range(12):
        path = tmp_path / f"{i:02d}.tif"
        if i == 4:
            path.write_bytes(b"<html>")
        elif i == 7:
            path.write_bytes(pillow(Image.new("L", (8, 8), 9), "PNG"))
        else:
            path.write_bytes(tiff(numbers(3, dtype="float32") * (i + 1)))
        uris.append(str(path))
    return uris


def run(uris, counted, cut):
    rows = list(range(len(uris)))
    parts = [
        probe(
            rows[i : i + cut],
            uris[i : i + cut],
            counted[i : i + cut],
            Storage(),
            None,
            [False] * cut,
        )
        for i in range(0, len(uris), cut)
    ]
    return total(reversed(parts))


def test_how_tiles_are_grouped_does_not_show(archive):
    counted = [i % 3 != 2 for i in range(12)]
    whole, pieces = run(archive, counted, 12), run(archive, counted, 5)
    assert whole.tiles.equals(pieces.tiles)
    assert whole.tiles.schema == TILES
    assert whole.tiles.column("row").to_pylist() == list(range(12))
    for kind, bands in whole.bands().items():
        for a, b in zip(bands, pieces.bands()[kind], strict=True):
            assert summarise("b", a) == summarise("b", b)


def test_counts_the_train_part_only(archive):
    counted = [i in (0, 1, 4) for i in range(12)]
    bands = run(archive, counted, 4).bands()[Kind(("b1", "b2", "b3"), "float32"), ()]
    x = numbers(3, dtype="float32").astype(np.float64)
    want = np.concatenate([x, (x.astype(np.float32) * 2).astype(np.float64)], axis=1)
    assert [summarise("b", b).mean for b in bands] == pytest.approx(list(want.mean(axis=(1, 2))))
    assert bands[0].valid == 2 * 24 * 32


def test_a_bad_tile_costs_one_row(archive):
    probed = run([*archive, "/nowhere/at/all.tif"], [True] * 13, 13)
    bad = {s["row"]: (s["stage"], s["error"]) for s in probed.tiles.to_pylist() if s["error"]}
    assert set(bad) == {4, 12}
    assert bad[4][0] == "decode"
    assert "<html>" in bad[4][1]
    assert bad[12][0] == "read"
    assert set(probed.kinds().values()) == {10, 1}


def test_nothing_is_nothing():
    for nothing in (total([]), probe([], [], [], Storage(), None, [])):
        assert (len(nothing.tiles), len(nothing.counts)) == (0, 0)
        assert (nothing.tiles.schema, nothing.counts.schema) == (TILES, COUNTS)
        assert (nothing.kinds(), nothing.bands()) == ({}, {})
