"""Ask a bundle's network what planning needs: cells of a tile, and of other lengths."""

import math
from dataclasses import replace

import torch

from satray.models.bundle import Bundle
from satray.score.dense.windows import DenseGeometry, geometry_of, up

_PROBE = 256
"""Least length that is asked for, in net px; the smallest multiple of the block above it."""


def measure(bundle: Bundle, *, d4: bool = False, tiles: bool = False) -> DenseGeometry:
    """Run the network on a tile and on a small window of zeros.

    Args:
        bundle: on any device.
        d4: the geometry is to be that of means over the eight symmetries.
        tiles: with d4, whether tiles are turned one by one, or whole windows.

    Returns:
        Lattices, halos, tile and block; without halos where cells do not follow the length.

    Raises:
        InputError: strides that are no whole numbers.
    """
    spec = bundle.spec
    tile_cells = {name: cells[0] for name, cells in _cells(bundle, spec.size, spec.size).items()}
    short = {
        name: max(math.ceil(spec.size / grid.stride) - tile_cells[name], 0)
        for name, grid in spec.grids.items()
    }
    geometry = geometry_of(spec.grids, spec.size, tile_cells, short)
    if geometry.why_tiles is None:
        geometry = _of_windows(bundle, geometry)
    return geometry.turned(tiles=tiles) if d4 else geometry


def _of_windows(bundle: Bundle, guess: DenseGeometry) -> DenseGeometry:
    """The geometry where the network takes any length."""
    height = up(_PROBE, guess.block)
    width = height + guess.block
    found = _cells(bundle, height, width)
    towers = []
    for tower in guess.towers:
        h, w = found[tower.name]
        short = height // tower.stride - h
        regular = width // tower.stride - w == short >= 0
        halo = tower.halo if regular else None
        towers.append(replace(tower, halo=halo, short=max(short, 0)))
    return replace(guess, towers=tuple(towers))


@torch.no_grad()
def _cells(bundle: Bundle, height: int, width: int) -> dict[str, tuple[int, int]]:
    """Rows and columns of each tower's features."""
    x_BCHW = torch.zeros(1, len(bundle.spec.bands), height, width, device=bundle.device)
    features = bundle.network.features(x_BCHW)
    return {name: (f.shape[2], f.shape[3]) for name, f in features.items()}
