"""The majority trap: a class that occurs both ways is predicted always, or never.

Accuracy hides it: where 78 % of the tiles have no ship, "never a ship" is 78 % right.

Shapes: N tiles, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from satray.errors import listed
from satray.metrics.scored import PLAIN, BoolArray, Rule, decide


@dataclass(frozen=True)
class Watch:
    """How often each class is predicted, and which are stuck."""

    rates: dict[str, float]
    """Class name -> share of tiles that it is predicted on."""

    always: tuple[str, ...] = ()
    """Classes that occur both ways and are predicted on every tile."""

    never: tuple[str, ...] = ()
    """Classes that occur both ways and are predicted on no tile."""

    def warnings(self) -> tuple[str, ...]:
        """One line each for what is predicted always and never; none where nothing is stuck."""
        return tuple(
            f"majority trap: {listed(names, 8)} predicted {kind}, though the labels go both ways"
            for kind, names in (
                ("always (on every tile)", self.always), ("never (on no tile)", self.never)
            )
            if names
        )  # fmt: skip


def watch(
    logits_NK: NDArray[Any],
    labels_NK: NDArray[Any],
    classes: Sequence[str],
    task: str,
    rule: Rule = PLAIN,
) -> Watch:
    """See which classes are predicted always or never.

    Args:
        logits_NK: raw logits.
        labels_NK: 0 or 1.
        classes: K names.
        task: `binary`, `multilabel` or `multiclass`.
        rule: how decisions come of logits; default before anything is calibrated.
    """
    labels_NK = np.asarray(labels_NK).astype(bool)
    both_K: BoolArray = (labels_NK != labels_NK[:1]).any(axis=0)
    rates = dict(zip(classes, decide(logits_NK, task, rule).mean(axis=0).tolist(), strict=True))
    moving = [name for name, both in zip(classes, both_K, strict=True) if both]
    always, never = (tuple(n for n in moving if rates[n] == rate) for rate in (1.0, 0.0))
    return Watch(rates, always, never)
