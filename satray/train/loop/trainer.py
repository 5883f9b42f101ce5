"""One rank's moving parts: the stage at hand, its optimiser, the wrapped network, one step.

Shapes: B tiles of this worker's batch, C bands, H and W pixels, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from satray.data.augment import send
from satray.data.order import samples
from satray.errors import InputError, TrainingError
from satray.train.loop.averages import Averages, Keep
from satray.train.loop.clock import Clock
from satray.train.loop.dropout import HeadDropout
from satray.train.loop.epoch import Progress
from satray.train.loop.evaluation import Batch
from satray.train.loop.inputs import TrainInput
from satray.train.loop.losses import make_loss
from satray.train.loop.mixup import mix, shares
from satray.train.loop.optimizers import make_optimizer, parameter_groups, set_rate
from satray.train.loop.parallel import add_up, rank, resting_norms, wrap
from satray.train.loop.settings import LoopSettings
from satray.train.loop.stage_check import refuse_single
from satray.train.loop.state import TrainState, model_state, seed_torch
from satray.train.plan.stages import PlannedStage, TrainingPlan


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
        self._dropout = HeadDropout(network)
        self._stage: PlannedStage | None = None
        self._optimizer: torch.optim.Optimizer
        self._wrapped: nn.Module

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
        sums = torch.zeros(2, dtype=torch.float64, device=self._device)
        clock = Clock(self._device)
        unchecked: Tensor | None = None
        for step in range(first, first + steps):
            batch = clock.wait(batches)
            if batch is None:
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
            added = self._step(batch, step, pseudo_epoch)
            sums += added
            clock.launched()
            if self._device.type == "cpu":
                self._check(added, step)
            elif unchecked is not None:
                self._check(unchecked, step - 1)  # one step late, so that the GPU never idles
            unchecked = added
            self.averages.snapshot(step + 1)
            if self._progress is not None and clock.due():
                self._tell(self._progress, pseudo_epoch, step, first, added, clock)
        loss, readable = sums.tolist()
        self._check(sums, first + steps - 1)
        return EpochSums(
            loss=loss / readable if readable else math.nan,
            unreadable=steps * plan.global_batch - round(readable),
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
        if self._plan.local_batch == 1:
            refuse_single(self.network, self._plan.global_batch, self._plan.workers)
        self._dropout.enter(stage.options.dropout)
        groups = parameter_groups(self.network, stage.options.layer_decay)
        self._optimizer = make_optimizer(self._settings.optimizer, groups)
        self._wrapped = wrap(self.network, self._device)
        self._stage = stage

    def _step(self, batch: Batch, step: int, pseudo_epoch: int) -> Tensor:
        """One global batch; gives (sum of losses, readable samples) over all workers.

        Without a readable sample nothing is learnt: weight decay and momentum rest too.
        """
        settings, device = self._settings, self._device
        rows, valid = (torch.as_tensor(batch[name]).cpu().numpy() for name in ("row", "valid"))
        if len(rows) != self._plan.local_batch:
            raise TrainingError(f"a batch of {len(rows)} tiles, not {self._plan.local_batch}")
        copies = torch.as_tensor(batch["copy"]).cpu().numpy()
        pixels_BCHW = torch.as_tensor(batch["pixels"])
        if not valid.all():
            pixels_BCHW = _stand_in(pixels_BCHW, valid)
        pixels_BCHW = send(pixels_BCHW, device)
        x_BCHW = self._train_input(pixels_BCHW, rows, copies, pseudo_epoch)
        labels_BK = send(torch.as_tensor(batch["labels"]), device).float()
        if settings.mixup:
            drawn = samples(rows, copies)
            share_B = shares(settings.mixup, settings.seed, pseudo_epoch, drawn)
            x_BCHW, labels_BK = mix(x_BCHW, labels_BK, share_B, valid)
        weight_B = send(torch.from_numpy(valid.astype(np.float32)), device)

        set_rate(self._optimizer, self._plan.learning_rate(step), self._plan.momentum(step))
        self._optimizer.zero_grad(set_to_none=True)
        with ExitStack() as stack:
            stack.enter_context(torch.autocast(device.type, torch.bfloat16, enabled=settings.bf16))
            if not valid.any():  # nothing for batch norms to learn; to synchronised ones, the means
                stack.enter_context(resting_norms(self.network))
                x_BCHW = torch.zeros_like(x_BCHW)
            logits_BK = self._wrapped(x_BCHW)
        loss = (self._loss(logits_BK.float(), labels_BK) * weight_B).sum()
        sums = add_up(torch.stack([loss.detach().double(), weight_B.sum().double()]))
        # DDP averages gradients over ranks; this makes it the mean over all readable samples.
        scale = self._plan.workers / sums[1].clamp(min=1.0)
        torch.autograd.backward(loss * scale.float())
        # A rank with a readable tile knows that there is one; only the others need to look at the
        # sum, which makes a GPU wait. So all ranks agree, and all have been through `backward`.
        if valid.any() or float(sums[1]) > 0:
            self._optimizer.step()
            self.averages.update()
        return sums

    def _check(self, sums: Tensor, step: int) -> None:
        loss = float(sums[0])
        if math.isfinite(loss):
            return
        stage = self._plan.stage_at(step)
        raise TrainingError(
            f"the loss is {loss} at sample {(step + 1) * self._plan.global_batch:,} (learning "
            f"rate {self._plan.learning_rate(step):.3g}); the last checkpoint stays. A lower "
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
        loss, readable = sums.tolist()
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


def _stand_in(pixels_BCHW: Tensor, valid: np.ndarray[Any, np.dtype[np.bool_]]) -> Tensor:
    """Readable tiles of the batch in the unreadable ones' place, to keep batch norm sane.

    They have weight 0 in the loss. A batch without a readable tile stays as it is.
    """
    readable = np.flatnonzero(valid)
    if not len(readable):
        return pixels_BCHW
    take = np.arange(len(valid))
    take[~valid] = np.resize(readable, int((~valid).sum()))
    carried = pixels_BCHW.view(torch.int16) if pixels_BCHW.dtype == torch.uint16 else pixels_BCHW
    return carried[torch.from_numpy(take)].view(pixels_BCHW.dtype)
