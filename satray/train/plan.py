"""The plan of a run: pure arithmetic from recipe, train rows and workers to steps. No torch.

Everything is counted in samples from the start of the run, and only what comes out is rounded to
whole global batches: the plan depends on the worker count only through the local batch, and the
samples that it trains on depend on the batch by half a batch at most.

Shapes: N tiles of the train split, K classes.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from numpy.typing import NDArray

from satray.config.train import StageOptions, TrainRecipe
from satray.data.order import TrainOrder
from satray.errors import InputError
from satray.train.imbalance import repeat_factors
from satray.train.schedules import (
    Span,
    cycle_ends,
    learning_rate,
    momentum,
    warmup_of,
    warmup_steps,
    whole_steps,
)

MOST_SNAPSHOTS = 5
"""Weights that are averaged, at the most: the last ones."""
SNAPSHOTS_FROM = 0.75
"""Share of the run after which they are taken, where no schedule cycles."""


@dataclass(frozen=True)
class PlannedStage:
    """A stage with its place in the run."""

    number: int
    """0 for the first stage."""
    options: StageOptions
    """The stage as the recipe has it."""
    first_step: int
    """Steps of the run before this stage."""
    span: Span
    """How long it is."""
    peak: float | None
    """Its highest learning rate; None until the range test of `learning_rate: auto` has run."""
    dropout: float
    """Share of the pooled features that is dropped."""

    @property
    def end_step(self) -> int:
        """Steps of the run when this stage is over."""
        return self.first_step + self.span.steps


@dataclass(frozen=True)
class TrainingPlan:
    """Steps, stages and evaluations of a run."""

    train_rows: int
    """Tiles in the train split."""
    workers: int
    """Processes that share each batch."""
    global_batch: int
    """Tiles a step, over all workers."""
    steps_per_pseudo_epoch: float
    """Steps between evaluations as a mean; two pseudo-epochs may differ by a step."""
    stages: tuple[PlannedStage, ...]
    """In order; each starts where the one before it ends."""
    snapshots: tuple[int, ...] = ()
    """Steps of the run after which weights are averaged (`average.swa`), rising."""

    @property
    def local_batch(self) -> int:
        """Tiles a step and worker."""
        return self.global_batch // self.workers

    @property
    def samples_per_pseudo_epoch(self) -> int:
        """Samples between evaluations, over all workers, as a mean."""
        return round(self.steps_per_pseudo_epoch * self.global_batch)

    @property
    def total_steps(self) -> int:
        """Steps of the run."""
        return self.stages[-1].end_step

    @property
    def total_samples(self) -> int:
        """Samples seen when the run is over."""
        return self.total_steps * self.global_batch

    @cached_property
    def ends(self) -> tuple[int, ...]:
        """Steps taken at the end of each pseudo-epoch; the last may be a short one."""
        each, total = self.steps_per_pseudo_epoch, self.total_steps
        ends = (whole_steps(number * each) for number in itertools.count(1))
        return (*itertools.takewhile(lambda end: end < total, ends), total)

    @property
    def pseudo_epochs(self) -> int:
        """How many evaluations there are."""
        return len(self.ends)

    @property
    def rounds(self) -> int:
        """Rows of the history: a pseudo-epoch each, and the last for the mean of the snapshots."""
        return self.pseudo_epochs + bool(self.snapshots)

    @property
    def lines(self) -> tuple[str, ...]:
        """What each stage trains, for how long and how fast, for a person."""
        lines = []
        for stage in self.stages:
            options = stage.options
            whole = options.trainable in ("head", "all")
            part = options.trainable if whole else f"{options.trainable} and all after it"
            rate = "found by a range test" if stage.peak is None else f"{stage.peak:.3g}"
            decay = options.layer_decay
            slower = f", {decay:g} of it from block to block" if decay < 1 else ""
            lines.append(
                f"stage {stage.number + 1} of {len(self.stages)}: {part}, "
                f"{stage.span.steps * self.global_batch:,} samples, {options.schedule.name}, "
                f"highest learning rate {rate}{slower}"
            )
        if self.snapshots:
            seen = ", ".join(f"{step * self.global_batch:,}" for step in self.snapshots)
            lines.append(f"weights after {seen} samples are averaged at the end")
        return tuple(lines)

    def steps_in(self, pseudo_epoch: int) -> int:
        """Steps of a pseudo-epoch (0 is the first); past the last, of a pass over the split."""
        if pseudo_epoch == self.pseudo_epochs:
            return self.train_rows // self.global_batch
        before = self.ends[pseudo_epoch - 1] if pseudo_epoch else 0
        return self.ends[pseudo_epoch] - before

    def stage_at(self, step: int) -> PlannedStage:
        """The stage that a step (0 is the first of the run) belongs to."""
        return next(stage for stage in self.stages if step < stage.end_step)

    def learning_rate(self, step: int) -> float:
        """Learning rate of a step (0 is the first of the run), once all are found."""
        stage = self.stage_at(step)
        assert stage.peak is not None, "a range test finds it: with_rates"
        schedule = stage.options.schedule
        return learning_rate(schedule, stage.peak, step - stage.first_step, stage.span)

    def momentum(self, step: int) -> float | None:
        """Momentum (Adam: beta1) of a step, or None where its schedule does not cycle it."""
        stage = self.stage_at(step)
        return momentum(stage.options.schedule, step - stage.first_step, stage.span)

    def with_rates(self, rates: Sequence[float | None]) -> TrainingPlan:
        """The same plan with highest learning rates that have been found.

        Args:
            rates: one a stage, in order; None leaves a stage's as it is.
        """
        stages = tuple(
            stage if rate is None else replace(stage, peak=rate)
            for stage, rate in zip(self.stages, rates, strict=True)
        )
        return replace(self, stages=stages)


def plan_training(recipe: TrainRecipe, train_rows: int, workers: int) -> TrainingPlan:
    """Lay out a run.

    A pseudo-epoch is `recipe.pseudo_epoch` samples (default: the train split); a stage is its
    samples, or its share of pseudo-epochs. The ends of both, counted from the start of the run,
    are rounded to whole steps.

    Raises:
        InputError: the batch does not divide over the workers and their parts, is larger than the
            split or than the pseudo-epoch, a stage comes out with no step, or a warm-up fills its
            stage.
    """
    batch, parts = recipe.batch, workers * recipe.accumulate
    if batch % parts:
        below = batch - batch % parts
        near = f"{below} or {below + parts}" if below else f"{parts}"
        more = f" and {recipe.accumulate} parts each (accumulate)" if recipe.accumulate > 1 else ""
        raise InputError(
            f"batch={batch}: does not divide over {workers} workers{more}; take a multiple of "
            f"{parts}, such as {near}"
        )
    if batch > train_rows:
        most = train_rows - train_rows % parts
        fewer = "" if most else ", over fewer workers or parts (resources.workers, accumulate)"
        raise InputError(
            f"batch={batch}: larger than the train split of {train_rows:,} tiles; take at most "
            f"{most or train_rows:,}{fewer}"
        )
    samples = train_rows if recipe.pseudo_epoch is None else recipe.pseudo_epoch
    if samples < batch:
        raise InputError(
            f"pseudo_epoch={samples}: shorter than one batch of {batch}; take at least {batch}"
        )
    each, first, over = samples / batch, 0, 0.0
    stages: list[PlannedStage] = []
    for number, options in enumerate(recipe.stages):
        length = options.pseudo_epochs if options.samples is None else options.samples / samples
        over += length * each
        span = Span(whole_steps(over) - first, length)
        if span.steps < 1:
            key, least = "samples", f"{batch}"
            if options.samples is None:
                key, least = "pseudo_epochs", f"{1 / each:.3g}"
            raise InputError(
                f"stages[{number}].{key}={getattr(options, key):g}: less than one batch; take at "
                f"least {least}"
            )
        if warmup_steps(options.schedule, span) >= span.steps:
            raise InputError(
                f"stages[{number}].schedule.warmup={warmup_of(options.schedule, span):g} "
                "pseudo-epochs: not "
                f"shorter than its stage of {length:.3g}; take less, or a longer stage"
            )
        rate, dropout = options.learning_rate, options.dropout
        stages.append(
            PlannedStage(
                number=number,
                options=options,
                first_step=first,
                span=span,
                peak=None if rate == "auto" else rate,
                dropout=recipe.dropout if dropout is None else dropout,
            )
        )
        first += span.steps
    plan = TrainingPlan(train_rows, workers, batch, each, tuple(stages))
    return replace(plan, snapshots=_snapshots(plan) if recipe.average.swa else ())


def _snapshots(plan: TrainingPlan) -> tuple[int, ...]:
    """Steps after which weights are averaged; the last `MOST_SNAPSHOTS`.

    They are the cycle ends of the stages that train what the last stage trains: weights from
    before something was thawed have no place in an average with those from after. Where there
    are not two of them, pseudo-epoch ends past `SNAPSHOTS_FROM` of the run.
    """
    last = plan.stages[-1].options.trainable
    same = [stage for stage in plan.stages if stage.options.trainable == last]
    steps = {s.first_step + end for s in same for end in cycle_ends(s.options.schedule, s.span)}
    if len(steps) < 2:
        late = [end for end in plan.ends if end > SNAPSHOTS_FROM * plan.total_steps]
        steps = {end for end in late if plan.stage_at(end - 1) in same}
    return tuple(sorted(steps))[-MOST_SNAPSHOTS:]


def train_order(recipe: TrainRecipe, plan: TrainingPlan, labels_NK: NDArray[Any]) -> TrainOrder:
    """Rows of each round: of a pseudo-epoch, or for the batch statistics of the snapshots' mean.

    Args:
        recipe: seed, shuffling, class-aware sampling.
        plan: of the run.
        labels_NK: 0 or 1, of the train split.
    """
    steps = map(plan.steps_in, range(plan.rounds))
    ends = tuple(end * plan.global_batch for end in itertools.accumulate(steps))
    repeats = repeat_factors(labels_NK, recipe.repeat)
    return TrainOrder(len(labels_NK), ends, recipe.seed, recipe.shuffle, repeats)
