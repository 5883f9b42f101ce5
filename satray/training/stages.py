"""The plan of a training run: pure arithmetic from recipe, train rows and workers to steps.

Everything is counted in samples and rounded to whole global batches, so that the plan depends on
the worker count only through the local batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from satray.config.train import StageOptions, TrainRecipe
from satray.errors import InputError
from satray.training.schedules import Span, drop_interval, learning_rate


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

    steps_per_pseudo_epoch: int
    """Steps between evaluations."""

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
        """Samples between evaluations, over all workers: whole batches."""
        return self.steps_per_pseudo_epoch * self.global_batch

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
        whole = range(
            self.steps_per_pseudo_epoch, self.total_steps + 1, self.steps_per_pseudo_epoch
        )
        ends = tuple(whole)
        return ends if ends and ends[-1] == self.total_steps else (*ends, self.total_steps)

    @property
    def pseudo_epochs(self) -> int:
        """How many evaluations there are."""
        return len(self.ends)

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
        """Learning rate of a step (0 is the first of the run)."""
        stage = self.stage_at(step)
        options = stage.options
        return learning_rate(
            options.schedule, options.learning_rate, step - stage.first_step, stage.span
        )


def plan_training(recipe: TrainRecipe, train_rows: int, workers: int) -> TrainingPlan:
    """Lay out a run.

    A pseudo-epoch is `recipe.pseudo_epoch` samples (default: the train split) rounded down to
    whole batches; a stage is its share of pseudo-epochs rounded to whole steps.

    Raises:
        InputError: the batch does not divide over the workers, is larger than the split or than
            the pseudo-epoch, or a stage comes out with no step.
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
    steps_per_pseudo_epoch = samples // batch
    stages: list[PlannedStage] = []
    warnings: list[str] = []
    for number, options in enumerate(recipe.stages):
        steps = round(options.pseudo_epochs * steps_per_pseudo_epoch)
        if steps < 1:
            raise InputError(
                f"stages[{number}].pseudo_epochs={options.pseudo_epochs:g}: less than one batch; "
                f"take at least {1 / steps_per_pseudo_epoch:.3g}"
            )
        span = Span(steps=steps, steps_per_pseudo_epoch=steps_per_pseudo_epoch)
        first = stages[-1].end_step if stages else 0
        stages.append(PlannedStage(number=number, options=options, first_step=first, span=span))
        schedule = options.schedule
        if schedule.name == "step" and drop_interval(schedule, span) >= steps:
            warnings.append(
                f"stages[{number}].schedule.step={schedule.step:g} pseudo-epochs is not shorter "
                f"than the stage ({options.pseudo_epochs:g}): the learning rate never drops"
            )
    return TrainingPlan(
        train_rows=train_rows,
        workers=workers,
        global_batch=batch,
        steps_per_pseudo_epoch=steps_per_pseudo_epoch,
        stages=tuple(stages),
        warnings=tuple(warnings),
    )
