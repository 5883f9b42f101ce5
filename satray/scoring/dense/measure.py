"""Ask a bundle's network what planning needs: cells of a tile, cells of a length, memory a px."""

import math
import weakref
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from satray.models.bundle import Bundle
from satray.scoring.dense.lattice import DenseGeometry, geometry_of, up

_PROBE = 256
"""Least length that is asked for, in net px; the smallest multiple of the block above it."""


@dataclass(frozen=True)
class Measured:
    """What a network says of itself."""

    geometry: DenseGeometry
    """Lattices, halos, tile and block."""

    bytes_per_px: float
    """Most memory that the living tensors of one forward take, in bytes a net px, eager and
    without the weights; a convolution's own scratch memory comes on top."""


def measure(bundle: Bundle, *, d4: bool = False, tiles: bool = False) -> Measured:
    """Run the network twice, on a tile and on a small window of zeros.

    Args:
        bundle: on any device.
        d4: the geometry is to be that of means over the eight symmetries.
        tiles: with d4, whether tiles are turned one by one, or whole windows.

    Raises:
        InputError: strides that are no whole numbers.
    """
    spec = bundle.spec
    per_tile, peak = _cells(bundle, spec.size, spec.size)
    tile_cells = {name: cells[0] for name, cells in per_tile.items()}
    short = {
        name: max(math.ceil(spec.size / grid.stride) - tile_cells[name], 0)
        for name, grid in spec.grids.items()
    }
    geometry = geometry_of(spec.grids, spec.size, tile_cells, short)
    per_px = peak / spec.size**2
    if geometry.why_tiles is None:
        geometry, per_px = _of_windows(bundle, geometry)
    return Measured(geometry.turned(tiles=tiles) if d4 else geometry, per_px)


def _of_windows(bundle: Bundle, guess: DenseGeometry) -> tuple[DenseGeometry, float]:
    """The geometry where the network takes any length; without halos where cells do not follow."""
    height = up(_PROBE, guess.block)
    width = height + guess.block
    found, peak = _cells(bundle, height, width)
    short, halos = {}, {}
    for tower in guess.towers:
        h, w = found[tower.name]
        short[tower.name] = height // tower.stride - h
        regular = width // tower.stride - w == short[tower.name] >= 0
        halos[tower.name] = tower.halo if regular else None
    towers = tuple(
        replace(tower, halo=halos[tower.name], short=max(short[tower.name], 0))
        for tower in guess.towers
    )
    return DenseGeometry(towers, guess.size, guess.block), peak / (height * width)


def _cells(bundle: Bundle, height: int, width: int) -> tuple[dict[str, tuple[int, int]], int]:
    """Rows and columns of each tower's features, and the peak of living tensors in bytes."""
    x_BCHW = torch.zeros(1, len(bundle.spec.bands), height, width, device=bundle.device)
    with torch.no_grad(), _Living() as living:
        features = bundle.network.features(x_BCHW)
    cells = {name: (f.shape[2], f.shape[3]) for name, f in features.items()}
    return cells, living.peak + x_BCHW.nbytes


class _Living(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of tensors that operators made and that still live."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._now = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, Tensor):
                self._note(tensor)
        return made

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self._now += size
        self.peak = max(self.peak, self._now)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._now -= size
