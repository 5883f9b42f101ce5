"""How long a stage is, in steps: what schedules are laid out over."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Span:
    """The stretch of steps that a schedule runs over."""

    steps: int
    """Steps in the stage; one step is one global batch."""

    steps_per_pseudo_epoch: int
    """Steps between two evaluations: what lengths in pseudo-epochs are turned into."""

    @property
    def pseudo_epochs(self) -> float:
        """The stage's length in pseudo-epochs."""
        return self.steps / self.steps_per_pseudo_epoch

    def whole(self, pseudo_epochs: float) -> int:
        """A length in pseudo-epochs as whole steps."""
        return round(pseudo_epochs * self.steps_per_pseudo_epoch)

    def after(self, steps: int) -> Span:
        """What is left of the stage after so many steps."""
        return Span(self.steps - steps, self.steps_per_pseudo_epoch)
