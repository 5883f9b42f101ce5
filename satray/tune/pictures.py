"""What is reported of a sweep, and its plots."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from satray.config.tune import TuneRecipe
from satray.report.style import PANELS_MOST
from satray.report.sweeps import Measure, Trial, parallel, rates, trial_curves
from satray.tune.records import Metric, TrialRecord
from satray.tune.space import Space, canonical, same
from satray.tune.trials import label, short_value

HEADINGS = {"learning_rate": "learning rate", "name": "schedule"}
"""Last part of a key -> heading, where another word says it better."""


@dataclass(frozen=True)
class Reported:
    """A sweep that is over, as far as it is reported."""

    recipe: TuneRecipe
    """As given."""
    space: Space
    """What was searched."""
    metric: Metric
    """What trials are compared by."""
    records: Sequence[TrialRecord]
    """All trials that ended."""
    planned: int
    """How many were to be."""
    best_yaml: str
    """`best.yaml`."""
    about: Mapping[str, str] = field(default_factory=dict)
    """What else was found out, name -> line: digest of the index, features, refit, ..."""
    tests: Mapping[str, bytes] = field(default_factory=dict)
    """Range tests: heading -> PNG."""
    notes: Sequence[str] = ()
    """What a reader must know before any figure."""


def draw(sweep: Reported) -> dict[str, bytes]:
    """The plots by name: `parallel`; `rates` where learning rates were searched; `curves`."""
    trials = [_trial(one, sweep.metric) for one in in_order(sweep)]
    measure = Measure(sweep.metric.title, sweep.metric.mode == "max")
    plots = {"parallel": parallel(trials, axes_of(sweep), measure)}
    rate = next((key for key in sweep.space.keys if key.endswith(".learning_rate")), None)
    if rate is not None:
        by = [key for key in axes_of(sweep) if key != rate]
        apart = "variant" if "variant" in by else None
        colour = next((key for key in by if key.endswith("schedule.name")), "")
        plots["rates"] = rates(trials, rate, _panels(trials, apart), colour, measure)
    plots["curves"] = trial_curves(trials, measure)
    return plots


def in_order(sweep: Reported) -> list[TrialRecord]:
    """The trials in the order of the axes' values, not in that in which they ended."""
    return sorted(sweep.records, key=lambda one: (_place(sweep.space, one), one.id))


def axes_of(sweep: Reported) -> dict[str, str]:
    """Keys that trials differ in, with headings."""
    found = [key for key in sweep.space.keys if len(groups(sweep.records, key)) > 1]
    lasts = [HEADINGS.get(key.split(".")[-1], key.split(".")[-1]) for key in found]
    return {
        key: last if lasts.count(last) == 1 else key for key, last in zip(found, lasts, strict=True)
    }


def groups(records: Sequence[TrialRecord], key: str) -> list[tuple[Any, list[TrialRecord]]]:
    """Values that trials have for a key, in the order of appearance, each with its trials."""
    found: dict[str, tuple[Any, list[TrialRecord]]] = {}
    for one in records:
        if key in one.configuration:
            value = one.configuration[key]
            found.setdefault(canonical(value), (value, []))[1].append(one)
    return list(found.values())


def _panels(trials: Sequence[Trial], key: str | None) -> list[tuple[str, list[Trial]]]:
    """Trials by a key's value; the first of the values where there are too many."""
    if key is None:
        return [("all trials", list(trials))]
    found: dict[str, list[Trial]] = {}
    for one in trials:
        found.setdefault(str(one.values.get(key, "–")), []).append(one)
    return list(found.items())[:PANELS_MOST]


def _trial(one: TrialRecord, metric: Metric) -> Trial:
    values = {key: _shown(key, value) for key, value in one.configuration.items()}
    score = math.nan if one.best is None else one.best
    curve = [(row["samples"], metric.of(row)) for row in one.curve]
    return Trial(label(one.configuration), values, score, curve)


def _shown(key: str, value: Any) -> Any:
    """Numbers as they are, all else in words."""
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return value if plain else short_value(key, value)


def _place(space: Space, one: TrialRecord) -> tuple[int, ...]:
    """Where a configuration stands in the order of the axes' values."""
    found = []
    for axis in space.axes:
        if axis.applies(one.configuration) and axis.key in one.configuration:
            values = axis.domain.grid()
            value = one.configuration[axis.key]
            found.append(next((i for i, each in enumerate(values) if same(each, value)), 0))
    return tuple(found)
