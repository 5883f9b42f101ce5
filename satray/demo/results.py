"""What the demo measures, and how it says it.

The pointing game: on each tile that holds a ship, the centre of the map's highest cell falls within
a ship's box or not. A cell is the finest thing that a map can tell, so the boxes are widened by
half a cell on every side; chance is the share of the tile that the boxes, widened alike, cover. In
the scene each detection, the likeliest first, takes the nearest ship that nobody has found yet
among those whose widened box it lies in; a second point on a ship is a false one.

Source: Zhang et al., 'Top-down neural attention by excitation backprop' (2016), who widen by 15 px.

Legend: h, w cells of a map; H, W pixels of a tile.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import hypot, nan
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.io import MemoryFile
from shapely import box, unary_union

from satray.demo.archive import Box
from satray.metrics.summary import said
from satray.score.products.names import product_path
from satray.storage import Storage, join


@dataclass(frozen=True)
class MappedTile:
    """A tile, its ships, and where one network saw ships."""

    shape: tuple[int, int]
    """H, W."""
    boxes: Sequence[Box]
    """Ships (px of the tile)."""
    map: NDArray[np.float32]
    """Logit units (h, w); NaN where the tile has no data."""
    cells: Affine
    """From cells of the map to pixels of the tile."""

    @property
    def peak(self) -> tuple[float, float]:
        """Row and column (px, edges) of the centre of the highest cell, the first of equals."""
        row, col = np.unravel_index(int(np.nanargmax(self.map)), self.map.shape)
        x, y = self.cells @ (float(col) + 0.5, float(row) + 0.5)
        return y, x


def read_tiles(
    storage: Storage, images: str, scores: str, ships: Mapping[str, Sequence[Box]],
    towers: Sequence[str], class_name: str,
) -> list[MappedTile]:  # fmt: skip
    """Tiles with the maps that a score job wrote of them.

    Args:
        storage: how both are reached.
        images: prefix of the tiles.
        scores: the score job's folder.
        ships: boxes by tile id; these tiles are read.
        towers: of the network; their maps, which share a grid, are summed, as logits are.
        class_name: the map's band.
    """
    found = []
    for tile_id, boxes in ships.items():
        with MemoryFile(storage.read(join(images, f"{tile_id}.tif"))) as file, file.open() as tile:
            shape, place = tile.shape, tile.transform
        maps = []
        for tower in towers:
            data = storage.read(join(scores, product_path("cam", tile_id, tower)))
            with MemoryFile(data) as file, file.open() as cam:
                maps.append(cam.read(cam.descriptions.index(class_name) + 1))
                cells = ~place @ cam.transform
        found.append(MappedTile(shape, boxes, np.sum(maps, axis=0), cells))
    return found


def pointing(tiles: Iterable[MappedTile]) -> dict[str, float]:
    """Play the pointing game: number of tiles, hits, and those of random places (expected)."""
    hits, chances = 0, []
    for tile in tiles:
        y, x = tile.peak
        wide = widened(tile.boxes, abs(tile.cells.a) / 2)
        hits += any(a <= y <= c and b <= x <= d for a, b, c, d in wide)
        chances.append(covered(wide, *tile.shape))
    return {"tiles": len(chances), "hits": hits, "expected": sum(chances)}


def match(
    points: Iterable[tuple[float, float, float]],
    boxes: Sequence[Box],
    slack: float,
    shape: tuple[int, int],
) -> dict[str, float]:
    """Match detections with ships.

    Args:
        points: row, column (px of the scene) and score; the likeliest chooses first.
        boxes: of the ships.
        slack: how far boxes are widened on every side (px).
        shape: height and width of the scene (px).

    Returns:
        numbers of ships, of detections, of hits, and the precision of random points (chance).
    """
    likely = sorted(points, key=lambda point: -point[2])
    wide, free = widened(boxes, slack), set(range(len(boxes)))
    for y, x, _ in likely:
        away = {
            n: hypot(2 * y - boxes[n][0] - boxes[n][2], 2 * x - boxes[n][1] - boxes[n][3])
            for n in free
            if wide[n][0] <= y <= wide[n][2] and wide[n][1] <= x <= wide[n][3]
        }
        if away:
            free.discard(min(away, key=away.__getitem__))
    return {
        "ships": len(boxes),
        "detections": len(likely),
        "hits": len(boxes) - len(free),
        "chance": covered(wide, *shape),
    }


def widened(boxes: Iterable[Box], by: float) -> list[Box]:
    """Boxes with so much more (px) on every side."""
    return [(a - by, b - by, c + by, d + by) for a, b, c, d in boxes]


def covered(boxes: Iterable[Box], height: float, width: float) -> float:
    """Share of a tile that the union of boxes covers; what lies outside is cut off."""
    union = unary_union([box(left, top, right, bottom) for top, left, bottom, right in boxes])
    return float(union.intersection(box(0, 0, width, height)).area / (height * width))


def result_lines(results: Sequence[Mapping[str, Any]], class_name: str) -> list[str]:
    """The measured figures, each beside what it takes to do nothing.

    Args:
        results: one a network, as `demo.json` holds them: its `name`, the number of `tiles`, their
            `metrics` as `evaluate` has them, `auc` of the class, `pointing` (`pointing`) and
            `scene` (`match`).
        class_name: what is pointed at.
    """
    form = "{:26}{:>15}{:>15}{:>15}{:>25}".format
    heads = ("accuracy", "mAP", f"{class_name} AUC", f"map's peak on a {class_name}")
    table = [
        form(f"on {results[0]['tiles']} tiles set apart", *heads),
        form("", "(majority)", *("(by chance)",) * 3),
    ]
    scenes = [""]
    for one in results:
        name, metrics = one["name"], one["metrics"]
        game, scene = one["pointing"], one["scene"]
        table.append(
            form(
                name,
                f"{said(metrics['accuracy'], 3)} ({said(metrics['baseline_accuracy'], 3)})",
                f"{said(metrics['map'], 3)} ({said(metrics['baseline_map'], 3)})",
                f"{said(one['auc'], 3)} (0.500)",
                f"{game['hits']} of {game['tiles']} ({game['expected']:.1f})",
            )
        )
        precision, recall = (
            scene["hits"] / scene[of] if scene[of] else nan for of in ("detections", "ships")
        )
        scenes.append(
            f"{name}, {class_name}s in the scene: {scene['hits']} of {scene['ships']} found by "
            f"{scene['detections']} points (precision {precision:.2f}, {scene['chance']:.2f} by "
            f"chance; recall {recall:.2f})"
        )
    return table + scenes
