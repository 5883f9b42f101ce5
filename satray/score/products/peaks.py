"""Peaks of class activation maps: where a class is likeliest, cell by cell. Pure.

A cell's local logit is w . f(x, y) + b, the head read at one cell (the dense CAM summed over
towers, plus the bias). Under average pooling a tile's logit is the mean of its cells' local
logits, so a peak above the threshold says: a tile full of this would be given the class. Under
maximum pooling every channel takes its own best cell: with weights of no negative sign a tile's
logit is at least that of each of its cells, so a peak above the threshold is in a tile that is
given the class. Log-sum-exp has neither property; there a local logit is evidence in logit units.

Legend: K classes, h x w feature cells, N peaks. Cell coordinates are edge ones: cell i has its
centre at i + 0.5.

Memory: the whole map is held, 4 bytes a cell and class, 8 more a class (multiclass: 24), and about
60 bytes a cell besides. A scene of 100,000 x 100,000 px at stride 32 has 9.8 million cells.
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
    from scipy.special import expit

    bias_K11 = np.array(rule.bias, dtype=np.float64)[:, None, None]
    z_Khw = (maps_Khw + bias_K11) / rule.temperature
    highest_hw = z_Khw.argmax(axis=0)  # the first of equal ones
    if rule.task == "multiclass":
        z_Khw = _log_odds(z_Khw, highest_hw)
    found: list[tuple[NDArray[np.int64], Floats, Floats, Floats]] = []
    for k, z_hw in enumerate(z_Khw):
        reached_hw = expit(z_hw) >= rule.thresholds[k]
        if rule.task == "multiclass":
            reached_hw &= highest_hw == k
        rows, cols = local_maxima(z_hw, reached_hw)
        values = z_hw[np.floor(rows).astype(int), np.floor(cols).astype(int)]
        keep = spaced(rows, cols, values, rule.distance)
        found.append((np.full(len(keep), k), expit(values[keep]), rows[keep], cols[keep]))
    klass, *places = (np.concatenate(column) for column in zip(*found, strict=True))
    return Peaks(klass, *places)


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
    most = ndimage.maximum_filter(filled, footprint=square, mode="constant", cval=-np.inf)
    highest = (filled == most) & (filled > -np.inf)
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
    which = np.unique(labels[i, j], return_inverse=True)[1]
    sizes = np.bincount(which)
    middle_i, middle_j = (np.bincount(which, weights=at) / sizes for at in (i, j))
    off_i, off_j = (i - middle_i[which]) ** 2, (j - middle_j[which]) ** 2
    flat_i, flat_j = (np.bincount(which, weights=off) == 0 for off in (off_i, off_j))
    order = np.lexsort((np.arange(len(which)), off_i + off_j, which))
    cells = order[np.diff(which[order], prepend=-1) > 0]  # of each plateau its middlemost
    i, j = i[cells], j[cells]
    around, top = np.pad(values_hw, 1, constant_values=np.nan), values_hw[i, j]
    di = np.where(flat_i, _vertex(around[i, j + 1], top, around[i + 2, j + 1]), middle_i - i)
    dj = np.where(flat_j, _vertex(around[i + 1, j], top, around[i + 1, j + 2]), middle_j - j)
    # a cell's far edge is its neighbour's: kept inside, so that floor() finds the cell again
    return (
        np.minimum(i + 0.5 + np.clip(di, -0.5, 0.5), np.nextafter(i + 1.0, 0)),
        np.minimum(j + 0.5 + np.clip(dj, -0.5, 0.5), np.nextafter(j + 1.0, 0)),
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


def _log_odds(z_Khw: Floats, highest_hw: NDArray[np.int64]) -> Floats:
    """Of each class against all others, from logits.

    The others of the highest are summed without it: taking it out of the whole sum would cancel
    where it is near sure.
    """
    top_1hw = highest_hw[None]
    share_Khw = np.exp(z_Khw - np.take_along_axis(z_Khw, top_1hw, axis=0))
    rest_Khw = share_Khw.sum(axis=0) - share_Khw
    np.put_along_axis(share_Khw, top_1hw, 0.0, axis=0)
    np.put_along_axis(rest_Khw, top_1hw, share_Khw.sum(axis=0)[None], axis=0)
    np.put_along_axis(share_Khw, top_1hw, 1.0, axis=0)
    with np.errstate(divide="ignore"):
        odds: Floats = np.log(share_Khw) - np.log(np.maximum(rest_Khw, np.finfo(float).tiny))
    return odds


def _vertex(before: Floats, top: Floats, after: Floats) -> Floats:
    """Top of the parabola through a cell and its neighbours along an axis, from the cell's centre.

    0 at the map's border and beside cells without data.
    """
    bend = before - 2 * top + after
    with np.errstate(invalid="ignore", divide="ignore"):
        offset = (before - after) / (2 * bend)
    return np.where(np.isfinite(offset) & (bend < 0), offset, 0.0)
