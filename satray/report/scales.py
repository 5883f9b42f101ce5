"""Where values of any kind stand on an upright axis from 0 to 1."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

ABSENT: Final = object()
"""Stands for a value that is not there."""
BELOW = -0.1
"""Where what is absent stands."""
WIDE = 20.0
"""Positive numbers whose largest is so many times the smallest are spread by their logarithms."""


@dataclass(frozen=True)
class Scale:
    """An axis, laid out for the values given."""

    heights: tuple[float, ...]
    """One a value, 0 to 1; `below` where it is absent."""
    ticks: tuple[tuple[float, str], ...]
    """Height and word."""
    fan: float
    """How far lines of one word may be moved from its height; 0 for numbers."""
    below: float = BELOW
    """Height of what is absent."""


def scale(values: Sequence[Any], order: Sequence[Any] = ()) -> Scale:
    """Lay out numbers by size, and anything else by words, from the top.

    Args:
        values: what is to be shown.
        order: values in the order that words are to have; default that of `values`.
    """
    there = [value for value in values if value is not ABSENT]
    if there and all(isinstance(v, int | float) and not isinstance(v, bool) for v in there):
        return _numbers(values, sorted({float(value) for value in there}))
    shown = {_word(value) for value in there}
    words = [word for word in dict.fromkeys(map(_word, (*order, *there))) if word in shown]
    place = {word: 1 - _even(i, len(words)) for i, word in enumerate(words)}
    heights = tuple(BELOW if v is ABSENT else place[_word(v)] for v in values)
    return Scale(heights, tuple((place[word], word) for word in words), _fan(len(words)))


def limits(values: NDArray[np.float64], higher: bool) -> tuple[float, float]:
    """Ends of an axis for scores: all of them where more is better.

    Where less is better, bad ones have no bounds: the axis ends three times as far from the best
    as the middle one is.
    """
    told = values[np.isfinite(values)]
    if not len(told):
        return 0.0, 1.0
    low, high = float(told.min()), float(told.max())
    if not higher:
        high = min(high, low + 3 * (float(np.median(told)) - low))
    if high - low < 1e-9:
        return low - 0.5 * max(abs(low), 1e-3), low + 0.5 * max(abs(low), 1e-3)
    return low, high


def _numbers(values: Sequence[Any], sizes: Sequence[float]) -> Scale:
    low, high = sizes[0], sizes[-1]
    by_log = low > 0 and high / low >= WIDE

    def height(value: float) -> float:
        if low == high:
            return 0.5
        if by_log:
            return math.log(value / low) / math.log(high / low)
        return (value - low) / (high - low)

    shown = sizes if len(sizes) <= 6 else _round_ones(low, high, by_log)
    return Scale(
        tuple(BELOW if value is ABSENT else height(float(value)) for value in values),
        tuple((height(size), f"{size:.3g}") for size in shown),
        _fan(len(sizes)) if len(sizes) <= 6 else 0.0,
    )


def _round_ones(low: float, high: float, by_log: bool) -> list[float]:
    if by_log:
        first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
        return [10.0**power for power in range(first, last + 1)] or [low, high]
    return [float(size) for size in np.linspace(low, high, 5)]


def _even(place: int, count: int) -> float:
    return 0.5 if count == 1 else place / (count - 1)


def _fan(count: int) -> float:
    """A tenth of the way between two words, or less."""
    return 0.04 if count < 2 else min(0.04, 0.2 / (count - 1))


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
