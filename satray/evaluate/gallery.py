"""The tiles that a report shows, each with the map of the class that it is shown for.

The surest and the least sure of a class, and the worst errors. Only these tiles are read again, and
forwarded in the driver: a few hundred, whatever the split.

Legend: N tiles, K classes, C bands, H x W pixels, h x w cells.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from satray.metrics.scored import Scored
from satray.models.geometry import cells_on_tile
from satray.score.results import MapRequest
from satray.score.tiles import TileSet, read_block, wanted_of
from satray.storage import Storage

if TYPE_CHECKING:  # they import torch
    from satray.models.bundle import Bundle

MOST = 10
"""Tiles at either end of a class."""
WORST = 20
"""Errors shown."""
AT_ONCE = 16
"""Tiles in memory."""


@dataclass(frozen=True)
class Pick:
    """A tile to show, for one class."""

    row: int
    """Row of the tile, 0 to N - 1."""
    klass: int
    """Place of the class that it is shown for, and whose map lies beside it."""
    score: float
    """Probability of that class, 0 to 1."""
    verdict: str
    """TP, FP, FN or TN."""


@dataclass(frozen=True)
class Shelf:
    """The tiles of one class."""

    klass: int
    """Its place."""
    predicted: int
    """Tiles that are given the class."""
    right: int
    """How many of them have it."""
    positives: int
    """Tiles that have it."""
    top: tuple[Pick, ...]
    """The most confident of them, surest first."""
    bottom: tuple[Pick, ...]
    """The least confident of them, least sure first; none of `top`."""


def ends(scored: Scored, klass: int, most: int = MOST) -> Shelf:
    """The surest and least sure of the tiles that are given a class.

    Ranked by logit (log odds for `multiclass`), since scores saturate into ties; equal ones by
    row. Only tiles that are given the class count: the Planet report's figure 3 took two below its
    threshold for its most confident ones.

    Args:
        scored: the split.
        klass: place of the class.
        most: tiles at either end; where fewer than twice as many are given, the top has them
            first.
    """
    rows = np.flatnonzero(scored.predicted[:, klass])
    order = rows[np.argsort(-scored.ranks[rows, klass], kind="stable")]
    top, bottom = order[:most], order[most:][::-1][:most]
    return Shelf(
        klass,
        len(order),
        int(scored.labels[rows, klass].sum()),
        int(scored.labels[:, klass].sum()),
        *(tuple(_pick(scored, row, klass) for row in some) for some in (top, bottom)),
    )


def worst(scored: Scored, most: int = WORST) -> tuple[Pick, ...]:
    """The wrong decisions of highest loss, worst first.

    A decision is a tile and a class; for `multiclass` a tile, shown for the class it was given.
    """
    wrong_NK = scored.predicted != scored.labels
    if scored.task == "multiclass":
        rows, columns = np.nonzero(wrong_NK & scored.predicted)
        losses = scored.losses[rows]
    else:
        rows, columns = np.nonzero(wrong_NK)
        # the logit towards the wrong side: the loss grows with it, and saturates where it does not
        ranks = scored.ranks[rows, columns]
        losses = np.where(scored.labels[rows, columns], -ranks, ranks)
    order = np.argsort(-losses, kind="stable")[:most]
    return tuple(_pick(scored, rows[i], columns[i]) for i in order)


def _pick(scored: Scored, row: int, klass: int) -> Pick:
    predicted, true = scored.predicted[row, klass], scored.labels[row, klass]
    verdict = ("T" if predicted == true else "F") + ("P" if predicted else "N")
    return Pick(int(row), int(klass), float(scored.scores[row, klass]), verdict)


def render(
    picks: Sequence[Pick],
    tiles: TileSet,
    bundle: "Bundle",
    storage: Storage,
    *,
    d4: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[tuple[int, int], bytes]:
    """Draw picked tiles.

    Args:
        picks: what to show.
        tiles: those that the picks' rows are of.
        bundle: on the device that is to compute.
        storage: where the tiles are.
        d4: maps averaged over the eight symmetries.
        progress: told how far it is.

    Returns:
        (row, class) -> JPEG: the tile in the bundle's bands (red, green and blue where it has them,
        else the first three, or the first), its mean two standard deviations either way; and beside
        it where the class comes from, bright for evidence in favour, one scale a class. The tile
        alone where the head is dense. Tiles that cannot be read any more are left out.
    """
    import torch

    from satray.report.tiles import on_pixels, shrunk, stretched, thumbnail
    from satray.score.forward import Scorer

    spec = bundle.spec
    classes = sorted({pick.klass for pick in picks})
    request = MapRequest(tuple(classes)) if spec.variant.head == "linear" else None
    scorer = Scorer(bundle, request, AT_ONCE, d4=d4)
    colour = [spec.bands.index(name) for name in ("red", "green", "blue") if name in spec.bands]
    bands = colour if len(colour) == 3 else [0, 1, 2] if len(spec.bands) >= 3 else [0]
    middle, reach = (np.asarray(values)[bands] for values in (spec.mean, spec.std))
    low, high = tuple(middle - 2 * reach), tuple(middle + 2 * reach)
    geometry = spec.preprocess().geometry(*spec.tile_shape)
    wanted = wanted_of(spec, tiles)
    rows = sorted({pick.row for pick in picks})
    colours: dict[int, NDArray[np.uint8]] = {}
    evidence: dict[tuple[int, int], NDArray[np.float64]] = {}
    for start in range(0, len(rows), AT_ONCE):
        progress(f"pictures of {start:,} of {len(rows):,} tiles")
        some = rows[start : start + AT_ONCE]
        block = read_block(tiles.table.take(some), wanted, storage)
        maps = scorer(block.pixels).maps if request is not None else {}
        values_NCHW = spec.preprocess().values(torch.from_numpy(block.pixels)).numpy()
        for n, row in enumerate(some):
            if block.facts[n].error is not None:
                continue
            colours[row] = shrunk(stretched(values_NCHW[n, bands], low, high))
            height, width = colours[row].shape[:2]
            for klass in {pick.klass for pick in picks if maps and pick.row == row}:
                found = []
                for tower, values_NKhw in maps.items():
                    map_hw = values_NKhw[n, classes.index(klass)]
                    lattice = spec.grids[tower], len(map_hw)
                    cells = cells_on_tile(geometry, *lattice, height, width, d4=d4)
                    found.append(on_pixels(map_hw, cells, height, width))
                evidence[row, klass] = np.clip(np.sum(found, axis=0), 0, None)
    tops = dict.fromkeys(classes, 0.0)
    for (_, klass), found_HW in evidence.items():
        tops[klass] = max(tops[klass], float(found_HW.max()))
    pictures = {}
    for row, klass in {(pick.row, pick.klass) for pick in picks if pick.row in colours}:
        shown_HW = evidence.get((row, klass))
        if shown_HW is not None:
            shown_HW = shown_HW / (tops[klass] or 1.0)
        pictures[row, klass] = thumbnail(colours[row], shown_HW)
    return pictures
