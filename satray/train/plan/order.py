"""The order in which a run's tiles come. No torch."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from satray.config.train import TrainRecipe
from satray.data.order import TrainOrder
from satray.train.plan import snapshots
from satray.train.plan.imbalance import repeat_factors
from satray.train.plan.stages import TrainingPlan


def train_order(recipe: TrainRecipe, plan: TrainingPlan, labels_NK: NDArray[Any]) -> TrainOrder:
    """Rows of each pseudo-epoch, and after the last those that renew batch statistics.

    Args:
        recipe: seed, shuffling, class-aware sampling.
        plan: of the run.
        labels_NK: 0 or 1, of the train split.
    """
    ends = tuple(steps * plan.global_batch for steps in plan.ends)
    if renewal := snapshots.renewal_steps(plan, recipe.average):
        ends = (*ends, ends[-1] + renewal * plan.global_batch)
    repeats = repeat_factors(labels_NK, recipe.repeat)
    return TrainOrder(len(labels_NK), ends, recipe.seed, recipe.shuffle, repeats)
