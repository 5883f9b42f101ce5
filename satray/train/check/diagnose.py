"""What a network that cannot learn one batch looks like: a verdict from evidence. No torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal[
    "passed",
    "labels_constant",
    "labels_change",
    "labels_contradict",
    "not_finite",
    "probabilities",
    "no_gradient",
    "rate_too_high",
    "rate_too_low",
    "one_class",
    "flat",
    "unfinished",
]

BETTER = 0.5
"""Another learning rate explains a failure where it ends below this share of the loss."""
FLAT = 0.05
"""A loss that ends within this share of where it began is flat."""
RISEN = 1.2
"""A loss that ends at this many times where it began has risen."""
BURST = 3.0
"""A loss that was this many times where it began has burst, wherever it ended: what is dead then
stays dead."""
EASIER = 0.9
"""Labels are easier than others where their mean loss is below this share of the others'."""


@dataclass(frozen=True)
class Trace:
    """One attempt at the batch, at a constant learning rate."""

    learning_rate: float
    """Of all steps."""

    losses: tuple[float, ...]
    """Before each step, and after the last; ends early where learnt, or with one that is not
    finite."""

    accuracy: float
    """Share of right decisions at the end, 0 to 1."""

    learnt: bool
    """Whether loss and accuracy are what is asked for."""

    one_class: bool
    """Whether decisions at the end are the same for all tiles, and the labels are not."""

    gradient: float
    """Norm of the gradient at the first step."""

    @property
    def first(self) -> float:
        """The loss at the start."""
        return self.losses[0]

    @property
    def last(self) -> float:
        """The loss at the end: the median of the last tenth, infinite where it is not finite."""
        if not math.isfinite(self.losses[-1]):
            return math.inf
        tail = sorted(self.losses[-max(1, len(self.losses) // 10) :])
        return tail[len(tail) // 2]

    @property
    def worst(self) -> float:
        """The highest loss on the way; infinite where one is not finite."""
        return max(loss if math.isfinite(loss) else math.inf for loss in self.losses)

    @property
    def steps(self) -> int:
        """Steps taken."""
        return len(self.losses) - 1


@dataclass(frozen=True)
class Evidence:
    """All that is known about an attempt."""

    main: Trace
    """At the learning rate asked for."""

    tiles: int
    """Tiles in the batch."""

    labels_constant: bool
    """Whether every class has the same label on all tiles."""

    changed: int = 0
    """Tiles whose labels or pixels were not the same each time that they were read."""

    contradictions: int = 0
    """Tiles that have the same pixels as another and other labels."""

    bounded: bool = False
    """Whether the network's outputs stay within 0 to 1 whichever way they are pushed."""

    others: tuple[Trace, ...] = ()
    """Attempts at other learning rates, from the same weights."""

    dealt: tuple[float, ...] = ()
    """Mean loss of attempts with labels dealt out at random, over as many steps as `main` took."""


@dataclass(frozen=True)
class Verdict:
    """What it looks like."""

    kind: Kind
    """In a word."""

    line: str
    """In a line, with figures."""

    @property
    def passed(self) -> bool:
        """Whether the check is passed."""
        return self.kind == "passed"


def diagnose(evidence: Evidence) -> Verdict:
    """Say what the evidence looks like; what explains most comes first."""
    main = evidence.main
    rate = f"learning rate {main.learning_rate:.3g}"
    ends = f"loss {_said(main.first)} -> {_said(main.last)} in {main.steps} steps"
    if evidence.labels_constant:
        return Verdict(
            "labels_constant",
            f"labels constant: all {evidence.tiles} tiles have the same labels, so there is "
            "nothing to tell apart; look at the labels, or take a larger batch",
        )
    if evidence.changed:
        return Verdict(
            "labels_change",
            f"shuffled labels: {evidence.changed} of {evidence.tiles} tiles had other labels or "
            f"pixels when they were read again ({ends}); tiles and labels come apart on the way",
        )
    if main.learnt:
        return Verdict(
            "passed",
            f"passed: {evidence.tiles} tiles learnt in {main.steps} steps, loss "
            f"{_said(main.losses[-1])}, accuracy {main.accuracy:.0%}, {rate}",
        )
    if evidence.contradictions:
        return Verdict(
            "labels_contradict",
            f"contradicting labels: {evidence.contradictions} of {evidence.tiles} tiles have the "
            f"same pixels as another and other labels ({ends})",
        )
    if not math.isfinite(main.first):
        return Verdict(
            "not_finite",
            f"the loss is {main.first} before the first step: look at the first weights and at "
            "the mean and deviation that tiles are normalised by",
        )
    if evidence.bounded:
        return Verdict(
            "probabilities",
            f"a double sigmoid: the network's outputs stay within 0 to 1 whichever way they are "
            f"pushed, and the loss takes them for logits, so it cannot get far below "
            f"{math.log1p(math.exp(-1)):.2f} ({ends}); return raw logits",
        )
    if main.gradient == 0:
        return Verdict(
            "no_gradient",
            f"flat loss: no gradient reaches what is trained ({ends}); look at what is frozen, "
            "and for units that are all dead",
        )
    return _by_rate(evidence, ends, rate)


def _by_rate(evidence: Evidence, ends: str, rate: str) -> Verdict:
    """Learning rate, or else what the end looks like."""
    main = evidence.main
    best = min(evidence.others, key=lambda trace: (not trace.learnt, trace.last), default=None)
    if best is not None and (best.learnt or best.last < BETTER * main.last):
        word: Kind = "rate_too_low" if best.learning_rate > main.learning_rate else "rate_too_high"
        way = "low" if word == "rate_too_low" else "high"
        end = f"learnt in {best.steps} steps" if best.learnt else f"loss {_said(best.last)}"
        return Verdict(
            word,
            f"{rate} is too {way}: {ends}, and from the same weights at {best.learning_rate:.3g}: "
            f"{end}",
        )
    if main.last > RISEN * main.first or main.worst > BURST * main.first:
        return Verdict(
            "rate_too_high",
            f"{rate} is too high, or the network cannot bear any: {ends}, up to "
            f"{_said(main.worst)} on the way{_tried(evidence.others)}",
        )
    flat = abs(main.last - main.first) <= FLAT * main.first
    if main.one_class:
        return Verdict(
            "one_class",
            f"predictions all one class{' and the loss flat' if flat else ''}: {ends}, accuracy "
            f"{main.accuracy:.0%}, {rate}{_tried(evidence.others)}; the network does not see what "
            "tells the tiles apart",
        )
    if flat:
        return Verdict("flat", f"flat loss: {ends}, {rate}{_tried(evidence.others)}")
    return Verdict(
        "unfinished",
        f"not there yet: {ends}, accuracy {main.accuracy:.0%}, {rate}{_tried(evidence.others)}; "
        "more check.steps may do, or the network is too small",
    )


def _tried(others: Sequence[Trace]) -> str:
    if not others:
        return ""
    told = ", ".join(f"{each.learning_rate:.2g}: {_said(each.last)}" for each in others)
    return f" (at other rates, {told})"


def labels_note(evidence: Evidence) -> str | None:
    """Whether labels dealt out at random are as easy as the given ones; None where not tried.

    A note, no verdict: a large network learns any labels of a few tiles nearly as fast.
    """
    if not evidence.main.learnt or not evidence.dealt:
        return None
    own, least = sum(evidence.main.losses) / len(evidence.main.losses), min(evidence.dealt)
    told = (
        f"mean loss on the way {own:.3f}, with the same labels dealt out at random "
        f"{' '.join(f'{value:.3f}' for value in evidence.dealt)}"
    )
    if own < EASIER * least:
        return f"{told}: the given labels are easier, so they belong to their tiles"
    if own < least:
        return f"{told}: hardly easier, so this batch cannot tell whether labels fit their tiles"
    return f"{told}: no easier, as if labels did not belong to their tiles; look at some"


def _said(value: float) -> str:
    return f"{value:.4g}"
