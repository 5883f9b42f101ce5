"""The training loop in plain torch: a plan, batches, an evaluation in each of its rounds.

Where `torch.distributed` is initialised, every rank has a `Loop`. It serves whole networks fed with
tiles, and heads fed with cached features.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel

from satray.config.train import TrainRecipe
from satray.data.augment import Augment
from satray.errors import TrainingError
from satray.train.checkpoints import Kept, TrainState
from satray.train.evaluation import Predictions, evaluate, within_budget
from satray.train.losses import make_loss
from satray.train.mixing import Mixing
from satray.train.plan import PlannedStage, TrainingPlan
from satray.train.process import (
    determinism,
    live_norms,
    model_state,
    rank,
    seed_torch,
    share_running_statistics,
)
from satray.train.step import Batch, Inputs, Results, TrainInput, TrainStep, ahead, inputs_of

Batches = Callable[[int], Iterator[Batch]]
"""Pseudo-epoch -> this worker's batches of it, each of `plan.local_batch` tiles."""
Row = dict[str, Any]
"""One round and its evaluation, flat and plain: see `Loop.step`."""

TIMES = ("images_per_second", "seconds_data", "seconds_compute", "seconds_evaluate")
"""Columns of a row that tell of the machine, and differ from run to run."""
SKIPS = 10
"""Steps in a row, over pseudo-epochs and stops, that come out not finite and end training."""
TELL = 1.0
"""Seconds between two calls of `progress`."""


class Loop:
    """A training run, a round of its plan at a time: a pseudo-epoch, or the mean of snapshots.

    Between steps torch's generators and switches are the caller's own.

    Args:
        network: logits_BK from x_BCSS, with `set_trainable(stage.trainable)`. It is changed in
            place.
        plan: steps, stages and evaluations.
        recipe: optimiser, loss, averages, precision and the like.
        task: `binary`, `multilabel` or `multiclass`.
        classes: names, in the order of the logits.
        train_input: from stored values to the network's input, what is drawn included.
        eval_input: from stored values to the network's input, the same every time.
        positive_weight: of each class (bce); None: 1 (`satray.train.imbalance.class_weights`).
        bf16: autocast to bfloat16; on GPUs evaluation too, which on CPUs is in float32.
        device: where this rank computes.
        state: go on from here.
        progress: called about once a second with `pseudo_epoch` (0 for the first), `step` (steps
            taken), `loss` (mean over the global batch of a step not long ago) and
            `images_per_second` (in this pseudo-epoch, over all workers).
    """

    def __init__(
        self,
        network: nn.Module,
        plan: TrainingPlan,
        recipe: TrainRecipe,
        task: str,
        classes: tuple[str, ...],
        *,
        train_input: TrainInput,
        eval_input: Callable[[Tensor], Tensor],
        positive_weight: tuple[float, ...] | None = None,
        bf16: bool = False,
        device: torch.device | str = "cpu",
        state: TrainState | None = None,
        progress: Callable[[Row], None] | None = None,
    ) -> None:
        self._network, self._device = network, torch.device(device)
        self._plan, self._recipe, self._task, self._classes = plan, recipe, task, classes
        self._train_input, self._eval_input = train_input, eval_input
        self._bf16, self._progress = bf16, progress
        # Float32 convolutions take several times as long on GPUs; the jobs evaluate and score
        # compute in float32 everywhere.
        self.precision = "bf16" if bf16 and self._device.type == "cuda" else "fp32"
        """What evaluations are in."""
        self._loss = make_loss(recipe.loss, task, positive_weight)
        # Channels last: faster than planar on CPUs, and what GPUs want for bf16.
        network.to(self._device).to(memory_format=cast(Any, torch.channels_last))
        self._average = MovingAverage(network, recipe.average.ema)
        self._swa = AveragedModel(network) if plan.snapshots else None
        self._evaluated = self._average.kept
        self._mixing = Mixing.of(recipe.augment, recipe.seed)
        self._stage: PlannedStage | None = None
        self._optimizer: torch.optim.Optimizer
        self._step: TrainStep
        self.pseudo_epoch = 0
        """Rounds done."""
        self.history: tuple[Row, ...] = ()
        """A row of each."""
        self._bad = 0
        """The last steps in a row that were not finite."""
        if state is not None:
            with self._apart():
                self._restore(state)

    @property
    def done(self) -> bool:
        """Whether the plan is."""
        return self.pseudo_epoch >= self._plan.rounds

    def step(
        self, train_batches: Batches, val_batches: Callable[[], Iterator[Batch]]
    ) -> tuple[Row, Predictions | None]:
        """Train for a pseudo-epoch and evaluate; in a last round, the mean of snapshots (SWA).

        Of that mean a pass over the train split renews the batch statistics. P. Izmailov et al.,
        "Averaging Weights Leads to Wider Optima and Better Generalization", UAI 2018.

        Args:
            train_batches: `plan.steps_in(pseudo_epoch)` batches or more.
            val_batches: this worker's share of the validation split; rows may repeat.

        Returns:
            The same on all ranks but for the seconds: `kind` (`checkpoint`, or `swa` for the mean
            of snapshots), `pseudo_epoch`, `step` and `samples_seen` since the start of the run,
            `times_seen` (samples in units of the train split), `stage` of the last step and
            `stage_began` (samples seen then), its `learning_rate`, `train_loss` (mean over the
            readable samples, over all workers), `unreadable` samples (weight 0), `skipped` steps
            (not finite), `images_per_second` over all workers without evaluation, `seconds_data`
            that this worker waited for batches (a GPU: while it had nothing to do),
            `seconds_compute` that it trained and `seconds_evaluate`; and what `evaluate` gives, or
            for a mean none of that where it fails: it may be bad where no checkpoint is. On rank 0
            the validation logits behind them, else None.

        Raises:
            TrainingError: losses that are not finite, `SKIPS` in a row or all of the plan's; a
                logit that is not; batches that end early; more unreadable tiles than the recipe's
                `error_budget` allows, or no validation tile that can be read.
        """
        with self._apart():
            batches = train_batches(self.pseudo_epoch)
            trains = self.pseudo_epoch < self._plan.pseudo_epochs
            row = self._train(batches) if trains else self._renew(batches)
            return self._judged(row, val_batches)

    def state(self) -> TrainState:
        """The run after the rounds that are done; its tensors are the live ones."""
        return TrainState(
            pseudo_epoch=self.pseudo_epoch,
            model=model_state(self._network),
            optimizer={} if self._stage is None else self._optimizer.state_dict(),
            history=self.history,
            bad=self._bad,
            average=self._average.state(),
            swa={} if self._swa is None else model_state(self._swa),
        )

    def kept(self, seen: Predictions) -> Kept:
        """What was evaluated last, copied to the CPU's memory, and what it gave.

        Args:
            seen: the logits of that evaluation.
        """
        weights = {name: v.cpu().clone() for name, v in model_state(self._evaluated).items()}
        row = {name: value for name, value in self.history[-1].items() if name not in TIMES}
        return Kept(row["samples_seen"], weights, row, seen, self.precision)

    def _restore(self, state: TrainState) -> None:
        self._network.load_state_dict(state.model)
        self._average.restore(state.average)
        if self._swa is not None:
            self._swa.load_state_dict(state.swa)
        self.pseudo_epoch, self.history, self._bad = state.pseudo_epoch, state.history, state.bad
        if state.pseudo_epoch >= self._plan.pseudo_epochs:
            return
        step = self._plan.ends[state.pseudo_epoch - 1]
        stage = self._plan.stage_at(step - 1)
        if step < stage.end_step:  # else the next stage makes its own optimiser
            self._enter(stage)
            self._optimizer.load_state_dict(state.optimizer)

    def _enter(self, stage: PlannedStage) -> None:
        recipe, wanted = self._recipe, self._recipe.compile
        self._step = TrainStep(
            self._network,
            recipe.optimizer,
            stage,
            self._loss,
            accumulate=recipe.accumulate,
            bf16=self._bf16,
            compile=self._device.type == "cuda" if wanted == "auto" else wanted,
        )
        self._stage, self._optimizer = stage, self._step.optimizer
        self._average.begin()

    def _judged(
        self, row: Row, val_batches: Callable[[], Iterator[Batch]]
    ) -> tuple[Row, Predictions | None]:
        """Evaluate in a round of which the first part of the row is given: it is done then."""
        began, predictions = time.perf_counter(), None
        with suppress(*(TrainingError,) if row["kind"] == "swa" else ()):
            found, predictions = self._evaluate(val_batches())
            row |= found
        row["seconds_evaluate"] = time.perf_counter() - began
        self.pseudo_epoch += 1
        self.history = (*self.history, row)
        return row, predictions

    def _inputs(self, batches: Iterator[Batch]) -> Iterator[Inputs]:
        """What the network is given of this pseudo-epoch's batches."""
        steps = self._plan.steps_in(self.pseudo_epoch)
        given = (self._train_input, self._device, self.pseudo_epoch, self._mixing)
        return ahead((inputs_of(each, *given) for each in islice(batches, steps)), self._device)

    def _train(self, batches: Iterator[Batch]) -> Row:
        """Train for one pseudo-epoch: its part of the row."""
        plan, batch, pseudo_epoch = self._plan, self._plan.global_batch, self.pseudo_epoch
        steps, end = plan.steps_in(pseudo_epoch), plan.ends[pseudo_epoch]
        first = end - steps
        seed_torch(self._recipe.seed, pseudo_epoch, rank())
        self._network.train()
        self._average.begin()
        inputs = self._inputs(batches)
        results = Results(self._device)
        taken: list[list[float]] = []
        """Of each step: sum of losses, readable tiles, whether it was not finite."""
        most = min(SKIPS, plan.total_steps)
        began = shown = time.perf_counter()
        waited = 0.0
        for step in range(first, end):
            asked = time.perf_counter()
            batch_now = next(inputs, None)
            if not results.busy:
                waited += time.perf_counter() - asked
            if batch_now is None:
                raise TrainingError(
                    f"pseudo-epoch {pseudo_epoch}: batches ended after {step - first} of {steps}"
                )
            stage = plan.stage_at(step)
            if self._stage is None or self._stage.number != stage.number:
                if step > first:
                    # Wrapping broadcasts rank 0's buffers; what the others saw in this
                    # pseudo-epoch counts too. At its start all ranks have the same.
                    self._average.share()
                self._enter(stage)
            results.add(self._step(batch_now, plan.learning_rate(step), plan.momentum(step)))
            self._average.update()
            if self._swa is not None and step + 1 in plan.snapshots:
                self._swa.update_parameters(self._average.kept)
            for result in results.ready(wait=step + 1 == end):
                taken.append(result)
                self._bad = self._bad + 1 if result[-1] else 0
                if result[-1]:
                    self._average.mend()
                if self._bad == most:
                    raise TrainingError(
                        f"{most} steps in a row had a loss or a gradient that is not finite, the "
                        f"last at sample {(step + 1) * batch:,} (learning rate "
                        f"{plan.learning_rate(step):.3g}). A lower stages[{stage.number}]."
                        "learning_rate may help"
                    )
            if self._progress is not None and time.perf_counter() - shown >= TELL:
                shown = time.perf_counter()
                now = {
                    "pseudo_epoch": pseudo_epoch,
                    "step": step + 1,
                    "loss": _mean(taken[-1:]),
                    "images_per_second": (step + 1 - first) * batch / (shown - began),
                }
                self._progress(now)
        self._average.share()
        return self._row(taken, waited, time.perf_counter() - began)

    def _renew(self, batches: Iterator[Batch]) -> Row:
        """Take the mean of the snapshots, with batch statistics of its own: its part of the row."""
        assert self._swa is not None, "average.swa"
        began, network = time.perf_counter(), cast(Any, self._swa.module)
        network.set_trainable(self._plan.stages[-1].options.trainable)
        renew_statistics(network, self._inputs(batches))
        self._evaluated = network
        return self._row([], 0.0, time.perf_counter() - began)

    def _row(self, taken: list[list[float]], waited: float, spent: float) -> Row:
        """What a round's steps gave, `waited` of the seconds `spent` without a batch."""
        plan, number, batch = self._plan, self.pseudo_epoch, self._plan.global_batch
        end, samples = plan.ends[min(number, plan.pseudo_epochs - 1)], len(taken) * batch
        unreadable = samples - round(sum(readable for _, readable, _ in taken))
        budget = self._recipe.error_budget
        within_budget(unreadable, samples, f"pseudo-epoch {number + 1}", budget)
        stage = plan.stage_at(end - 1)
        return {
            "kind": "checkpoint" if number < plan.pseudo_epochs else "swa",
            "pseudo_epoch": number,
            "stage": stage.number,
            "stage_began": stage.first_step * batch,
            "step": end,
            "samples_seen": end * batch,
            "times_seen": end * batch / plan.train_rows,
            "learning_rate": plan.learning_rate(end - 1),
            "train_loss": _mean(taken),
            "unreadable": unreadable,
            "skipped": sum(bool(bad) for *_, bad in taken),
            "images_per_second": samples / spent,
            "seconds_data": waited,
            "seconds_compute": spent - waited,
        }

    def _evaluate(self, batches: Iterator[Batch]) -> tuple[Row, Predictions | None]:
        recipe, device, pseudo_epoch = self._recipe, self._device, self.pseudo_epoch

        def make(stored: Tensor, rows: NDArray[np.int64], *_: Any) -> Tensor:
            x_BCSS = self._eval_input(stored)
            if not recipe.input.evaluate_flip:
                return x_BCSS
            # by chance, as the Planet report's code: the same weights score 0.5842 while training
            # and 0.5827 when run again
            flip = Augment(x_BCSS.shape[-1], "horizontal", "centre", recipe.seed)
            return flip(x_BCSS, rows, pseudo_epoch)

        return evaluate(
            self._evaluated,
            (inputs_of(batch, make, device) for batch in batches),
            device,
            task=self._task,
            classes=self._classes,
            error_budget=recipe.error_budget,
            bf16=self.precision == "bf16",
        )

    @contextmanager
    def _apart(self) -> Iterator[None]:
        """Generators and switches of torch are as they were afterwards."""
        devices = [self._device] if self._device.type == "cuda" else []
        with (
            torch.random.fork_rng(devices),
            determinism(self._recipe.deterministic),
            warnings.catch_warnings(),
        ):
            # Ray's arrays are read-only, and nothing here writes to a batch.
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            yield


def _mean(steps: list[list[float]]) -> float:
    """Mean loss over the readable tiles of some steps' finite ones; NaN where there is none."""
    finite = [(loss, readable) for loss, readable, bad in steps if not bad]
    tiles = sum(readable for _, readable in finite)
    return sum(loss for loss, _ in finite) / tiles if tiles else math.nan


class MovingAverage:
    """The exponential moving average (EMA) of a run on one rank, where one is asked for.

    It is torch's `AveragedModel`, as is the mean of snapshots: timm's `ModelEmaV3` warms up by
    another formula, and begins with a copy of the network after its first step.
    Every rank holds the same: parameters agree anyway, and running statistics of batch norms, which
    each rank keeps of its own tiles, are averaged before anybody looks at them.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        """Begin at the network as it is, on its device and in its memory format.

        Args:
            network: that trains.
            decay: a step; 0: there is no average.
        """
        self._network, self._decay = network, decay
        self._average: AveragedModel | None = None
        if decay:
            self._average = AveragedModel(network, multi_avg_fn=self._move, use_buffers=True)
            self._average.n_averaged += 1  # it begins as a copy; else its first update would copy
            self._average.eval()
        self._good: list[tuple[Tensor, Tensor]] = []

    @property
    def kept(self) -> nn.Module:
        """What is evaluated and kept: the average, else the network itself."""
        return self._network if self._average is None else self._average.module

    def begin(self) -> None:
        """Before a pseudo-epoch: note the running statistics that `mend` falls back to."""
        norms = live_norms(self._network)
        self._good = [(each, each.clone()) for norm in norms for each in norm.buffers()]

    def update(self) -> None:
        """After each step: average += (1 - decay) * (network - average).

        The decay warms up as min(decay, (1 + t) / (10 + t)) over the updates t = 0, 1, ..., so that
        the random start is soon forgotten (TensorFlow's `ExponentialMovingAverage`).
        """
        if self._average is not None:
            self._average.update_parameters(self._network)

    def _move(self, average: Any, live: Any, _: Any) -> None:
        if not average[0].is_floating_point():  # counts of batches are the network's own
            torch._foreach_copy_(average, live)
            return
        assert self._average is not None
        t = int(self._average.n_averaged) - 1  # which is on the CPU: nothing waits for a GPU
        torch._foreach_lerp_(average, live, 1 - min(self._decay, (1 + t) / (10 + t)))

    @torch.no_grad()
    def mend(self) -> None:
        """After a step that was not finite: running statistics are those that `begin` noted."""
        for buffer, good in self._good:
            buffer.copy_(good)
        for theirs, ours in self._pairs():
            if isinstance(ours, _BatchNorm):
                for name, buffer in ours.named_buffers(recurse=False):
                    getattr(theirs, name).copy_(buffer)

    def share(self) -> None:
        """Give all ranks the same running statistics, in the network and in its average."""
        share_running_statistics(live_norms(self._network))
        share_running_statistics(
            theirs
            for theirs, ours in self._pairs()
            if isinstance(ours, _BatchNorm) and ours.training
        )

    def state(self) -> dict[str, Tensor]:
        """For `TrainState.average`; live tensors, none where there is no average."""
        return {} if self._average is None else model_state(self._average)

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from a `state`."""
        if self._average is not None:
            self._average.load_state_dict(state)

    def _pairs(self) -> Iterator[tuple[nn.Module, nn.Module]]:
        """Modules of the average, each with the network's own."""
        if self._average is not None:
            yield from zip(self.kept.modules(), self._network.modules(), strict=True)


@torch.no_grad()
def renew_statistics(network: nn.Module, inputs: Iterator[Inputs]) -> None:
    """Running statistics anew: the mean over batches, as `torch.optim.swa_utils.update_bn` does.

    But frozen batch norms keep theirs, and all else is in evaluation mode, so that dropout draws
    nothing. On several ranks each takes its own batches, then all take the mean. Without live batch
    norms no batch is read.

    Args:
        network: left in evaluation mode.
        inputs: of this rank; of each batch the readable tiles count.
    """
    norms = list(live_norms(network.train()))
    network.eval()
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative
        norm.train()
    for each in inputs if norms else ():
        x_BCSS = each.x_BCSS[torch.from_numpy(each.valid).to(each.x_BCSS.device)]
        if len(x_BCSS):
            network(x_BCSS)
    share_running_statistics(norms)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.eval()
