"""The best trial of a sweep, and its configuration as a recipe that `train` takes unchanged."""

from __future__ import annotations

import math
from collections.abc import Sequence

from satray.config.cli import to_yaml
from satray.config.train import TrainRecipe
from satray.errors import TrainingError
from satray.tune.records import Metric, TrialRecord, ranked
from satray.tune.space import Range, Space, text
from satray.tune.trials import label

LEFT_OUT = ("out", "overwrite", "resources")
"""Keys of a training that are of one place and one day."""

EDGE = 0.05
"""Share of a range within which a value is at its end."""


def best_record(records: Sequence[TrialRecord], metric: Metric) -> TrialRecord:
    """The best of those that have shown something.

    Raises:
        TrainingError: none has.
    """
    found = [one for one in ranked(records, metric) if one.best is not None]
    if not found:
        reasons = dict.fromkeys(one.reason for one in records if one.reason)
        told = f"; the first of them: {next(iter(reasons))}" if reasons else ""
        raise TrainingError(
            f"none of {len(records):,} trials has a {metric.title}: all failed{told}"
        )
    return found[0]


def best_yaml(recipe: TrainRecipe, notes: Sequence[str] = ()) -> str:
    """`best.yaml`: the index and every key that differs from its default.

    Args:
        recipe: `full_recipe` of the best configuration, with the views that it was trained on.
        notes: lines written above it as comments.
    """
    tree = recipe.model_dump(mode="json", exclude_defaults=True, exclude=set(LEFT_OUT))
    body = to_yaml(tree)
    head = [f"# {line}".rstrip() for note in notes for line in note.splitlines()]
    usage = "#   python jobs/train.py best.yaml out=..."
    return "\n".join([*head, *(["#"] if head else []), usage, "", body])


def edge_lines(space: Space, best: TrialRecord) -> tuple[str, ...]:
    """A line for each range at whose end the best trial stands: beyond may be better."""
    lines = []
    for axis in space.axes:
        value, domain = best.configuration.get(axis.key), axis.domain
        if not isinstance(domain, Range) or not axis.applies(best.configuration):
            continue
        if isinstance(value, int | float):
            share = _share(float(value), domain)
            end = "lowest" if share <= EDGE else "highest" if share >= 1 - EDGE else ""
            if end:
                lines.append(
                    f"the best {axis.key}, {text(value)}, is about the {end} that was tried "
                    f"({domain.words()}): beyond it may be better"
                )
    return tuple(lines)


def best_lines(records: Sequence[TrialRecord], metric: Metric, space: Space) -> tuple[str, ...]:
    """What is told of the best at the end; raises TrainingError where there is none."""
    best = best_record(records, metric)
    return (
        f"best by {metric.title}: {best.best:.4f} after {best.best_samples:,} samples, trial "
        f"{best.id}: {label(best.configuration)}",
        *edge_lines(space, best),
    )


def _share(value: float, domain: Range) -> float:
    """Where in a range a value stands, 0 to 1."""
    if domain.kind == "log_uniform":
        return math.log(value / domain.low) / math.log(domain.high / domain.low)
    return (value - domain.low) / (domain.high - domain.low)
