"""The majority trap: a class that occurs both ways is predicted always, or never.

Accuracy hides it: where 78 % of the tiles have no ship, "never a ship" is 78 % right. Training and
reports both look for it here, and say it in the same words.

Shapes: N tiles, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from satray.metrics.ranking import BoolArray
from satray.metrics.scored import PLAIN, Rule, decide

NAMED = 8
"""Classes that a warning names."""


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
        kinds = (("always", "every", self.always), ("never", "no", self.never))
        return tuple(
            f"majority trap: {_listed(names)} predicted {kind} (on {which} tile), though the "
            "labels go both ways"
            for kind, which, names in kinds
            if names
        )


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
    labels = np.asarray(labels_NK).astype(bool)
    rates_K = decide(logits_NK, task, rule).mean(axis=0)
    constant_K = np.asarray(labels.all(axis=0) | ~labels.any(axis=0))
    return stuck(dict(zip(classes, rates_K.tolist(), strict=True)), constant_K)


def stuck(rates: Mapping[str, float], constant_K: BoolArray) -> Watch:
    """The same from predicted-positive rates, in the order of the classes.

    Args:
        rates: class name -> share of tiles that it is predicted on.
        constant_K: the classes that the labels have on all tiles or on none; never stuck.
    """
    moving = [name for name, same in zip(rates, constant_K.tolist(), strict=True) if not same]
    return Watch(
        rates=dict(rates),
        always=tuple(name for name in moving if rates[name] == 1.0),
        never=tuple(name for name in moving if rates[name] == 0.0),
    )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
