"""Pooling: average against maximum (or log-sum-exp) on one label, and where their maps point.

Three measurements, each with the same recipe but for `pooling`:

- `ship`: one label of real tiles, ship or no ship: AUC and accuracy on the validation split;
- `demo`: the demo's tiles: AUC of its ships on the test split, and the pointing game there, against
  the boxes that the generator knows;
- `airbus`: the pointing game of the `ship` networks, or of `--bundles` as they are, on windows of
  the Airbus competition's images, against the boxes of its masks. Windows overlap and show five
  ships, so they are not independent: the figure says which way it points, no more.

Trainings that are done already are found done.
"""

import argparse
import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray

from bench.ablation import COMMON, run
from satray.demo.pointing import Box, Point, Score, play, total

DEMO = (
    "variant=simple_cnn", "weights=none", "input.size=64", "batch=32",
    "stages.0.learning_rate=3e-3", "stages.0.pseudo_epochs=12",
)  # fmt: skip
STEP = 32
"""Rows and columns from one Airbus window to the next, px."""
CUT = 0.9
"""A window counts where each ship in it is there to this share, or not at all."""


def pointed(
    classifier: Any, tiles: NDArray[Any], boxes: list[list[Box]], bands: tuple[str, ...]
) -> Score:
    """The pointing game on tiles (N, C, H, W), on the map of `ship` summed over towers."""
    from satray.models.geometry import cam_transform

    spec = classifier.spec
    shape = tiles.shape[-2:]
    maps = classifier.cam(tiles, ["ship"], bands=bands)
    points: list[Point] = []
    for n, found in enumerate(boxes):
        summed = sum(maps[name][n, 0] for name in maps)
        grid = next(iter(spec.grids.values()))
        cam = cam_transform(Affine.identity(), spec.preprocess().geometry(*shape), grid)
        points.append(play(summed, cam, Affine.identity(), shape, found))
    return total(points)


def demo_tiles(demo: Path) -> tuple[NDArray[Any], list[list[Box]], tuple[str, ...]]:
    """Test tiles of a demo run that hold ships (N, C, H, W), their ships' boxes, and the bands."""
    import rasterio

    from satray.data.index import read_index
    from satray.demo.generator import read_boxes
    from satray.storage import Storage

    index = read_index(str(demo / "prepare"), Storage()).part("test")
    holds = index.labels[:, index.meta.classes.index("ship")].astype(bool)
    table = index.table
    known = read_boxes(Storage(), str(demo / "archive/ships.json"))
    tiles, boxes = [], []
    for row in np.flatnonzero(holds):
        with rasterio.open(table["uri"][int(row)].as_py()) as file:
            tiles.append(file.read())
        boxes.append(list(known[table["tile_id"][int(row)].as_py()]))
    return np.stack(tiles), boxes, index.meta.bands


def airbus_windows(folder: Path, side: int) -> Iterator[tuple[NDArray[Any], list[Box]]]:
    """Windows (C, side, side) that hold ships and cut none, and their boxes."""
    import rasterio

    from satray.data.rle import rle_decode

    ships: dict[str, list[Box]] = {}
    with (folder / "train_ship_segmentations.csv").open() as file:
        for row in csv.DictReader(file):
            if row["EncodedPixels"].strip():
                mask = rle_decode(row["EncodedPixels"], 768, 768)
                rows, cols = np.nonzero(mask)
                box = (rows.min(), cols.min(), rows.max() + 1, cols.max() + 1)
                ships.setdefault(row["ImageId"], []).append(tuple(float(edge) for edge in box))
    for name, found in sorted(ships.items()):
        with rasterio.open(folder / "images" / name) as image:
            pixels = image.read()
        for top in range(0, 768 - side + 1, STEP):
            for left in range(0, 768 - side + 1, STEP):
                inside = [clipped(box, top, left, side) for box in found]
                shares = [area(a) / area(b) for a, b in zip(inside, found, strict=True)]
                whole = [box for box, share in zip(inside, shares, strict=True) if share >= CUT]
                if whole and all(share >= CUT or share == 0 for share in shares):
                    yield pixels[:, top : top + side, left : left + side], whole


def clipped(box: Box, top: int, left: int, side: int) -> Box:
    """The part of a box in a window, in the window's pixels; of no area where there is none."""
    a, b, c, d = (
        float(np.clip(edge - start, 0, side))
        for edge, start in zip(box, (top, left, top, left), strict=True)
    )
    return a, b, c, d


def area(box: Box) -> float:
    """Height times width."""
    return (box[2] - box[0]) * (box[3] - box[1])


def figures(quality: Path) -> dict[str, Any]:
    """AUC and accuracy of `ship`, with 95 % intervals."""
    document = json.loads((quality / "metrics.json").read_text())
    names = ("auc", "accuracy", "baseline_accuracy")
    return {name: [document["metrics"][name], document["intervals"].get(name)] for name in names}


def main(arguments: list[str]) -> int:
    """Measure and print a table, then one line of JSON."""
    import satray

    parser = argparse.ArgumentParser(prog="python -m bench pooling", description=__doc__)
    parser.add_argument("--ship", help="the `out` of a prepare run with classes=ship")
    parser.add_argument("--demo", help="the `out` of a demo run")
    parser.add_argument("--airbus", help="folder with images/ and train_ship_segmentations.csv")
    parser.add_argument("--bundles", nargs="*", help="of `ship`: these play on Airbus, no training")
    parser.add_argument("--out", default="runs/pooling", help="folder of the trainings")
    parser.add_argument("--pseudo-epochs", type=float, default=20.0, help="of `ship`")
    parser.add_argument("--side", type=int, default=384, help="of Airbus windows, px")
    parser.add_argument("--poolings", default="avg,max", help="of avg, max, lse")
    options = parser.parse_args(arguments)
    if options.bundles:
        for bundle in options.bundles:
            print(bundle, json.dumps(airbus_game(bundle, Path(options.airbus), options.side)))
        return 0
    poolings = options.poolings.split(",")
    out = Path(options.out).absolute()
    result: dict[str, Any] = {"bench": "pooling"}
    for pooling in poolings:
        row: dict[str, Any] = {}
        if options.ship:
            place, index = out / f"ship-{pooling}", f"index={Path(options.ship).absolute()}"
            length = f"stages.0.pseudo_epochs={options.pseudo_epochs:g}"
            keys = (*COMMON, length, f"pooling={pooling}", "best=auc")
            run("train", index, f"out={place}/train", *keys)
            run("evaluate", f"bundle={place}/train", index, f"out={place}/evaluate")
            row["ship"] = figures(place / "evaluate")
            if options.airbus:
                folder = Path(options.airbus)
                row["airbus"] = airbus_game(str(place / "train"), folder, options.side)
        if options.demo:
            demo = Path(options.demo).absolute()
            place, index = out / f"demo-{pooling}", f"index={demo}/prepare"
            run("train", index, f"out={place}/train", *DEMO, f"pooling={pooling}")
            bundle = f"bundle={place}/train"
            run("evaluate", bundle, index, "split=test", f"out={place}/evaluate")
            document = json.loads((place / "evaluate/metrics.json").read_text())
            row["demo"] = told(pointed(satray.load(str(place / "train")), *demo_tiles(demo)))
            row["demo"]["auc"] = document["by_class"]["ship"]["auc"]
        result[pooling] = row
    for pooling in poolings:
        print(pooling, json.dumps(result[pooling]))
    print(json.dumps(result))
    return 0


def airbus_game(bundle: str, folder: Path, side: int) -> dict[str, Any]:
    """The pointing game of a bundle on Airbus windows."""
    import satray

    windows = list(airbus_windows(folder, side))
    tiles, boxes = np.stack([window for window, _ in windows]), [found for _, found in windows]
    return told(pointed(satray.load(bundle), tiles, boxes, ("red", "green", "blue")))


def told(score: Score) -> dict[str, Any]:
    """A pointing score as counts."""
    return {
        "tiles": score.tiles, "hits": score.hits, "by_chance": round(score.expected, 1),
        "spread": round(score.spread, 1),
    }  # fmt: skip
