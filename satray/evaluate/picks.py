"""Which tiles a report shows: the surest and the least sure of a class, and the worst errors.

Shapes: N tiles, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from satray.errors import InputError
from satray.metrics.scored import Scored

MOST = 10
"""Tiles at either end of a class."""
WORST = 20
"""Errors shown."""
CLASSES = 20
"""Classes shown where nobody asks for some."""


@dataclass(frozen=True)
class Pick:
    """A tile to show, for one class."""

    row: int
    """Row of the tile, 0 to N - 1."""
    klass: int
    """Place of the class that it is shown for, and whose map lies beside it."""
    score: float
    """Probability of that class, 0 to 1."""
    given: bool
    """Whether the class is given."""
    right: bool
    """Whether that is true."""

    @property
    def verdict(self) -> str:
        """TP, FP, FN or TN."""
        return ("T" if self.right else "F") + ("P" if self.given else "N")


@dataclass(frozen=True)
class ClassPicks:
    """The tiles of one class."""

    klass: int
    """Its place."""
    given: int
    """Tiles that are given the class."""
    right: int
    """How many of them have it."""
    positives: int
    """Tiles that have it."""
    top: tuple[Pick, ...]
    """The most confident of them, surest first."""
    bottom: tuple[Pick, ...]
    """The least confident of them, least sure first; none of `top`."""


def ends(scored: Scored, klass: int, most: int = MOST) -> ClassPicks:
    """The surest and least sure of the tiles that are given a class.

    Ranked by logit (log odds for `multiclass`), since scores saturate into ties; equal ones by
    row. Only tiles that are given the class count: the report's figure 3 took two below its
    threshold for its most confident ones.

    Args:
        scored: the split.
        klass: place of the class.
        most: tiles at either end; where fewer than twice as many are given, the top has them
            first.
    """
    rows = np.flatnonzero(scored.given[:, klass])
    order = rows[np.argsort(-scored.ranks[rows, klass], kind="stable")]
    top, rest = order[:most], order[most:]
    bottom = rest[::-1][:most]
    return ClassPicks(
        klass,
        len(order),
        int(scored.labels[rows, klass].sum()),
        int(scored.labels[:, klass].sum()),
        tuple(_pick(scored, int(row), klass) for row in top),
        tuple(_pick(scored, int(row), klass) for row in bottom),
    )


def worst(scored: Scored, most: int = WORST) -> tuple[Pick, ...]:
    """The wrong decisions of highest loss, worst first.

    A decision is a tile and a class; for `multiclass` a tile, shown for the class it was given.
    """
    wrong_NK = scored.given != scored.labels
    if scored.task == "multiclass":
        wrong_NK &= scored.given
        rows, columns = np.nonzero(wrong_NK)
        losses = scored.losses[rows]
    else:
        rows, columns = np.nonzero(wrong_NK)
        # the logit towards the wrong side: the loss grows with it, and saturates where it does not
        ranks = scored.ranks[rows, columns]
        losses = np.where(scored.labels[rows, columns], -ranks, ranks)
    order = np.argsort(-losses, kind="stable")[:most]
    return tuple(_pick(scored, int(rows[i]), int(columns[i])) for i in order)


def shown_classes(
    asked: Sequence[str] | None, classes: Sequence[str], positives: Sequence[int]
) -> list[int]:
    """Places of the classes to show.

    Args:
        asked: names (`check_asked`); None: those with most positives, `CLASSES` at most.
        classes: K names.
        positives: K numbers of positives.
    """
    if asked is None:
        order = sorted(range(len(classes)), key=lambda k: (-positives[k], k))
        return sorted(order[:CLASSES])
    return list(dict.fromkeys(classes.index(name) for name in asked))


def check_asked(asked: Sequence[str] | None, classes: Sequence[str]) -> None:
    """Refuse names that the bundle lacks (InputError)."""
    absent = [name for name in asked or () if name not in classes]
    if absent:
        raise InputError(
            f"gallery: no {', '.join(absent)} in the bundle; accepted: {', '.join(classes)}"
        )


def _pick(scored: Scored, row: int, klass: int) -> Pick:
    given, true = bool(scored.given[row, klass]), bool(scored.labels[row, klass])
    return Pick(row, klass, float(scored.scores[row, klass]), given, given == true)
