"""A picture for a person: ship tiles, and where each network saw the ships."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray

from satray.demo.maps import MappedTile
from satray.demo.pointing import peak
from satray.demo.world import BANDS

TILES = 8
"""Columns of the picture."""


def overview(networks: Mapping[str, Sequence[MappedTile]], class_name: str) -> bytes:
    """PNG: the first tiles in colour with their ships, below them one row of maps a network.

    Args:
        networks: the same tiles in the same order for each network.
        class_name: what is mapped; for the title.
    """
    from matplotlib.figure import Figure

    names = list(networks)
    columns = min(TILES, len(networks[names[0]]))
    figure = Figure(figsize=(1.7 * columns + 1.2, 1.8 * (len(names) + 1) + 0.6), dpi=110)
    axes = figure.subplots(len(names) + 1, columns, squeeze=False)
    for column in range(columns):
        tile = networks[names[0]][column]
        _tile(axes[0, column], tile)
        axes[0, column].set_title(tile.tile_id, fontsize=8)
        for row, name in enumerate(names, start=1):
            _map(axes[row, column], networks[name][column])
    for row, name in enumerate(["tile", *names]):
        axes[row, 0].set_ylabel(name, fontsize=10)
    figure.suptitle(
        f"Where '{class_name}' comes from: maps (bright = evidence for), boxes = true ships, "
        "+ = the map's peak",
        fontsize=10,
    )
    figure.tight_layout()
    sink = io.BytesIO()
    figure.savefig(sink, format="png")
    return sink.getvalue()


def colours(pixels_CHW: NDArray[Any]) -> NDArray[np.float64]:
    """Red, green and blue of a demo tile, (H, W, 3) in 0..1, brightened as an eye likes it."""
    rgb = np.stack([pixels_CHW[BANDS.index(name)] for name in ("red", "green", "blue")], axis=-1)
    return np.asarray(np.clip(rgb / 3200.0, 0.0, 1.0) ** 0.6)


def _tile(axis: Any, tile: MappedTile, shade: float = 1.0) -> None:
    from matplotlib.patches import Rectangle

    height, width = tile.pixels.shape[-2:]
    axis.imshow(colours(tile.pixels) * shade, extent=(0, width, height, 0))
    for top, left, bottom, right in tile.boxes:
        axis.add_patch(
            Rectangle((left, top), right - left, bottom - top, fill=False, ec="cyan", lw=0.9)
        )
    axis.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])


def _map(axis: Any, tile: MappedTile) -> None:
    _tile(axis, tile, shade=0.75)
    cells: Affine = ~tile.transform @ tile.map.transform
    h, w = tile.map.values.shape
    left, top = cells @ (0.0, 0.0)
    right, bottom = cells @ (float(w), float(h))
    value = np.nan_to_num(np.clip(tile.map.values, 0.0, None))
    strength = value / max(float(value.max()), 1e-6)
    axis.imshow(
        strength,
        extent=(left, right, bottom, top),
        cmap="inferno",
        alpha=0.75 * np.sqrt(strength),
        vmin=0,
        vmax=1,
        interpolation="nearest",
    )
    row, col = peak(tile.map.values, tile.map.transform, tile.transform)
    axis.plot(col, row, "+", color="lime", markersize=9, markeredgewidth=1.6)
    height, width = tile.pixels.shape[-2:]
    axis.set(xlim=(0, width), ylim=(height, 0))
