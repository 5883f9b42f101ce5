"""Pool a feature grid over many footprints at once, as `models.network.pool` does over one.

Pooling over a rectangle is pooling over its rows, then over its columns; each is done for all
tiles together. Legend: D channels, h x w cells, n cells of a footprint along an axis, T x U
footprints.
"""

import torch
from torch import Tensor

from satray.config.train import Pooling
from satray.models.network import LSE_SHARPNESS

_CHUNK = 1 << 24
"""Numbers that a gathered copy holds at most."""


def pool_footprints(
    f_Dhw: Tensor, tops_T: Tensor, lefts_U: Tensor, height: int, width: int, pooling: Pooling
) -> Tensor:
    """p_DTU of the footprints that begin at each of `tops_T` x `lefts_U`.

    Args:
        f_Dhw: float32.
        tops_T: first rows, in cells.
        lefts_U: first columns.
        height: of every footprint, in cells.
        width: the same.
        pooling: `avg`, `max` or `lse`.
    """
    if pooling == "max":
        return _maxima(_maxima(f_Dhw, 1, tops_T, height), 2, lefts_U, width)
    if pooling == "avg":
        return _gathered(_gathered(f_Dhw, 1, tops_T, height, "avg"), 2, lefts_U, width, "avg")
    cells = f_Dhw.new_tensor(height * width).log()
    r = LSE_SHARPNESS
    rows_DTw = _gathered(r * f_Dhw, 1, tops_T, height, "lse")
    return (_gathered(rows_DTw, 2, lefts_U, width, "lse") - cells) / r


def _maxima(f_Dhw: Tensor, axis: int, starts: Tensor, length: int) -> Tensor:
    """Maxima over `length` cells from each start: of runs of 2, 4, 8 ... that may overlap."""
    run, f = 1, f_Dhw
    while run < length:
        shift = min(run, length - run)
        n = f.shape[axis] - shift
        f = torch.maximum(f.narrow(axis, 0, n), f.narrow(axis, shift, n))
        run += shift
    return f.index_select(axis, starts)


def _gathered(f_Dhw: Tensor, axis: int, starts: Tensor, length: int, how: str) -> Tensor:
    """Means, or log-sum-exps, over `length` cells from each start; some channels at a time."""
    places = (starts[:, None] + torch.arange(length, device=starts.device)).flatten()
    other = f_Dhw.shape[3 - axis]
    channels = max(1, _CHUNK // max(1, len(places) * other))
    parts = []
    for part in torch.split(f_Dhw, channels):
        shape = list(part.shape)
        shape[axis : axis + 1] = [len(starts), length]
        wide = part.index_select(axis, places).view(shape)
        parts.append(wide.mean(axis + 1) if how == "avg" else wide.logsumexp(axis + 1))
    return torch.cat(parts)
