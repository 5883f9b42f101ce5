"""The job prepare on small archives, in this process; and on Ray, which makes the same."""

import io
import json
import re
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data.hostile import numbers, tiff
from rasterio import Affine

from satray.config.prepare import PrepareRecipe
from satray.data import probe
from satray.data.decode import decode
from satray.data.index import read_index
from satray.data.prepare import plan, read, takes_ray, work
from satray.data.read import errors_of, read_blocks, tile_source, to_torch
from satray.errors import InputError
from satray.runs.job import Job, main
from satray.runs.run import Outcome, Run
from satray.storage import Storage

JOB = Job("prepare", PrepareRecipe, read, plan, work, ray=takes_ray, workers=False)
NAMES = ("blue", "green", "red", "nir")


def make_archive(root: Path, n: int = 30, dtype: str = "uint16") -> dict[str, np.ndarray]:
    """Tiles in the manner of Planet's: four bands, the last tagged alpha, and a tags table."""
    (root / "images").mkdir(parents=True)
    pixels, rows = {}, ["image_name,tags"]
    for i in np.random.default_rng(0).permutation(n):
        x_CHW = (numbers() // 10 + np.uint16(100 * i)).astype(dtype)
        if x_CHW.dtype.kind == "f":
            x_CHW /= 7
        pixels[f"tile_{i}"] = x_CHW
        (root / f"images/tile_{i}.tif").write_bytes(tiff(x_CHW, photometric="RGB", alpha="YES"))
        rows.append(f"tile_{i}," + ("clear primary" if i % 2 else "haze water"))
    (root / "labels.csv").write_text("\n".join(rows))
    return pixels


def prepare(root: Path, out: str = "out", *, ray=False, **keys) -> tuple[Run, Outcome]:
    keys = {"bands": NAMES, "labels": str(root / "labels.csv")} | keys
    recipe = PrepareRecipe(images=str(root / "images"), **keys)
    run = Run("prepare", "0" * 12, str(root / out), Storage(), ray=ray)
    return run, work(recipe, read(recipe, run.storage), run)


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> tuple[Path, dict[str, np.ndarray]]:
    root = tmp_path_factory.mktemp("archive")
    return root, make_archive(root)


def quarantine(run: Run) -> list[dict[str, str]]:
    return pq.read_table(io.BytesIO(run.storage.read(run.uri("quarantine.parquet")))).to_pylist()


def test_the_index_tells_the_truth(archive):
    root, pixels = archive
    run, outcome = prepare(root)
    index = read_index(run.uri("index"), Storage())
    assert outcome.status == 0
    assert outcome.counts["tiles"] == len(index) == 30
    assert index.split_counts == {"train": 24, "val": 6}
    assert (index.meta.task, index.meta.dtype) == ("multilabel", "uint16")
    assert (index.meta.bands, index.meta.tile_shape) == (NAMES, (24, 32))

    names = index.part("train").table["tile_id"].to_pylist()
    train = np.concatenate([pixels[t].reshape(4, -1) for t in names], axis=1).astype(np.float64)
    for band, x in zip(index.meta.statistics, train, strict=True):
        assert (band.valid, band.min, band.max) == (x.size, x.min(), x.max())
        assert band.mean == pytest.approx(x.mean(), rel=1e-12)
        assert band.std == pytest.approx(x.std(), rel=1e-10)
        for percent, value in band.percentiles.items():
            assert value == pytest.approx(np.percentile(x, float(percent)))
    for row, labels in zip(index.table.to_pylist(), index.labels, strict=True):
        odd = int(row["tile_id"].split("_")[1]) % 2
        present = {c for c, on in zip(index.meta.classes, labels, strict=True) if on}
        assert present == ({"clear", "primary"} if odd else {"haze", "water"})
        assert (row["height"], row["width"]) == pixels[row["tile_id"]].shape[1:]
        assert row["bytes"] == Path(row["uri"]).stat().st_size
    summary = json.loads(run.storage.read(run.uri("summary.json")))
    assert summary["splits"]["train"]["tiles"] == 24
    assert summary["all"]["positives"] == {"clear": 15, "haze": 15, "primary": 15, "water": 15}
    assert quarantine(run) == []


def products(run: Run) -> dict[str, bytes]:
    return {p.path: run.storage.read(run.uri(p.path)) for p in run.products}


@pytest.mark.pipeline
def test_on_ray_every_product_is_the_same_to_the_byte(tmp_path, ray_session):
    make_archive(tmp_path)
    (tmp_path / "images/tile_1.tif").write_bytes(b"")
    (tmp_path / "images/tile_3.tif").write_bytes(tiff(numbers(4, dtype="int16")))
    runs = [prepare(tmp_path, out=f"ray-{ray}", ray=ray) for ray in (True, False)]
    assert products(runs[0][0]) == products(runs[1][0])
    lines = [outcome.summary[:-1] for _, outcome in runs]  # the last has the seconds
    assert lines[0] == lines[1]


def test_small_archives_need_neither_ray_nor_torch(archive, tmp_path):
    root, _ = archive
    code = (
        "import sys; from satray.data.prepare import *; from satray.runs.job import Job, main\n"
        f"job = Job('prepare', PrepareRecipe, read, plan, work, ray=takes_ray)\n"
        f"status = main(job, ['images={root}/images', 'labels={root}/labels.csv', "
        f"'out={tmp_path}/out'])\n"
        "sys.exit(status or 10 * bool({'ray', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "30 have one more band, tagged alpha" in done.stdout


class EndedError(Exception):
    """In place of a machine that goes down."""


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_a_run_that_goes_on_reads_what_is_not_read_yet(tmp_path, dtype):
    make_archive(tmp_path, dtype=dtype)
    recipe = PrepareRecipe(
        images=str(tmp_path / "images"),
        labels=str(tmp_path / "labels.csv"),
        bands=NAMES,
        resources={"read_tasks": 1},
    )
    found = read(recipe, Storage())

    def run(out, progress=lambda line: None):
        return Run(
            "prepare", "0" * 12, str(tmp_path / out), Storage(), progress=progress, ray=False
        )

    def ends(line: str) -> None:
        if line.startswith("12 of 30 images"):
            raise EndedError

    whole = run("whole")
    work(recipe, found, whole)
    with pytest.raises(EndedError):
        work(recipe, found, run("stopped", ends))
    again = run("stopped")
    blocks = sorted((Path(again.state) / "blocks").iterdir())
    for torn, size in zip(blocks, (0, 400, -100), strict=False):  # by a disk that lost power
        torn.write_bytes(torn.read_bytes()[:size])
    for uri in found.tiles["uri"].to_pylist()[3:12]:  # they would be unreadable now
        Path(uri).write_bytes(b"")
    (blocks[0].parent / "0000000020-0000000029.arrow").write_bytes(b"of another cut")
    work(recipe, found, again)
    assert products(again) == products(whole)


def test_a_block_takes_the_memory_of_few_tiles_counts(tmp_path):
    """A band of 16-bit noise has a count for nearly every pixel."""
    make_archive(tmp_path)
    random = np.random.default_rng(0)
    for path in (tmp_path / "images").iterdir():
        path.write_bytes(tiff(random.integers(0, 1 << 16, (4, 48, 48), np.uint16)))
    recipe = PrepareRecipe(images=str(tmp_path / "images"), labels=str(tmp_path / "labels.csv"))
    tiles = read(recipe, Storage()).tiles
    peaks = []
    for times in (1, 4):
        block = probe.block_of(pa.concat_tables([tiles] * times), 0, 30 * times)
        tracemalloc.start()
        probe.probe_block(block, recipe, Storage())
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 2 * peaks[0]


def test_bad_images_and_those_of_another_kind_cost_a_row_each(tmp_path):
    make_archive(tmp_path)
    images = tmp_path / "images"
    good = (images / "tile_0.tif").read_bytes()
    broken = bytearray(tiff(numbers()))
    broken[154] = 1  # the next directory is in the middle of nowhere
    for i, data in enumerate(
        (good[: len(good) // 2], b"", b"<html>not found</html>", bytes(broken))
    ):
        (images / f"tile_{i}.tif").write_bytes(data)
    (images / "tile_5.tif").write_bytes(tiff(numbers(4, dtype="int16")))
    keys = {"labels": str(tmp_path / "labels.csv"), "bands": NAMES, "error_budget": 0.1}
    recipe = PrepareRecipe(images=str(images), **keys)
    run = Run("prepare", "0" * 12, str(tmp_path / "out"), Storage(), ray=False)
    found = read(recipe, run.storage)
    (images / "tile_4.tif").unlink()
    outcome = work(recipe, found, run)
    assert (outcome.attempted, outcome.failed, outcome.status) == (30, 6, 3)
    assert prepare(tmp_path, out="lenient", error_budget=0.2, unmatched_budget=1)[1].status == 0
    rows = {Path(r["uri"]).stem: (r["stage"], r["error"]) for r in quarantine(run)}
    says = {
        "tile_0": ("decode", ""), "tile_1": ("decode", "empty"), "tile_2": ("decode", "<html>"),
        "tile_3": ("decode", "TIFF cannot be read: "), "tile_4": ("read", ""),
        "tile_5": ("mixed", "int16; most have 4 bands (blue, green, red, nir) uint16"),
    }  # fmt: skip
    assert set(rows) == set(says)
    for name, (stage, error) in rows.items():
        assert stage == says[name][0]
        assert says[name][1] in error
    assert any(line.startswith("set aside: 1 (mixed; ") for line in outcome.summary)
    index = read_index(run.uri("index"), Storage())
    assert (len(index), index.meta.dtype) == (24, "uint16")


def test_masks_beside_tiles_hide_and_fills_are_told_by_their_share(tmp_path):
    """Nothing below a `.msk` is counted or trained on; many px of one value at an end are told."""
    make_archive(tmp_path, n=8)
    shown = np.full((1, 24, 32), 255, np.uint8)
    shown[:, :6] = 0
    for path in sorted((tmp_path / "images").glob("*.tif")):
        x_CHW = decode(path.read_bytes(), bands=NAMES).pixels.copy()
        x_CHW[:, :6] = 31_000
        x_CHW[3, 20:] = 65_535
        path.write_bytes(tiff(x_CHW, photometric="RGB", alpha="YES"))
        (path.parent / f"{path.name}.msk").write_bytes(tiff(shown))
    run, outcome = prepare(tmp_path)
    index = read_index(run.uri("index"), Storage())
    assert index.table["mask"].to_pylist() == [True] * 8
    assert index.meta.named
    train = index.split_counts["train"]
    assert {band.valid for band in index.meta.statistics} == {train * 18 * 32}
    assert max(band.max for band in index.meta.statistics[:3]) < 31_000
    (line,) = (line for line in outcome.summary if line.startswith("  nir: "))
    assert "max 65535 (22.2% of px)" in line
    source = tile_source(index, "train", ("red", "blue"), Storage())
    (table,) = read_blocks(source, train)
    pixels = to_torch(table)["pixels"].numpy()
    assert errors_of(table) == {}
    assert pixels.max() < 31_000
    # another mask is another archive
    recipe = PrepareRecipe(images=str(tmp_path / "images"), labels=str(tmp_path / "labels.csv"))
    before = read(recipe, Storage()).digests
    next((tmp_path / "images").glob("*.msk")).unlink()
    assert read(recipe, Storage()).digests["images"] != before["images"]


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        (["images={root}/nothing"], "images=.*nothing: holds nothing"),
        (["images={root}/empty"], "images=.*empty: holds "),
        (["images={root}/images/tile_1.tif"], "tile_1.tif: is one file; accepted: a folder or pr"),
        (["images={root}/twins", "labels={root}/twins.csv"], r"t3\.(png|tif).*t3\.(png|tif)"),
        (
            ["images={root}/bad", "labels={root}/twins.csv", "split.val=0"],
            "none of 1 images can be read; t3.tif: .*",
        ),
        (["labels={root}/images/tile_1.tif"], "labels=|tile_1.tif"),
        (["labels={root}/missing.csv"], "missing.csv"),
        (["key_column=nope"], "no column .nope.; columns: image_name, tags"),
        (["classes=[plane]"], "no class 'plane'"),
        (["split.by=column"], "split.column"),
    ],
)
def test_wrong_input_ends_in_one_line_and_writes_nothing(archive, capfd, keys, says):
    root, _ = archive
    (root / "empty").mkdir(exist_ok=True)
    for path in ("twins/t3.tif", "twins/t3.png", "bad/t3.tif"):
        (root / path).parent.mkdir(exist_ok=True)
        (root / path).write_bytes(b"x")
    (root / "twins.csv").write_text("image,ship\nt3,1\n")
    out = root / "wrong"
    given = [f"images={root}/images", f"labels={root}/labels.csv", f"out={out}"]
    status = main(JOB, [*given, *(k.format(root=root) for k in keys)])
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("prepare: ")]
    assert status == 2
    assert not any(path.suffix in (".parquet", ".arrow") for path in out.rglob("*"))
    assert len(lines) == 1
    assert re.search(says, lines[0]), lines


def test_plan_opens_little_and_writes_nothing(archive, capfd):
    root, _ = archive
    before = sorted(root.rglob("*"))
    arguments = [f"images={root}/images", f"labels={root}/labels.csv", "bands=[blue,green,red,nir]"]
    assert main(JOB, [*arguments, "--plan"]) == 0
    text = capfd.readouterr().out
    assert text.count(", in this process\n") == 1
    assert "30 labelled" in text
    assert "train 24, val 6" in text
    assert "4 bands (blue, green, red, nir) uint16 (3 of 3 opened)" in text
    assert sorted(root.rglob("*")) == before


def test_a_split_by_ground_is_told_with_how_many_tiles_meet_and_needs_ground(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    rows = ["tile,ship"]
    for i in range(64):  # a scene of 8 x 8 tiles of 24 x 32 px of 10 m
        place = Affine(10, 0, 5e5 + 320 * (i % 8), 0, -10, 5.2e6 - 240 * (i // 8))
        data = tiff(numbers(1), crs="EPSG:32633", transform=place)
        (images / f"t{i:02}.tif").write_bytes(data)
        rows.append(f"t{i:02},{i % 3 // 2}")
    (images / "bad.tif").write_bytes(b"II*\0")
    (tmp_path / "labels.csv").write_text("\n".join([*rows, "bad,1"]))
    ground = {"by": "ground", "block": 1000, "val": 0.25}

    def said(out: str, split: dict[str, object]) -> str:
        return "\n".join(prepare(tmp_path, out, bands=None, split=split)[1].summary)

    drawn = said("a", {"val": 0.25})
    assert re.search(r"split: (1\d) of \1 tiles of val touch .*split\.by=ground", drawn)
    met, count = re.search(r"split: (\d+) of (\d+) tiles of val touch", said("b", ground)).groups()
    assert int(met) < int(count)
    for split, requests in (({"val": 0.25}, 65), (ground, 130)):
        recipe = PrepareRecipe(images=str(images), labels=str(tmp_path / "labels.csv"), split=split)
        lines = "\n".join(plan(recipe, read(recipe, Storage()), Storage()))
        assert f"of each: {requests} requests, " in lines
        assert ("split: the run says how many" in lines) == (split is not ground)
    assert f"split: {met} of {count} tiles of val touch" in lines
    (images / "t63.tif").write_bytes(tiff(numbers(1)))
    with pytest.raises(InputError, match=r"1 of 64 images have no georeference, e\.g\. t63"):
        prepare(tmp_path, "c", bands=None, split=ground)
