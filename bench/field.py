"""Field cases: small inputs after public bug reports, run as a user would, a line each.

Those that are about labels, names or folders alone are tests.

`python -m bench field CASES [--only 03 13]`: CASES is a folder with a subfolder a case, each with
a `make.py` that writes its `in/`. The folder is copied first. A case is right, wrong (and says why)
or skipped where it is absent; the status is 1 where one is wrong. Most of the time is Ray's starts.
"""

import argparse
import glob
import json
import math
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from bench.processes import finished, need, start, verdict

Rows = list[dict[str, Any]]
SIMPLE = "variant.towers=[{name: rgb, backbone: simple_cnn, bands: [red, green, blue]}]"
BRIEF = ("stages.0.pseudo_epochs=2", "weights=none")


@dataclass(frozen=True)
class Case:
    """One case at work."""

    root: Path
    """The copied cases."""
    here: Path
    """This one's folder."""

    def make(self, *arguments: str) -> None:
        """Write `in/`."""
        command = [sys.executable, str(self.here / "make.py"), *arguments]
        subprocess.run(command, cwd=self.root, check=True, capture_output=True)

    def job(self, name: str, *keys: str, status: int | None = 0, **more: str) -> str:
        """Run a job in the case's folder; gives all that it printed."""
        return finished(start(name, *keys, cwd=self.here, env=more), status)

    def bundle(self) -> str:
        """A bundle of the base archive (`simple_cnn` on RGB), trained once."""
        base = Case(self.root, self.root / "00-base")
        out = base.here / "out/model"
        if not (base.here / "out/index/run.json").exists():
            base.make()
            base.job("prepare", "images=in/tiles", "labels=in/labels.csv", "out=out/index")
        if not (out / "run.json").exists():
            base.job("train", "index=out/index", SIMPLE, "weights=none", "out=out/model")
        return f"bundle={out}"

    def prepare(self, *keys: str, images: str = "in/tiles", out: str = "out/index") -> str:
        """Prepare the case's archive."""
        labels = () if any(k.startswith("labels=") for k in keys) else ("labels=in/labels.csv",)
        return self.job("prepare", f"images={images}", *labels, f"out={out}", *keys)

    def meta(self, out: str = "out/index") -> dict[str, Any]:
        """What an index says of all its tiles."""
        import pyarrow.parquet as pq

        schema = pq.read_schema(self.here / out / "index" / "tiles-00000.parquet")
        found: dict[str, Any] = json.loads(schema.metadata[b"satray"])
        return found

    def rows(self, path: str) -> Rows:
        """A Parquet file, or a folder of them, as dictionaries."""
        import pyarrow.parquet as pq

        found: Rows = pq.read_table(self.here / path).to_pylist()
        return found

    def items(self, out: str) -> dict[str, dict[str, Any]]:
        """STAC Items by id."""
        pattern = str(self.here / out / "items" / "**" / "*.json")
        found = [json.loads(Path(f).read_text()) for f in glob.glob(pattern, recursive=True)]
        return {item["id"]: item for item in found if item.get("type") == "Feature"}


def logits(rows: Rows, key: str = "scene") -> dict[str, list[float | None]]:
    """Logits of `ship` by scene or tile, in the table's order."""
    found: dict[str, list[float | None]] = {}
    for row in rows:
        found.setdefault(row[key], []).append(row["logit_ship"])
    return found


def equal(a: list[float | None], b: list[float | None], within: float = 1e-4) -> bool:
    """Whether two lists hold the same numbers, and nothing at the same places."""
    if len(a) != len(b) or any((x is None) != (y is None) for x, y in zip(a, b, strict=True)):
        return False
    pairs = [(x, y) for x, y in zip(a, b, strict=True) if x is not None and y is not None]
    return all(abs(x - y) <= within for x, y in pairs)


def case_01(at: Case) -> None:
    """Outlines over the antimeridian are cut there; areas are the control's."""
    import geopandas
    import shapely

    keys = (at.bundle(), "cam.classes=[ship]")
    at.job("score", *keys, "scenes=in/scenes", "out=out/maps")
    at.job("score", *keys, "tiles=in/tiles", "out=out/tiles")
    area = {}
    for name in ("ice.tif", "east.tif"):
        shapes = geopandas.read_parquet(at.here / f"out/maps/predictions/{name}.parquet").geometry
        parts = shapes.explode().bounds
        need((parts.maxx - parts.minx).max() < 1, f"{name}: a part wider than one degree")
        area[name] = shapes.to_crs(8857).area.sum()
    need(abs(area["ice.tif"] / area["east.tif"] - 1) < 0.05, f"areas {area}")
    item = at.items("out/maps")["ice.tif"]
    need(item["bbox"][0] > item["bbox"][2], f"bbox {item['bbox']}")
    need(shapely.geometry.shape(item["geometry"]).geom_type == "MultiPolygon", "one part")
    tiles = geopandas.read_parquet(at.here / "out/tiles/predictions").geometry.explode().bounds
    need((tiles.maxx - tiles.minx).max() < 1, "a tile wider than a degree")


def case_02(at: Case) -> None:
    """A fill declared for one band is none of its values; the control's figures."""
    found = {}
    for folder in ("tiles", "control"):
        at.prepare(images=f"in/{folder}", out=f"out/{folder}")
        found[folder] = {b["name"]: b for b in at.meta(f"out/{folder}")["statistics"]}
    nir = found["tiles"]["nir"]
    need(abs(nir["mean"] - 0.0435) < 5e-4 and nir["max"] < 0.4, f"nir: {nir}")
    need(found["tiles"] == found["control"], "other figures than with -9999")
    tower = "variant.towers=[{name: nir, backbone: simple_cnn, bands: [nir]}]"
    losses = []
    for folder in found:
        at.job("train", f"index=out/{folder}", tower, *BRIEF, f"out=out/net-{folder}")
        losses.append(json.loads((at.here / f"out/net-{folder}/metrics.json").read_text()))
    for name in ("train_loss", "val_loss"):
        a, b = (metrics["best"][name] for metrics in losses)
        need(np.isfinite(a) and a == b, f"{name} {a}, of the control {b}")


def case_03(at: Case) -> None:
    """A CRS alone is no place; control points and world files are used or named."""
    said = at.job("score", at.bundle(), "scenes=in/scenes", "cam.classes=[ship]", "out=out/maps")
    found = logits(at.rows("out/maps/predictions"))
    good = found["good.tif"]
    for name in ("crs_only.tif", "gcps.tif", "world.tif"):
        need(equal(good, found[name]), f"{name}: other logits than good.tif")
    items = at.items("out/maps")
    need(not items["crs_only.tif"]["properties"]["satray:georeferenced"], "crs_only: placed")
    notes = {r["scene"]: str(r["notes"]) for r in at.rows("out/maps/scenes.parquet")}
    for name, word in (
        ("crs_only.tif", "CRS"),
        ("gcps.tif", "control point"),
        ("world.tif", "world file"),
    ):
        placed = items[name]["properties"]["satray:georeferenced"]
        need(placed or word in notes[name] + said, f"{name}: not a word on its {word}")
        if placed:
            box, right = items[name]["bbox"], items["good.tif"]["bbox"]
            need(np.allclose(box, right, atol=1e-4), f"{name}: at {box}, not {right}")


def case_05(at: Case) -> None:
    """Nodata, mask and alpha say the same: figures, tiles' and scenes' scores."""
    kinds = ("nodata", "mask", "alpha")
    statistics = []
    for kind in kinds:
        at.prepare(f"labels=in/{kind}.csv", images=f"in/{kind}", out=f"out/{kind}")
        statistics.append(at.meta(f"out/{kind}")["statistics"][:4])
    need(statistics[0] == statistics[1] == statistics[2], "the figures differ")
    at.job("score", at.bundle(), "tiles=in", "out=out/tiles")
    at.job("score", at.bundle(), "scenes=in", "mode=tiles", "min_valid=0", "out=out/scenes")
    tiles = logits(at.rows("out/tiles/predictions"), "tile_id")
    scenes = logits(at.rows("out/scenes/predictions"))
    for i in range(8):
        wanted = tiles[f"nodata/t{i}"]
        for kind in kinds:
            need(equal(wanted, tiles[f"{kind}/t{i}"]), f"tile {kind}/t{i} differs")
            need(equal(wanted, scenes[f"{kind}/t{i}.tif"]), f"scene {kind}/t{i} differs")


def case_06(at: Case) -> None:
    """Tiles of a web map: the resolution is the ground's."""
    at.prepare()
    at.job("train", "index=out/index", SIMPLE, *BRIEF, "out=out/model")
    model = json.loads((at.here / "out/model/bundle/model.json").read_text())
    at.job("score", "bundle=out/model", "scenes=in/scenes", "out=out/maps")
    tiles = {(r["height"], r["width"]) for r in at.rows("out/maps/predictions")}
    need(tiles == {(64, 64)}, f"tiles of {tiles} stored px; the bundle says {model['resolution']}")


def case_07(at: Case) -> None:
    """A band a page: four bands, or a refusal that tells pages from bands."""
    said = at.prepare()
    need(len(at.meta()["bands"]) == 4 or "page" in said, f"bands {at.meta()['bands']}")
    at.prepare("bands=[blue,green,red,nir]", out="out/named")
    need(at.meta("out/named")["bands"] == ["blue", "green", "red", "nir"], "names")
    means = [b["mean"] for b in at.meta("out/named")["statistics"]]
    need(means[2] > means[0] > means[3], f"means {means}")


def case_08(at: Case) -> None:
    """Codecs, byte orders, layouts: figures are numpy's, logits the array's."""
    import satray

    at.prepare()
    wanted = json.loads((at.here / "in/stats.json").read_text())
    for band in at.meta()["statistics"]:
        mean, std = wanted[band["name"]]
        need(
            abs(band["mean"] / mean - 1) < 1e-9 and abs(band["std"] / std - 1) < 1e-9, band["name"]
        )
    need(not at.rows("out/index/quarantine.parquet"), "tiles set aside")
    bundle = at.bundle()
    at.job("score", bundle, "tiles=in/tiles", "out=out/scores")
    model = satray.load(bundle.removeprefix("bundle="))
    order = [("blue", "green", "red", "nir").index(b) for b in model.bands]
    right = model.predict(np.load(at.here / "in/truth.npy")[:, order]).logits[:, 0]
    got = logits(at.rows("out/scores/predictions"), "tile_id")
    for i, value in enumerate(right):
        need(equal(got[f"site {i % 3}/t{i:03d}"], [float(value)]), f"t{i:03d} differs")


def case_10(at: Case) -> None:
    """Weights of another architecture end with status 2, in `--plan` too."""
    base = at.root / "00-base"
    at.bundle()
    common = (f"index={base}/out/index", "variant=single3", "stages.0.pseudo_epochs=1")
    for name, fits in (
        ("dataparallel.pth", True), ("lightning.ckpt", True), ("whole_module.pth", False),
        ("omegaconf_like.ckpt", False), ("stem4.pth", False), ("resnet34.pth", False),
    ):  # fmt: skip
        said = at.job("train", *common, f"weights=in/{name}", "--plan", status=0 if fits else 2)
        need(fits or name in said, f"{name}: {said.strip().splitlines()[-1]}")


def case_11(at: Case) -> None:
    """A class that is positive on every validation tile has no AP."""
    at.prepare("error_budget=0.1")  # one of 13 tiles is set aside
    said = at.job("train", "index=out/index", SIMPLE, "batch=8", *BRIEF, "out=out/model")
    need(not re.search(r"\bnan\b", said, re.IGNORECASE), "a line says nan")
    text = (at.here / "out/model/metrics.json").read_text()
    need("NaN" not in text, "metrics.json is no JSON")
    best = json.loads(text)["best"]
    need(best["ap"]["ship"] is None, f"AP of a class without negatives: {best['ap']}")
    need(best["classes_counted"] == 1, f"{best['classes_counted']} classes are counted")


def case_12(at: Case) -> None:
    """South-up, rotated, feet, tiny, void, half, odd names."""
    keys = ("scenes=in/scenes", "cam.classes=[ship]", "out=out/maps", "error_budget=1")
    at.job("score", at.bundle(), *keys)
    found = logits(at.rows("out/maps/predictions"))
    for name in ("sub/north.tif", "point.tif", "a #1 50%25 é+b.tif"):
        need(equal(found["north.tif"], found[name]), f"{name} differs from north.tif")
    need(all(v is None for v in found["void.tif"]), "void.tif has scores")
    rows = at.rows("out/maps/predictions")
    half = {r["col"]: r["logit_ship"] for r in rows if r["scene"] == "half.tif"}
    need(half[256] is None and half[0] is not None, f"half.tif: {half}")
    need("tiny.tif" in {r["scene"] for r in at.rows("out/maps/scenes.parquet")}, "no tiny.tif")
    need(len(found["feet.tif"]) == len(found["north.tif"]), "feet.tif is resampled")
    ships = json.loads((at.here / "in/truth.json").read_text())["ships"]
    for name in ("north", "south", "rotated", "wide px", "feet", "half"):
        points = at.rows(f"out/maps/detections/{quote(name)}.tif.parquet")
        wide, turned = 2 if name == "wide px" else 1, name == "south"
        for row, col in ships[: 1 if name == "half" else 2]:
            right = (256 - row if turned else row, col / wide)
            near = [math.dist((r["row"], r["col"]), right) < 12 for r in points]
            need(any(near), f"{name}: no detection near {right}")
        need(name != "half" or all(r["col"] < 160 for r in points), "half.tif: one beyond its data")


def case_13(at: Case) -> None:
    """Items' scale and offset: both baselines give the same logits."""
    at.prepare()
    at.job("train", "index=out/index", SIMPLE, "batch=16", *BRIEF, "out=out/model")
    at.job("score", "bundle=out/model", "scenes=in/scenes", "out=out/maps")
    found = logits(at.rows("out/maps/predictions"))
    need(equal(found["old_baseline"], found["new_baseline"]), f"{found}")


def case_20(at: Case) -> None:
    """Tiles that were overwritten after `prepare` are said."""
    at.prepare()
    time.sleep(1.1)
    at.make("again")
    keys = ("index=out/index", SIMPLE, "batch=8", *BRIEF, "out=out/model")
    for more in ((), ("--plan",)):
        said = at.job("train", *keys, *more, status=2)
        need("changed" in said and "prepare" in said, said[-300:])


def case_22(at: Case) -> None:
    """A CRS without a datum stays what the file says."""
    import pyproj
    import rasterio

    at.job("score", at.bundle(), "scenes=in/scenes", "cam.classes=[ship]", "out=out/maps")
    items = at.items("out/maps")
    for name in ("bessel51", "hayford20s", "sinusoidal"):
        with (
            rasterio.open(at.here / f"in/scenes/{name}.tif") as scene,
            rasterio.open(at.here / f"out/maps/cam/{name}.tif.tif") as cam,
        ):
            need(scene.crs == cam.crs, f"{name}: {cam.crs}")
            way = pyproj.Transformer.from_crs(scene.crs.to_wkt(), "OGC:CRS84", always_xy=True)
        properties = items[f"{name}.tif"]["properties"]
        need(properties.get("proj:code") is None and properties.get("proj:wkt2"), f"{name}: Item")
        for row in at.rows(f"out/maps/detections/{name}.tif.parquet"):
            there = way.transform(row["x"], row["y"])
            off = pyproj.Geod(ellps="WGS84").inv(*there, row["lon"], row["lat"])[2]
            need(off < 1, f"{name}: {off:.0f} m off")


def case_23(at: Case) -> None:
    """Maps cover their tiles, whatever the shape."""
    import rasterio

    keys = ("tiles=in/tiles", "cam.classes=[ship]", "out=out/scores")
    at.job("score", at.bundle(), *keys)
    for path in sorted((at.here / "in/tiles").glob("*.tif")):
        with (
            rasterio.open(path) as tile,
            rasterio.open(at.here / f"out/scores/cam/{path.stem}__rgb.tif") as cam,
        ):
            need(tile.crs == cam.crs, f"{path.stem}: CRS")
            far = ~tile.transform @ (cam.transform @ (cam.width, cam.height))
            need(np.allclose(far, (tile.width, tile.height), atol=1), f"{path.stem}: ends at {far}")


CASES = {name[5:]: made for name, made in list(globals().items()) if name.startswith("case_")}


def main(arguments: list[str]) -> int:
    """Run the cases; 0 where none is wrong."""
    parser = argparse.ArgumentParser(prog="python -m bench field", description=__doc__)
    parser.add_argument("cases", type=Path, help="folder of the cases")
    parser.add_argument("--only", nargs="*", help="numbers of the cases to run")
    parser.add_argument("--keep", type=Path, help="work here, and leave all there")
    options = parser.parse_args(arguments)
    root = options.keep or Path(tempfile.mkdtemp(prefix="field-"))
    if options.cases.is_dir():
        shutil.copytree(options.cases, root, dirs_exist_ok=True, copy_function=shutil.copyfile)
    for folder in [root, *root.rglob("*")]:
        if folder.is_dir():
            folder.chmod(0o755)
    good = True
    for number, function in CASES.items():

        def one(number: str = number, function: Callable[[Case], None] = function) -> None:
            found = sorted(root.glob(f"{number}-*"))
            if not found:
                raise NotImplementedError("it is not there")
            at = Case(root, found[0])
            at.make()
            function(at)

        if not options.only or number in options.only:
            good &= verdict(f"{number}: {(function.__doc__ or '').strip()}", one)
    if options.keep is None:
        shutil.rmtree(root)
    return int(not good)
