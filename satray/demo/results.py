"""What the demo measures, and how it says and shows it.

The pointing game: on each tile that holds a ship, the centre of the map's highest cell falls within
a ship's box or not. A cell is the finest thing that a map can tell, so the boxes are widened by
half a cell on every side; chance is the share of the tile that the boxes, widened alike, cover. In
the scene each detection, the likeliest first, takes the nearest ship that nobody has found yet
among those whose widened box it lies in; a second point on a ship is a false one.

Source: Zhang et al., 'Top-down neural attention by excitation backprop' (2016), who widen by 15 px.

Legend: h, w cells of a map; C bands, H, W pixels of a tile.
"""

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import hypot, nan
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.io import MemoryFile
from shapely import box, unary_union

from satray.demo.archive import BANDS, Box
from satray.metrics.summary import said
from satray.score.products.names import cam_path
from satray.storage import Storage, join

COLUMNS = 8
"""Tiles of the picture."""


@dataclass(frozen=True)
class MappedTile:
    """A tile, its ships, and where one network saw ships."""

    tile_id: str
    """Its id."""
    pixels: NDArray[Any]
    """Stored values (C, H, W)."""
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


@dataclass(frozen=True)
class Result:
    """One network, measured on tiles that it did not learn from."""

    name: str
    """The network."""
    tiles: int
    """Tiles measured."""
    accuracy: float
    """Share of right yes-or-no answers, over tiles and classes."""
    majority: float
    """The same, for always answering what is more frequent."""
    map: float
    """Mean average precision over the classes."""
    prevalence: float
    """The same by chance: the mean share of tiles that hold a class."""
    auc: float
    """Area under the ROC curve of the class pointed at; 0.5 by chance."""
    pointing: dict[str, float]
    """The pointing game (`pointing`)."""
    scene: dict[str, float]
    """Detections in the scene against its ships (`match`)."""


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
            pixels, place = tile.read(), tile.transform
        maps = []
        for tower in towers:
            data = storage.read(join(scores, cam_path(tile_id, tower)))
            with MemoryFile(data) as file, file.open() as cam:
                maps.append(cam.read(cam.descriptions.index(class_name) + 1))
                cells = ~place @ cam.transform
        found.append(MappedTile(tile_id, pixels, boxes, np.sum(maps, axis=0), cells))
    return found


def pointing(tiles: Iterable[MappedTile]) -> dict[str, float]:
    """Play the pointing game: number of tiles, hits, and those of random places (expected)."""
    hits, chances = 0, []
    for tile in tiles:
        y, x = tile.peak
        wide = widened(tile.boxes, abs(tile.cells.e) / 2, abs(tile.cells.a) / 2)
        hits += any(a <= y <= c and b <= x <= d for a, b, c, d in wide)
        chances.append(covered(wide, *tile.pixels.shape[-2:]))
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
    wide, free = widened(boxes, slack, slack), set(range(len(boxes)))
    for y, x, _ in likely:
        near = [
            (hypot(y - (boxes[n][0] + boxes[n][2]) / 2, x - (boxes[n][1] + boxes[n][3]) / 2), n)
            for n in free
            if wide[n][0] <= y <= wide[n][2] and wide[n][1] <= x <= wide[n][3]
        ]
        if near:
            free.discard(min(near)[1])
    return {
        "ships": len(boxes),
        "detections": len(likely),
        "hits": len(boxes) - len(free),
        "chance": covered(wide, *shape),
    }


def widened(boxes: Iterable[Box], down: float, across: float) -> list[Box]:
    """Boxes with so much more (px) on every side."""
    return [(a - down, b - across, c + down, d + across) for a, b, c, d in boxes]


def covered(boxes: Iterable[Box], height: float, width: float) -> float:
    """Share of a tile that the union of boxes covers; what lies outside is cut off."""
    union = unary_union([box(left, top, right, bottom) for top, left, bottom, right in boxes])
    return float(union.intersection(box(0, 0, width, height)).area / (height * width))


def result_lines(results: Sequence[Result], class_name: str) -> list[str]:
    """The measured figures, each beside what it takes to do nothing."""
    heads = ("accuracy", "mAP", f"{class_name} AUC", f"map's peak on a {class_name}")
    table = [
        _row(f"on {results[0].tiles} tiles set apart", heads),
        _row("", ("(majority)", *("(by chance)",) * 3)),
    ]
    scenes = [""]
    for one in results:
        game, scene = one.pointing, one.scene
        figures = (
            f"{said(one.accuracy, 3)} ({said(one.majority, 3)})",
            f"{said(one.map, 3)} ({said(one.prevalence, 3)})",
            f"{said(one.auc, 3)} (0.500)",
            f"{game['hits']} of {game['tiles']} ({game['expected']:.1f})",
        )
        table.append(_row(one.name, figures))
        precision, recall = (
            scene["hits"] / scene[of] if scene[of] else nan for of in ("detections", "ships")
        )
        scenes.append(
            f"{one.name}, {class_name}s in the scene: {scene['hits']} of {scene['ships']} found by "
            f"{scene['detections']} points (precision {precision:.2f}, {scene['chance']:.2f} by "
            f"chance; recall {recall:.2f})"
        )
    return table + scenes


def _row(name: str, figures: Sequence[str]) -> str:
    widths = (15, 15, 15, 25)
    cells = (f"{text:>{width}}" for text, width in zip(figures, widths, strict=True))
    return f"{name:26}" + "".join(cells)


def overview(networks: Mapping[str, Sequence[MappedTile]], class_name: str) -> bytes:
    """PNG: the first tiles in colour with their ships, below them one row of maps a network.

    Args:
        networks: the same tiles in the same order for each network.
        class_name: what is mapped; for the title.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    tiles = next(iter(networks.values()))[:COLUMNS]
    rows: dict[str, Sequence[MappedTile]] = {"tile": tiles, **networks}
    figure = Figure(figsize=(1.7 * len(tiles) + 1.2, 1.8 * len(rows) + 0.6), dpi=110)
    axes = figure.subplots(len(rows), len(tiles), squeeze=False)
    for line, (name, mapped) in zip(axes, rows.items(), strict=True):
        line[0].set_ylabel(name, fontsize=10)
        for axis, tile in zip(line, mapped[:COLUMNS], strict=True):
            height, width = tile.pixels.shape[-2:]
            shade = 1.0 if name == "tile" else 0.75
            axis.imshow(_colours(tile.pixels) * shade, extent=(0, width, height, 0))
            for top, left, bottom, right in tile.boxes:
                size = (right - left, bottom - top)
                axis.add_patch(Rectangle((left, top), *size, fill=False, ec="cyan", lw=0.9))
            if name == "tile":
                axis.set_title(tile.tile_id, fontsize=8)
            else:
                (left, top), (right, bottom) = (
                    tile.cells @ corner for corner in ((0, 0), tile.map.shape[::-1])
                )
                evidence = np.nan_to_num(np.clip(tile.map, 0, None))
                strength = evidence / max(float(evidence.max()), 1e-6)
                axis.imshow(
                    strength, extent=(left, right, bottom, top), cmap="inferno", vmin=0, vmax=1,
                    alpha=0.75 * np.sqrt(strength), interpolation="nearest",
                )  # fmt: skip
                row, col = tile.peak
                axis.plot(col, row, "+", color="lime", markersize=9, markeredgewidth=1.6)
            axis.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
    figure.suptitle(
        f"Where '{class_name}' comes from: maps (bright = evidence for), boxes = true {class_name}s"
        ", + = the map's peak",
        fontsize=10,
    )
    figure.tight_layout()
    sink = io.BytesIO()
    figure.savefig(sink, format="png")
    return sink.getvalue()


def _colours(pixels_CHW: NDArray[Any]) -> NDArray[np.float64]:
    """Red, green and blue of a tile, (H, W, 3) in 0..1, brightened as an eye likes it."""
    rgb = np.stack([pixels_CHW[BANDS.index(name)] for name in ("red", "green", "blue")], axis=-1)
    return np.asarray(np.clip(rgb / 3200.0, 0.0, 1.0) ** 0.6)
