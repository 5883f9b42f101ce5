"""Detections on scenes whose ships are known, and windows against tiles on trained bundles.

Scenes: the demo's own, and coasts of other seeds by the same generator, scored by the networks that
`jobs/demo.py` trained, through `jobs/score.py`. A ship is known where 0.6 of its hull is seen; one
of which between 0.15 and 0.6 is seen counts neither for nor against. A detection of class `ship`
matches a known ship that is near enough, each ship once, the likeliest detection first. Near is, in
the strict reading, half the ship's length and half a cell; in the loose one, a quarter of a tile.
The error is the distance from a matched detection's ground coordinates to the ship's centre.

`--trained BUNDLE=SCENES`: all tiles of the scenes at a stride of half a tile, in windows and one by
one, and Spearman's rank correlation of the logits, by class. SCENES is a prefix of rasters, `demo`
for the first coast above, or `mosaic:IMAGES`: 256 of the images of a folder side by side.
"""

import argparse
import json
import shutil
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.warp import transform as reproject

from bench.scenes import processes

OWN, COAST = 768, 1536
"""Sides of the demo's scene and of the others, px."""
NETWORKS = ("simple_cnn", "double4_small")
KEYS = {
    "plain": (),
    "anywhere": ("detections.within=scene",),
    "demo": ("cam.classes=[ship]", "stride=0.5", "detections.distance=0.125"),
}
"""Without keys; points also in tiles that are not given the class; as the demo scores its scene."""
KNOWN, UNSURE = 0.6, 0.15
ACROSS = 16
"""Images of a mosaic along a side."""


def run(given: argparse.Namespace) -> dict[str, Any]:
    """Measure and print tables."""
    out = given.out.absolute()
    shutil.rmtree(out, ignore_errors=True)
    demo = given.demo.absolute()
    truth = write_scenes(out / "scenes", given.scenes)
    count = sum(seen >= KNOWN for ships in truth.values() for _, seen in ships)
    px = OWN**2 + given.scenes * COAST**2
    print(f"{len(truth)} scenes, {px / 1e6:.1f} Mpx, {count} known ships\n")
    print("| network | keys | near | detections | precision | recall | median error, px |")
    print("|---|---|---|---:|---:|---:|---:|")
    rows = []
    for name in NETWORKS:
        bundle = demo / f"train-{name}"
        model = json.loads((bundle / "bundle" / "model.json").read_text())
        cell = min(grid["stride"] for grid in model["grids"].values())
        for label, keys in KEYS.items():
            folder = out / f"{name}-{label}"
            _score(bundle, out / "scenes", folder, *keys)
            for near, reach in (("strict", None), ("loose", model["size"] / 4)):
                found = against(folder, truth, cell, reach)
                rows.append({"network": name, "keys": keys, "near": near, **found})
                error = found["error"]
                print(
                    f"| {name} | {label} | {near} | {found['detections']} "
                    f"| {found['precision']:.3f} | {found['recall']:.3f} | {error:.2f} |",
                    flush=True,
                )
    figures: dict[str, Any] = {"scenes": len(truth), "ships": count, "rows": rows}
    figures["agreement"] = [_agreement(pair, out, n) for n, pair in enumerate(given.trained)]
    return figures


def write_scenes(folder: Path, count: int) -> dict[str, list[tuple[Any, float]]]:
    """Write the demo's scene and those of other seeds; scene -> ships (in its px) and shares."""
    from satray.demo.generator import geotiff
    from satray.demo.truth import scene_window

    folder.mkdir(parents=True)
    truth = {}
    for seed in range(count + 1):
        window = scene_window(COAST if seed else OWN, seed)
        name = f"coast-{seed}.tif"
        (folder / name).write_bytes(geotiff(window.pixels, window.transform, blocks=256))
        truth[name] = [
            ((ship.row - window.row, ship.col - window.col, ship.length), seen)
            for ship, seen in window.ships
        ]
    return truth


def _score(bundle: Path, scenes: Path, out: Path, *keys: str) -> None:
    processes.job(
        "jobs/score.py", f"bundle={bundle}", f"scenes={scenes}", f"out={out}", "overwrite=true",
        *keys,
    )  # fmt: skip


def against(
    folder: Path, truth: dict[str, list[tuple[Any, float]]], cell: float, reach: float | None
) -> dict[str, Any]:
    """Precision, recall and median error of a run's detections of ships."""
    import pyarrow.parquet as pq

    hits, claimed, known, errors = 0, 0, 0, []
    for scene, ships in truth.items():
        table = pq.read_table(next((folder / "detections").glob(f"{scene}*.parquet")))
        found = [row for row in table.to_pylist() if row["class"] == "ship"]
        ground = rasterio.open(folder.parent / "scenes" / scene)
        free = set(range(len(ships)))
        known += sum(seen >= KNOWN for _, seen in ships)
        for row in sorted(found, key=lambda row: -row["score"]):
            lon, lat = row["lon"], row["lat"]
            # the way that a reader of GeoJSON goes: from longitude and latitude to the ground
            x, y = (v[0] for v in reproject("OGC:CRS84", ground.crs, [lon], [lat]))
            col, line = ~ground.transform @ (x, y)
            near = []
            for n in free:
                (ship_row, ship_col, length), seen = ships[n]
                gap = float(np.hypot(line - ship_row, col - ship_col))
                if seen >= UNSURE and gap <= (length / 2 + cell / 2 if reach is None else reach):
                    near.append((gap, n, seen))
            if not near:
                claimed += 1
                continue
            gap, n, seen = min(near)
            free.remove(n)
            if seen >= KNOWN:
                hits, claimed = hits + 1, claimed + 1
                errors.append(gap)
    return {
        "detections": claimed,
        "hits": hits,
        "precision": hits / claimed if claimed else float("nan"),
        "recall": hits / known,
        "error": statistics.median(errors) if errors else float("nan"),
    }


def _agreement(pair: str, out: Path, number: int) -> dict[str, Any]:
    """Windows against tiles of one bundle."""
    import pyarrow.parquet as pq

    from satray.scoring.dense.compare import compare
    from satray.scoring.predictions import Numbers, matrix

    bundle, _, scenes = pair.partition("=")
    place = out / "scenes" / "coast-1.tif" if scenes == "demo" else Path(scenes)
    if scenes.startswith("mosaic:"):
        place = write_mosaic(Path(scenes.removeprefix("mosaic:")), out / f"mosaic-{number}")
    tables = {}
    for mode in ("dense", "tiles"):
        folder = out / f"agreement-{number}-{mode}"
        _score(Path(bundle).absolute(), place.absolute(), folder, f"mode={mode}", "stride=0.5")
        tables[mode] = pq.read_table(folder / "predictions").sort_by("tile_id")
    assert tables["dense"]["tile_id"] == tables["tiles"]["tile_id"]
    classes = [c[6:] for c in tables["dense"].column_names if c.startswith("logit_")]
    both = []
    for table in tables.values():
        logits, preds = (matrix(table, kind, tuple(classes)) for kind in ("logit", "pred"))
        both.append(Numbers(logits.astype(np.float32), logits, preds.astype(np.float32)))
    found = compare(both[0], both[1], classes)
    print(f"\n{bundle} on {scenes}: {found[0].tiles} tiles, stride 1/2\n")
    print("| class | rank correlation | logits differ by (median) | decided alike |")
    print("|---|---:|---:|---:|")
    for one in found:
        rho = one.rank_correlation
        print(f"| {one.name} | {'none' if rho is None else f'{rho:.3f}'} | {one.logit_median:.2f} "
              f"| {one.decisions:.1%} |")  # fmt: skip
    rhos = [one.rank_correlation for one in found if one.rank_correlation is not None]
    print(f"median over classes: {statistics.median(rhos):.3f}", flush=True)
    return {
        "bundle": bundle, "scenes": scenes, "tiles": found[0].tiles,
        "median": statistics.median(rhos), "rank": {o.name: o.rank_correlation for o in found},
    }  # fmt: skip


def write_mosaic(images: Path, folder: Path) -> Path:
    """A scene of images of one size, by name, spread over all of a folder's."""
    names = sorted(path for path in images.rglob("*") if path.is_file())
    tiles = []
    for n in range(ACROSS**2):
        with rasterio.open(names[n * len(names) // ACROSS**2]) as file:
            tiles.append(file.read())
    rows = [np.concatenate(tiles[n : n + ACROSS], 2) for n in range(0, ACROSS**2, ACROSS)]
    pixels = np.concatenate(rows, 1)
    folder.mkdir(parents=True)
    count, height, width = pixels.shape
    with rasterio.open(
        folder / "mosaic.tif", "w", driver="GTiff", dtype=pixels.dtype, count=count, height=height,
        width=width, tiled=True, compress="deflate", photometric="rgb",
    ) as file:  # fmt: skip
        file.write(pixels)
    return folder
