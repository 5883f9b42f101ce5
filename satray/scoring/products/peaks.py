"""Peaks of class activation maps: where a class is likeliest, cell by cell. Pure.

A cell's local logit is w . f(x, y) + b, the head read at one cell (the dense CAM summed over
towers, plus the bias). Under average pooling a tile's logit is the mean of its cells' local
logits, so a peak above the threshold says: a tile full of this would be given the class. Under
maximum pooling every channel takes its own best cell: with weights of no negative sign a tile's
logit is at least that of each of its cells, so a peak above the threshold is in a tile that is
given the class. Log-sum-exp has neither property; there a local logit is evidence in logit units.

Legend: K classes, h x w feature cells, N peaks. Cell coordinates are edge ones: cell i has its
centre at i + 0.5.

Memory: the whole map is held, 4 bytes a cell and class, 8 more a class (multiclass: 16), and about
40 bytes a cell besides. A scene of 100,000 x 100,000 px at stride 32 has 9.8 million cells.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class PeakRule:
    """What counts as a detection."""

    task: str
    """`binary`, `multilabel` or `multiclass`."""
    bias: tuple[float, ...]
    """(K,) of the head."""
    temperature: float
    """Logits are divided by it before the sigmoid or softmax."""
    thresholds: tuple[float, ...]
    """(K,) scores at and above which there is a detection. Multiclass: besides, the class must
    have the cell's highest logit."""
    distance: float
    """Of two peaks of a class closer than this, the weaker is dropped (cells)."""


@dataclass(frozen=True)
class Peaks:
    """N peaks, the likeliest first within a class."""

    klass: NDArray[np.int64]
    """(N,) places of classes."""
    score: Floats
    """(N,) 0 to 1."""
    row: Floats
    """(N,) in cells, to a fraction of one."""
    col: Floats
    """(N,) in cells."""

    def __len__(self) -> int:
        """N."""
        return len(self.klass)


def find_peaks(maps_Khw: NDArray[np.float32], rule: PeakRule) -> Peaks:
    """Find the local maxima that reach their class's threshold.

    Args:
        maps_Khw: dense CAMs of all K classes summed over towers; NaN where there is no data.
        rule: what counts.

    Returns:
        Of a plateau of equal cells one peak, at its middle. Places are refined by parabolas
        through the neighbours, by half a cell at most.
    """
    found: list[tuple[int, Floats, Floats, Floats]] = []
    bias_K11 = np.array(rule.bias, dtype=np.float64)[:, None, None]
    z_Khw = maps_Khw + bias_K11
    z_Khw /= rule.temperature
    highest_hw = z_Khw.argmax(axis=0)  # the first of equal ones
    if rule.task == "multiclass":
        z_Khw -= _others(z_Khw)
    for k, z_hw in enumerate(z_Khw):
        with np.errstate(over="ignore"):
            reached_hw = 1 / (1 + np.exp(-z_hw)) >= rule.thresholds[k]
        if rule.task == "multiclass":
            reached_hw &= highest_hw == k
        rows, cols = local_maxima(z_hw, reached_hw)
        at = np.floor(rows).astype(int), np.floor(cols).astype(int)
        values = z_hw[at]
        keep = spaced(rows, cols, values, rule.distance)
        rows, cols, values = rows[keep], cols[keep], values[keep]
        found.append((k, 1 / (1 + np.exp(-values)), rows, cols))
    return Peaks(
        np.concatenate([np.full(len(score), k, dtype=np.int64) for k, score, _, _ in found]),
        *(np.concatenate([one[i] for one in found]) for i in (1, 2, 3)),
    )


def local_maxima(values_hw: Floats, reached_hw: Bools) -> tuple[Floats, Floats]:
    """Places of the regional maxima among the cells reached, 8-connected; NaN is below all.

    A plateau counts where no neighbour of any of its cells is higher; its place is its cell
    nearest to its middle, moved towards it by half a cell at most.

    Args:
        values_hw: what is compared.
        reached_hw: where maxima are wanted.

    Returns:
        rows and columns, in row order of the cells (edge coordinates, in cells).
    """
    from scipy import ndimage

    filled = np.where(np.isnan(values_hw), -np.inf, values_hw)
    square = np.ones((3, 3), dtype=bool)
    top = ndimage.maximum_filter(filled, footprint=square, mode="constant", cval=-np.inf)
    highest = (filled == top) & (filled > -np.inf)
    # a plateau with a way up has a cell that is not the highest of its neighbours
    lower = np.where(highest, -np.inf, filled)
    slope = ndimage.maximum_filter(lower, footprint=square, mode="constant", cval=-np.inf)
    labels, count = ndimage.label(highest, structure=square)
    if not count:
        return np.empty(0), np.empty(0)
    sloping = np.zeros(count + 1, dtype=bool)
    sloping[labels[highest & (slope == filled)]] = True
    wanted = np.zeros(count + 1, dtype=bool)
    wanted[labels[highest & reached_hw]] = True
    chosen = wanted & ~sloping
    chosen[0] = False
    i, j = np.nonzero(chosen[labels])
    which = labels[i, j]
    cells, middle_i, middle_j, flat_i, flat_j = _middles(which, i, j)
    at = i[cells], j[cells]
    di = np.where(flat_i, _refined(values_hw, *at, axis=0), np.clip(middle_i - at[0], -0.5, 0.5))
    dj = np.where(flat_j, _refined(values_hw, *at, axis=1), np.clip(middle_j - at[1], -0.5, 0.5))
    # a cell's far edge is its neighbour's: kept inside, so that floor() finds the cell again
    return (
        np.minimum(i[cells] + 0.5 + di, np.nextafter(i[cells] + 1.0, 0)),
        np.minimum(j[cells] + 0.5 + dj, np.nextafter(j[cells] + 1.0, 0)),
    )


def spaced(rows: Floats, cols: Floats, values: Floats, distance: float) -> NDArray[np.int64]:
    """Numbers of the places kept, the strongest first, when each drops weaker ones nearby.

    Places nearer to each other than `distance` are near; of equal ones the first given stays.
    """
    from scipy.spatial import cKDTree

    order = np.argsort(-values, kind="stable")
    if distance <= 0 or len(order) < 2:
        return order
    points = np.stack([rows, cols], axis=1)
    tree = cKDTree(points)
    dropped = np.zeros(len(order), dtype=bool)
    kept = []
    reach = np.nextafter(distance, 0)  # the tree's radius is inclusive
    for n in order:
        if dropped[n]:
            continue
        kept.append(n)
        dropped[tree.query_ball_point(points[n], reach)] = True
    return np.array(kept, dtype=np.int64)


def _others(z_Khw: Floats) -> Floats:
    """For each class, log of the sum of exp over the others: z - this are its log odds.

    From both ends, since taking a class out of the whole sum would cancel where it is near sure.
    """
    others_Khw = np.full_like(z_Khw, -np.inf)
    for k in range(len(z_Khw) - 2, -1, -1):
        np.logaddexp(others_Khw[k + 1], z_Khw[k + 1], out=others_Khw[k])
    before_hw = np.full(z_Khw.shape[1:], -np.inf)
    for z_hw, others_hw in zip(z_Khw, others_Khw, strict=True):
        np.logaddexp(before_hw, others_hw, out=others_hw)
        before_hw = np.logaddexp(before_hw, z_hw)
    return others_Khw


def _middles(
    which: NDArray[np.int64], i: NDArray[np.int64], j: NDArray[np.int64]
) -> tuple[NDArray[np.int64], Floats, Floats, Bools, Bools]:
    """Of each plateau: number of its cell nearest to its middle, the middle, its flat axes.

    Flat: all its cells lie in one row; in one column.
    """
    sizes = np.bincount(which)
    with np.errstate(invalid="ignore"):
        mean_i, mean_j = (np.bincount(which, weights=x) / sizes for x in (i, j))
    off_i, off_j = (i - mean_i[which]) ** 2, (j - mean_j[which]) ** 2
    flat_i, flat_j = (np.bincount(which, weights=off) == 0 for off in (off_i, off_j))
    order = np.lexsort((np.arange(len(which)), off_i + off_j, which))
    cells = order[np.diff(which[order], prepend=-1) > 0]
    own = which[cells]
    return cells, mean_i[own], mean_j[own], flat_i[own], flat_j[own]


def _refined(values_hw: Floats, i: NDArray[np.int64], j: NDArray[np.int64], *, axis: int) -> Floats:
    """Top of the parabola through a cell and its neighbours along an axis, from the cell's centre.

    0 at the map's border and beside cells without data.
    """
    step = (1, 0) if axis == 0 else (0, 1)
    size = values_hw.shape[axis]
    place = i if axis == 0 else j
    inside = (place > 0) & (place < size - 1)
    low = values_hw[np.where(inside, i - step[0], i), np.where(inside, j - step[1], j)]
    high = values_hw[np.where(inside, i + step[0], i), np.where(inside, j + step[1], j)]
    bend = low - 2 * values_hw[i, j] + high
    with np.errstate(invalid="ignore", divide="ignore"):
        offset = (low - high) / (2 * bend)
    usable = inside & np.isfinite(offset) & (bend < 0)
    return np.where(usable, np.clip(offset, -0.5, 0.5), 0.0)
