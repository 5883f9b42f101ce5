"""The learning-rate range test as arithmetic on curves: rates, smoothing, suggestions. No torch.

Leslie Smith's test (arXiv 1506.01186) in fastai's form: the learning rate grows exponentially
from batch to batch, the loss is averaged with a debiased memory, and the curve without its first
tenth and its last five points says where learning sets in and where it breaks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from satray.config.train import RangeOptions
from satray.errors import TrainingError

Name = Literal["valley", "steep", "minimum"]

LAST = 5
"""Points at the end of a curve that say nothing: the loss is bursting there."""
FEWEST = 4
"""Points that a curve needs in between, at the least."""


@dataclass(frozen=True)
class Curve:
    """One sweep; it ends where the loss burst."""

    learning_rates: tuple[float, ...]
    """Learning rate of each step."""

    losses: tuple[float, ...]
    """Loss of each step, before its update; finite."""

    smoothed: tuple[float, ...]
    """Debiased moving average of the losses."""

    steps: int
    """Steps that were planned."""


@dataclass(frozen=True)
class Suggestions:
    """Learning rates that a curve suggests."""

    valley: float
    """Half of the way along the longest fall of the loss (fastai's default)."""

    steep: float
    """Where the loss falls fastest by the logarithm of the rate."""

    minimum: float
    """A tenth of the rate at which the loss is lowest."""

    def of(self, name: Name) -> float:
        """One of them."""
        return {"valley": self.valley, "steep": self.steep, "minimum": self.minimum}[name]

    @property
    def bounds(self) -> tuple[float, float]:
        """What an automatic choice is kept within: steep / 3 to 3 x minimum."""
        return self.steep / 3, self.minimum * 3


def rates(options: RangeOptions) -> NDArray[np.float64]:
    """The learning rate of each step: geometric from `lowest` to `highest`, both included."""
    return np.geomspace(options.lowest, options.highest, options.steps)


class Smoother:
    """A moving average that starts without a bias towards zero (as Adam's moments do)."""

    def __init__(self, memory: float) -> None:
        self._memory = memory
        self._sum = 0.0
        self._weight = 0.0

    def add(self, value: float) -> float:
        """The average with one more value."""
        self._sum = self._memory * self._sum + (1 - self._memory) * value
        self._weight = self._memory * self._weight + (1 - self._memory)
        return self._sum / self._weight


def suggest(curve: Curve) -> Suggestions:
    """What one curve suggests.

    Raises:
        TrainingError: too few points are left between its first tenth and its last five.
    """
    kept = slice(curve.steps // 10, -LAST)
    x, y = np.array(curve.learning_rates[kept]), np.array(curve.smoothed[kept])
    if len(x) < FEWEST:
        said = f"after {len(curve.losses)} of {curve.steps} batches"
        if curve.learning_rates:
            said += f", at a learning rate of {curve.learning_rates[-1]:.3g}"
        raise TrainingError(
            f"range test: the loss burst {said}, too early to suggest anything; take a smaller "
            "landscape.lowest"
        )
    slope = np.diff(y) / np.diff(np.log(x))
    return Suggestions(
        valley=float(x[valley_index(y)]),
        steep=float(x[int(slope.argmin())]),
        minimum=float(x[int(y.argmin())] / 10),
    )


def valley_index(losses: Sequence[float] | NDArray[np.float64]) -> int:
    """Where fastai's `valley` lies: in the longest falling subsequence that ends earliest.

    The window of a subsequence of L points that ends at e starts at e - L; the point is
    start + L // 3 + L // 6.
    """
    longest = np.ones(len(losses), dtype=np.int64)
    values = np.asarray(losses, dtype=np.float64)
    for i in range(1, len(values)):
        before = longest[:i][values[:i] > values[i]]
        if len(before):
            longest[i] = before.max() + 1
    end = int(longest.argmax())
    length = int(longest[end])
    if length == 1:  # nothing falls
        return 0
    return max(0, end - length + int(length / 3) + int(length / 6))


def median(found: Sequence[Suggestions]) -> Suggestions:
    """The median of each suggestion over repetitions, halfway on a logarithmic scale."""

    def middle(name: Name) -> float:
        return math.exp(float(np.median([math.log(each.of(name)) for each in found])))

    return Suggestions(middle("valley"), middle("steep"), middle("minimum"))


def choose(found: Suggestions, name: Name) -> float:
    """The learning rate that `auto` takes: the named suggestion, kept within its bounds.

    Where the bounds cross, the upper one wins: a rate too high costs more than one too low.
    """
    low, high = found.bounds
    return min(max(found.of(name), low), high)
