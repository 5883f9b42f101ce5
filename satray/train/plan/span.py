"""How long a stage is, in steps: what schedules are laid out over."""

from __future__ import annotations

import math
from dataclasses import dataclass


def whole_steps(steps: float) -> int:
    """The nearest whole number of steps, of two the lower.

    A relative 1e-12 is left for what arithmetic adds, so that one length reached on two ways (a
    stage's end, an evaluation's, a cycle's) never becomes two numbers.
    """
    return math.ceil(steps * (1.0 - 1e-12) - 0.5)


@dataclass(frozen=True)
class Span:
    """The stretch of steps that a schedule runs over."""

    steps: int
    """Steps in the stage; one step is one global batch."""

    steps_per_pseudo_epoch: float
    """Steps that a pseudo-epoch takes, not rounded: what lengths in it are turned into."""

    offset: float = 0.0
    """How many steps after its first whole step it would begin, were nothing rounded: -0.5 to
    0.5. Lengths count from there, so that roundings never add up."""

    @property
    def pseudo_epochs(self) -> float:
        """The stage's length in pseudo-epochs."""
        return self.steps / self.steps_per_pseudo_epoch

    def whole(self, pseudo_epochs: float) -> int:
        """The whole steps taken after so many pseudo-epochs."""
        return max(0, whole_steps(self.offset + pseudo_epochs * self.steps_per_pseudo_epoch))

    def after(self, steps: int, pseudo_epochs: float) -> Span:
        """What is left of the stage after so many steps, which stand for so many pseudo-epochs."""
        exact = self.offset + pseudo_epochs * self.steps_per_pseudo_epoch
        offset = min(0.5, max(-0.5, exact - steps))
        return Span(self.steps - steps, self.steps_per_pseudo_epoch, offset)
