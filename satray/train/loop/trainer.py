"""One rank's moving parts: the stage at hand, its optimiser, the wrapped network, one step.

Shapes: B tiles of this worker's batch, C bands, H and W pixels, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, cast

import torch
from torch import Tensor, nn

from satray.errors import InputError, TrainingError
from satray.train.loop.averages import Averages, Keep
from satray.train.loop.clock import Clock
from satray.train.loop.epoch import Progress
from satray.train.loop.parallel import rank
from satray.train.loop.settings import LoopSettings
from satray.train.loop.stage_check import refuse_single
from satray.train.loop.state import TrainState, model_state, seed_torch
from satray.train.loop.step import Batch, Inputs, Results, TrainInput, TrainStep, ahead, inputs_of
from satray.train.losses import make_loss
from satray.train.optim import make_optimizer, parameter_groups, set_dropout
from satray.train.plan import PlannedStage, TrainingPlan

SKIPS = 10
"""Steps in a row that may come out not finite, and teach nothing, before training stops."""


@dataclass
class _Tally:
    """What the steps of a pseudo-epoch add up to."""

    loss: float = 0.0
    readable: float = 0.0
    seen: float = 0.0
    skipped: int = 0
    in_a_row: int = 0


@dataclass(frozen=True)
class EpochSums:
    """What a pseudo-epoch of training adds up to."""

    loss: float
    """Mean over the readable samples, over all workers; NaN if there is none."""

    unreadable: int
    """Samples that could not be read, over all workers."""

    seconds_data: float
    """This worker waited for batches."""

    seconds_compute: float
    """This worker did the rest."""


class Trainer:
    """Trains pseudo-epoch by pseudo-epoch; every rank has one."""

    def __init__(
        self,
        network: nn.Module,
        plan: TrainingPlan,
        settings: LoopSettings,
        train_input: TrainInput,
        device: torch.device,
        progress: Callable[[Progress], None] | None = None,
        keep: Keep | None = None,
    ) -> None:
        self.network = network
        self.averages = Averages(network, plan, settings.average, keep)
        self._plan = plan
        self._settings = settings
        self._train_input = train_input
        self._device = device
        self._progress = progress
        self._loss = make_loss(settings.loss, settings.task, settings.positive_weight)
        self._stage: PlannedStage | None = None
        self._optimizer: torch.optim.Optimizer
        self._step: TrainStep

    def restore(self, state: TrainState) -> None:
        """Go on from a state.

        Raises:
            InputError: it belongs to another plan.
        """
        plan = self._plan
        known = 0 < state.pseudo_epoch <= plan.pseudo_epochs
        if (
            not known
            or state.step != plan.ends[state.pseudo_epoch - 1]
            or state.global_batch != plan.global_batch
        ):
            raise InputError(
                f"checkpoint: {state.pseudo_epoch} pseudo-epochs, {state.step} steps of "
                f"{state.global_batch} tiles; the plan has {plan.pseudo_epochs} pseudo-epochs, "
                f"{plan.total_steps} steps of {plan.global_batch}"
            )
        self.network.load_state_dict(state.model)
        self.averages.restore(state.extra)
        # Where the next step opens a stage, that stage makes its own optimiser.
        stage = plan.stages[state.stage]
        if state.step < stage.end_step:
            self._enter(stage)
            self._optimizer.load_state_dict(state.optimizer)

    def state(self, pseudo_epochs: int, history: tuple[dict[str, Any], ...]) -> TrainState:
        """The run after so many pseudo-epochs; the tensors are the live ones."""
        assert self._stage is not None, "nothing has been trained"
        return TrainState(
            pseudo_epoch=pseudo_epochs,
            step=self._plan.ends[pseudo_epochs - 1],
            global_batch=self._plan.global_batch,
            stage=self._stage.number,
            model=model_state(self.network),
            optimizer=self._optimizer.state_dict(),
            history=history,
            extra=self.averages.state(),
        )

    def run(self, pseudo_epoch: int, batches: Iterator[Batch]) -> EpochSums:
        """Train for one pseudo-epoch (0 is the first).

        Raises:
            TrainingError: a loss that is not finite, or batches that end early.
        """
        plan = self._plan
        steps = plan.steps_in(pseudo_epoch)
        first = plan.ends[pseudo_epoch] - steps
        seed_torch(self._settings.seed, pseudo_epoch, rank())
        self.network.train()
        self.averages.begin()
        inputs = ahead(self._inputs(batches, pseudo_epoch, steps), self._device)
        clock = Clock(self._device)
        results, tally = Results(self._device), _Tally()
        for step in range(first, first + steps):
            taken = clock.wait(inputs)
            if taken is None:
                raise TrainingError(
                    f"pseudo-epoch {pseudo_epoch}: batches ended after {step - first} of {steps}"
                )
            stage = plan.stage_at(step)
            if self._stage is None or self._stage.number != stage.number:
                if step > first:
                    # Wrapping broadcasts rank 0's buffers; what the others saw in this
                    # pseudo-epoch counts too. At its start all ranks have the same.
                    self.averages.share()
                self._enter(stage)
            added = self._step(taken, plan.learning_rate(step), plan.momentum(step))
            self.averages.update()
            clock.launched()
            results.add(added)
            for result in results.ready():
                self._take(result, tally, step)
            self.averages.snapshot(step + 1)
            if self._progress is not None and clock.due():
                self._tell(self._progress, pseudo_epoch, step, first, added, clock)
        for result in results.ready(wait=True):
            self._take(result, tally, first + steps - 1)
        if tally.skipped == steps:
            raise self._not_finite(tally, first + steps - 1)
        return EpochSums(
            loss=tally.loss / tally.readable if tally.readable else math.nan,
            unreadable=steps * plan.global_batch - round(tally.seen),
            seconds_data=clock.waited,
            seconds_compute=clock.elapsed - clock.waited,
        )

    def _enter(self, stage: PlannedStage) -> None:
        """Freeze and thaw, make the optimiser, wrap for data-parallel training."""
        set_trainable = cast(Callable[[str], None], self.network.set_trainable)
        set_trainable(stage.options.trainable)
        self.network.zero_grad(set_to_none=True)
        self.network.train()
        self.averages.settle()
        self.averages.begin()
        if self._plan.micro_batch == 1:
            parts = self._plan.workers * self._plan.accumulate
            refuse_single(self.network, self._plan.global_batch, parts)
        set_dropout(self.network, stage.dropout)
        groups = parameter_groups(self.network, stage.options.layer_decay)
        self._optimizer = make_optimizer(self._settings.optimizer, groups)
        settings = self._settings
        gpu = self._device.type == "cuda"
        self._step = TrainStep(
            self.network,
            self._optimizer,
            self._loss,
            clip=settings.optimizer.clip,
            accumulate=self._plan.accumulate,
            bf16=settings.bf16,
            compile=gpu if settings.compile == "auto" else settings.compile,
        )
        self._stage = stage

    def _inputs(self, batches: Iterator[Batch], pseudo_epoch: int, steps: int) -> Iterator[Inputs]:
        settings = self._settings
        for batch in islice(batches, steps):
            if len(batch["row"]) != self._plan.local_batch:
                raise TrainingError(
                    f"a batch of {len(batch['row'])} tiles, not {self._plan.local_batch}"
                )
            yield inputs_of(
                batch,
                self._train_input,
                self._device,
                pseudo_epoch,
                mixing=settings.mixing,
            )

    def _take(self, result: list[float], tally: _Tally, step: int) -> None:
        """Add up what a step gave; stop where too many in a row were not finite."""
        loss, readable, bad = result
        tally.seen += readable
        if bad:
            tally.skipped += 1
            tally.in_a_row += 1
            self.averages.mend()
            if tally.in_a_row == SKIPS:
                raise self._not_finite(tally, step)
            return
        tally.in_a_row = 0
        tally.loss, tally.readable = tally.loss + loss, tally.readable + readable

    def _not_finite(self, tally: _Tally, step: int) -> TrainingError:
        stage = self._plan.stage_at(step)
        return TrainingError(
            f"{tally.in_a_row} steps in a row had a loss or a gradient that is not finite, the "
            f"last at sample {(step + 1) * self._plan.global_batch:,} (learning rate "
            f"{self._plan.learning_rate(step):.3g}); the last checkpoint stays. A lower "
            f"stages[{stage.number}].learning_rate may help"
        )

    def _tell(
        self,
        progress: Callable[[Progress], None],
        pseudo_epoch: int,
        step: int,
        first: int,
        sums: Tensor,
        clock: Clock,
    ) -> None:
        loss, readable, _ = sums.tolist()
        batch = self._plan.global_batch
        progress(
            Progress(
                pseudo_epoch=pseudo_epoch,
                step=step + 1,
                total_steps=self._plan.total_steps,
                samples_seen=(step + 1) * batch,
                loss=loss / readable if readable else math.nan,
                learning_rate=self._plan.learning_rate(step),
                images_per_second=(step + 1 - first) * batch / clock.elapsed,
            )
        )
