"""A sweep of made-up trials, for tables, plots and pages."""

import math
from collections.abc import Sequence
from typing import Any

from satray.config.cli import validate
from satray.config.tune import TuneRecipe
from satray.tune.records import Metric, TrialRecord, trial_id
from satray.tune.trials import Sweep, configurations, space_of

BANDS = ("red", "green", "blue", "nir")
MAP, LOSS = Metric("map"), Metric("loss")


def tune(**keys: Any) -> TuneRecipe:
    """A recipe with an index."""
    return validate(TuneRecipe, {"index": "/data/index"} | keys)


def record(configuration: dict[str, Any], *values: float, metric: Metric = MAP, **more: Any):
    """A trial whose metric took these values, one each thousand samples."""
    curve = [
        {"samples": 1000 * (i + 1), "learning_rate": 0.1, "train_loss": 1.0 / (i + 1)}
        | {"val_loss": 2.0 / (i + 1)}
        | {metric.column: value}
        for i, value in enumerate(values)
    ]
    told = {"regime": "head", "seed": 0, "status": "done", "reason": None, "seconds": 1.5} | more
    begun = TrialRecord(trial_id(configuration), configuration, told["regime"], told["seed"])
    seconds = [told["seconds"] / max(len(curve), 1)] * len(curve)
    return begun.evaluated(curve, seconds).ended(metric, told["status"], told["reason"])


def sweep(metric: Metric = MAP, **keys: Any) -> tuple[Sweep, list[TrialRecord]]:
    """A whole sweep, of an index that nobody reads: some trials stopped, every seventh failed."""
    recipe = tune(**keys)
    space = space_of(recipe, BANDS, 1000)
    found = configurations(recipe, space)
    records = [made_up(one, place, metric) for place, one in enumerate(found)]
    return Sweep(recipe, None, space, metric, tuple(records)), records


def made_up(configuration: dict[str, Any], place: int, metric: Metric) -> TrialRecord:
    """A trial that does well around a learning rate of 1e-2, and better with one cycle."""
    if place % 7 == 3:
        return record(configuration, status="failed", reason="the loss is not finite")
    rate = configuration.get("stages.0.learning_rate", 1e-2)
    far = abs(math.log10(rate) + 2)
    good = 0.9 - 0.1 * far - 0.02 * (place % 5)
    good += 0.03 * (configuration.get("stages.0.schedule.name") == "one_cycle")
    ends: Sequence[float] = [good * (1 - 0.5 ** (i + 1)) for i in range(6)]
    if metric.mode == "min":
        ends = [1.2 - value if rate < 0.05 else 40.0 for value in ends]
    status = "stopped" if place % 5 == 1 else "done"
    kept = ends[:3] if status == "stopped" else ends
    return record(configuration, *kept, metric=metric, status=status)
