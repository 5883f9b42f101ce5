"""The plan of a training run: pure arithmetic from recipe, train rows and workers to steps.

Everything is counted in samples from the start of the run, and only what comes out is rounded to
whole global batches: the plan depends on the worker count only through the local batch, and the
samples that it trains on depend on the batch by half a batch at most.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from satray.config.train import StageOptions, TrainRecipe
from satray.errors import InputError
from satray.train.plan.schedules import learning_rate, momentum, warmup_steps
from satray.train.plan.span import Span, whole_steps
from satray.train.plan.stage_notes import notes


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

    @property
    def end_step(self) -> int:
        """Steps of the run when this stage is over."""
        return self.first_step + self.span.steps

    def line(self, global_batch: int) -> str:
        """What it trains, for how long and how fast, for a person."""
        options = self.options
        whole = options.trainable in ("head", "all")
        part = options.trainable if whole else f"{options.trainable} and all after it"
        rate = "found by a range test" if self.peak is None else f"{self.peak:.3g}"
        slower = (
            f", {options.layer_decay:g} of it from block to block"
            if options.layer_decay < 1
            else ""
        )
        return (
            f"{part}, {self.span.steps * global_batch:,} samples, {options.schedule.name}, highest "
            f"learning rate {rate}{slower}"
        )


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

    warnings: tuple[str, ...] = ()
    """What is allowed but probably not meant; one line each."""

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
    def lines(self) -> tuple[str, ...]:
        """What each stage does, for a person."""
        return tuple(
            f"stage {stage.number + 1} of {len(self.stages)}: {stage.line(self.global_batch)}"
            for stage in self.stages
        )

    def steps_in(self, pseudo_epoch: int) -> int:
        """Steps of a pseudo-epoch (0 is the first)."""
        before = self.ends[pseudo_epoch - 1] if pseudo_epoch else 0
        return self.ends[pseudo_epoch] - before

    def stage_at(self, step: int) -> PlannedStage:
        """The stage that a step (0 is the first of the run) belongs to."""
        for stage in self.stages:
            if stage.first_step <= step < stage.end_step:
                return stage
        raise ValueError(f"step {step} lies outside a run of {self.total_steps} steps")

    def learning_rate(self, step: int) -> float:
        """Learning rate of a step (0 is the first of the run).

        Raises:
            ValueError: no such step, or its stage's rate has not been found yet (`with_rates`).
        """
        stage = self.stage_at(step)
        if stage.peak is None:
            raise ValueError(f"stages[{stage.number}].learning_rate=auto has not been found yet")
        return learning_rate(
            stage.options.schedule, stage.peak, step - stage.first_step, stage.span
        )

    def momentum(self, step: int) -> float | None:
        """Momentum (Adam: beta1) of a step, or None where its schedule does not cycle it."""
        stage = self.stage_at(step)
        return momentum(stage.options.schedule, step - stage.first_step, stage.span)

    def with_rates(self, rates: Sequence[float | None]) -> TrainingPlan:
        """The same plan with highest learning rates that have been found.

        Args:
            rates: one a stage, in order; None leaves a stage's as it is.

        Raises:
            ValueError: another number of rates than of stages, or one that is not above 0.
        """
        if len(rates) != len(self.stages):
            raise ValueError(f"{len(rates)} learning rates for {len(self.stages)} stages")
        if any(rate is not None and not rate > 0 for rate in rates):
            raise ValueError(f"learning rates {tuple(rates)} are not all above 0")
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
        InputError: the batch does not divide over the workers, is larger than the split or than
            the pseudo-epoch, a stage comes out with no step, or a warm-up fills its stage.
    """
    batch = recipe.batch
    if batch % workers:
        below = batch - batch % workers
        near = f"{below} or {below + workers}" if below else f"{workers}"
        raise InputError(
            f"batch={batch}: does not divide over {workers} workers; take a multiple of "
            f"{workers}, such as {near}"
        )
    if batch > train_rows:
        raise InputError(
            f"batch={batch}: larger than the train split of {train_rows:,} tiles; take at most "
            f"{train_rows - train_rows % workers:,}"
        )
    samples = train_rows if recipe.pseudo_epoch is None else recipe.pseudo_epoch
    if samples < batch:
        raise InputError(
            f"pseudo_epoch={samples}: shorter than one batch of {batch}; take at least {batch}"
        )
    each, exact_end = samples / batch, 0.0
    stages: list[PlannedStage] = []
    warnings: list[str] = []
    for number, options in enumerate(recipe.stages):
        first, exact_first = stages[-1].end_step if stages else 0, exact_end
        exact_end += _length(options, batch, each)
        span = Span(whole_steps(exact_end) - first, each, exact_first - first)
        _check(options, number, batch, span)
        rate = options.learning_rate
        stages.append(
            PlannedStage(
                number=number,
                options=options,
                first_step=first,
                span=span,
                peak=None if rate == "auto" else rate,
            )
        )
        warnings += notes(options.schedule, span, number)
    return TrainingPlan(
        train_rows=train_rows,
        workers=workers,
        global_batch=batch,
        steps_per_pseudo_epoch=each,
        stages=tuple(stages),
        warnings=tuple(warnings),
    )


def _length(options: StageOptions, batch: int, steps_per_pseudo_epoch: float) -> float:
    """A stage's length in steps, not rounded."""
    if options.samples is not None:
        return options.samples / batch
    return options.pseudo_epochs * steps_per_pseudo_epoch


def _check(options: StageOptions, number: int, batch: int, span: Span) -> None:
    """Refuse a stage without a step, or without room for more than its warm-up."""
    if span.steps < 1:
        if options.samples is not None:
            length, least = f"samples={options.samples}", f"{batch}"
        else:
            length = f"pseudo_epochs={options.pseudo_epochs:g}"
            least = f"{1 / span.steps_per_pseudo_epoch:.3g}"
        raise InputError(f"stages[{number}].{length}: less than one batch; take at least {least}")
    if warmup_steps(options.schedule, span) >= span.steps:
        raise InputError(
            f"stages[{number}].schedule.warmup={options.schedule.warmup:g} pseudo-epochs: not "
            f"shorter than its stage of {span.pseudo_epochs:.3g}; take less, or a longer stage"
        )
