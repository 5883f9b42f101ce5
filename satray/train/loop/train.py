"""The training loop in plain torch: a plan, batch iterators, reports.

Where `torch.distributed` is initialised, every rank has a `Loop`; the network is wrapped for
data-parallel training here, anew for each stage, since a stage changes which weights are trained.
"""

from __future__ import annotations

import functools
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from satray.data.augment import flip_at_random
from satray.errors import TrainingError
from satray.metrics.summary import compute_metrics
from satray.metrics.trap import watch
from satray.train.loop.averages import Keep
from satray.train.loop.epoch import EpochReport, Progress
from satray.train.loop.evaluation import Predictions, predict
from satray.train.loop.parallel import unwrap
from satray.train.loop.settings import LoopSettings
from satray.train.loop.state import TrainState, determinism
from satray.train.loop.step import Batch, TrainInput
from satray.train.loop.trainer import EpochSums, Trainer
from satray.train.losses import loss_for
from satray.train.plan import TrainingPlan

__all__ = ["Batch", "EpochReport", "Loop", "LoopSettings", "Progress", "TrainState"]


class Loop:
    """A training run, evaluated after each pseudo-epoch: whole by `run`, or a `step` at a time.

    Between steps torch's generators and switches are the caller's own.

    Args:
        network: logits_BK from x_BCHW, with `set_trainable(stage.trainable)`; a DDP wrapper
            around it is taken off. It is changed in place.
        plan: steps, stages and evaluations.
        settings: task, classes, optimiser, precision, seed, error budget.
        train_input: from stored values to the network's input, what is drawn included.
        eval_input: from stored values to the network's input, the same every time.
        device: where this rank computes.
        state: go on from here.
        progress: called about once a second, on every rank.
        keep: called on every rank with each snapshot that `settings.average` asks for (steps taken,
            state dict); its tensors are the live ones.

    Raises:
        InputError: the state is of another plan, or batch norm would see single tiles.
    """

    def __init__(
        self,
        network: nn.Module,
        plan: TrainingPlan,
        *,
        settings: LoopSettings,
        train_input: TrainInput,
        eval_input: Callable[[Tensor], Tensor],
        device: torch.device | str = "cpu",
        state: TrainState | None = None,
        progress: Callable[[Progress], None] | None = None,
        keep: Keep | None = None,
    ) -> None:
        self._network, self._device = unwrap(network), torch.device(device)
        self._plan, self._settings = plan, settings
        self._eval_input = eval_input
        # Channels last: 1.2 times as fast as planar on CPUs (ResNet-18, 128 px), and what GPUs
        # want for bf16.
        self._network.to(self._device).to(memory_format=torch.channels_last)
        self._trainer = Trainer(
            self._network, plan, settings, train_input, self._device, progress, keep
        )
        self.pseudo_epoch = 0
        """Pseudo-epochs done."""
        self.history: tuple[dict[str, Any], ...] = ()
        """A row of each."""
        if state is not None:
            with self._apart():
                self._trainer.restore(state)
            self.pseudo_epoch, self.history = state.pseudo_epoch, state.history

    @property
    def done(self) -> bool:
        """Whether the plan is."""
        return self.pseudo_epoch >= self._plan.pseudo_epochs

    def run(
        self,
        train_batches: Callable[[int], Iterator[Batch]],
        val_batches: Callable[[], Iterator[Batch]],
        report: Callable[[EpochReport, TrainState], None],
    ) -> None:
        """Step to the end of the plan.

        Args:
            train_batches: pseudo-epoch -> this worker's batches of it, each `plan.local_batch`
                tiles, `plan.steps_in(pseudo_epoch)` of them or more.
            val_batches: this worker's share of the validation split; rows may repeat.
            report: called on every rank after each evaluation. The state's tensors are the live
                ones: serialise it (`to_bytes`, on one rank) before returning.

        Raises:
            TrainingError: as `step`.
        """
        while not self.done:
            report(*self.step(train_batches, val_batches))
        self.close()

    def step(
        self,
        train_batches: Callable[[int], Iterator[Batch]],
        val_batches: Callable[[], Iterator[Batch]],
    ) -> tuple[EpochReport, TrainState]:
        """Train for a pseudo-epoch and evaluate; of batches and state see `run`.

        Raises:
            TrainingError: a loss or a logit that is not finite, batches that end early, more
                unreadable tiles than `settings.error_budget` allows, or no validation tile that
                can be read.
        """
        plan, settings, pseudo_epoch = self._plan, self._settings, self.pseudo_epoch
        with self._apart():
            sums = self._trainer.run(pseudo_epoch, train_batches(pseudo_epoch))
            samples = plan.steps_in(pseudo_epoch) * plan.global_batch
            _within_budget(sums.unreadable, samples, f"pseudo-epoch {pseudo_epoch + 1}", settings)
            started = time.perf_counter()
            with self._trainer.averages.applied():
                turn = flips(settings, pseudo_epoch)
                predictions = predict(  # in fp32
                    self._network, val_batches(), self._eval_input, self._device, turn
                )
            found = len(predictions.rows) + predictions.unreadable
            _within_budget(predictions.unreadable, found, "validation", settings)
            done = _summary(plan, settings, pseudo_epoch, sums, predictions, started)
        self.pseudo_epoch += 1
        self.history = (*self.history, done.row())
        return done, self._trainer.state(self.pseudo_epoch, self.history)

    def close(self) -> None:
        """Give the network its usual memory format back."""
        self._network.to(memory_format=torch.contiguous_format)

    @contextmanager
    def _apart(self) -> Iterator[None]:
        """Generators and switches of torch are as they were afterwards."""
        devices = [self._device] if self._device.type == "cuda" else []
        with (
            torch.random.fork_rng(devices),
            determinism(self._settings.deterministic),
            warnings.catch_warnings(),
        ):
            # Ray's arrays are read-only, and nothing here writes to a batch.
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            yield


def flips(
    settings: LoopSettings, pseudo_epoch: int
) -> Callable[[torch.Tensor, NDArray[np.int64]], torch.Tensor] | None:
    """What turns validation tiles, where the recipe wants them turned."""
    if not settings.evaluate_flip:
        return None
    return functools.partial(flip_at_random, pseudo_epoch=pseudo_epoch, seed=settings.seed)


def _within_budget(unreadable: int, tiles: int, where: str, settings: LoopSettings) -> None:
    """Stop where too many tiles cannot be read; the counts are the same on all ranks."""
    if tiles and unreadable / tiles > settings.error_budget:
        raise TrainingError(
            f"{where}: {unreadable:,} of {tiles:,} tiles could not be read (error_budget="
            f"{settings.error_budget:g}); the last checkpoint stays, and rerunning goes on from it"
        )


def _summary(
    plan: TrainingPlan,
    settings: LoopSettings,
    pseudo_epoch: int,
    sums: EpochSums,
    predictions: Predictions,
    started: float,
) -> EpochReport:
    step = plan.ends[pseudo_epoch]
    stage = plan.stage_at(step - 1)
    samples = plan.steps_in(pseudo_epoch) * plan.global_batch
    if not len(predictions.rows):
        raise TrainingError("validation: none of its tiles could be read")
    if not np.isfinite(predictions.logits_NK).all():
        raise TrainingError(
            f"validation logits are not finite after {step * plan.global_batch:,} samples; the "
            "last checkpoint stays. A lower learning rate may help"
        )
    losses_N = loss_for(settings.task)(
        torch.from_numpy(predictions.logits_NK).double(),
        torch.from_numpy(predictions.labels_NK).double(),
    )
    metrics = compute_metrics(
        predictions.logits_NK, predictions.labels_NK, settings.classes, settings.task
    )
    return EpochReport(
        pseudo_epoch=pseudo_epoch,
        stage=stage.number,
        stage_began=stage.first_step * plan.global_batch,
        step=step,
        samples_seen=step * plan.global_batch,
        times_seen=step * plan.global_batch / plan.train_rows,
        learning_rate=plan.learning_rate(step - 1),
        train_loss=sums.loss,
        val_loss=float(losses_N.mean()),
        metrics=metrics,
        images_per_second=samples / (sums.seconds_data + sums.seconds_compute),
        seconds_data=sums.seconds_data,
        seconds_compute=sums.seconds_compute,
        seconds_evaluate=time.perf_counter() - started,
        unreadable=sums.unreadable,
        val_unreadable=predictions.unreadable,
        watch=watch(predictions.logits_NK, predictions.labels_NK, settings.classes, settings.task),
        predictions=predictions,
    )
