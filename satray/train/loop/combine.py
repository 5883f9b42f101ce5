"""What becomes of the snapshots when training is over, in plain torch, on every rank.

`swa`: the mean of the snapshots' weights, with batch statistics renewed by a pass over the train
split (Izmailov et al., UAI 2018). `ensemble`: the mean of their logits (Huang et al., ICLR 2017).

Shapes: N tiles of validation, B of a worker's batch, C bands, H W pixels, K classes.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from satray.metrics.summary import compute_metrics
from satray.train.loop.evaluation import Predictions, predict
from satray.train.loop.parallel import live_norms, share_running_statistics
from satray.train.loop.settings import LoopSettings
from satray.train.loop.state import determinism, model_state
from satray.train.loop.step import Batch, TrainInput, inputs_of
from satray.train.loop.train import flips
from satray.train.losses import loss_for
from satray.train.plan import TrainingPlan

State = dict[str, Tensor]


@dataclass(frozen=True)
class Combined:
    """A combination of snapshots and how it does on validation."""

    weights: State | None
    """State dict of the averaged network (swa); None for an ensemble."""

    predictions: Predictions
    """Of the validation split."""

    record: dict[str, Any]
    """`kind`, `steps` of the snapshots, `validation` (metrics and `val_loss`; none where a logit is
    not finite), `seconds`."""


def combine(
    network: nn.Module,
    steps: Sequence[int],
    snapshot: Callable[[int], State],
    train_batches: Callable[[], Iterator[Batch]],
    val_batches: Callable[[], Iterator[Batch]],
    *,
    plan: TrainingPlan,
    settings: LoopSettings,
    train_input: TrainInput,
    eval_input: Callable[[Tensor], Tensor],
    device: torch.device | str = "cpu",
) -> Combined:
    """Combine snapshots as `settings.average.snapshots` says, and evaluate what comes out.

    Args:
        network: of the snapshots' kind; its weights are overwritten.
        steps: of the snapshots.
        snapshot: steps -> state dict, the same on every rank.
        train_batches: this worker's share of one pass over the train split; asked for by swa of a
            network with batch statistics only.
        val_batches: this worker's share of the validation split, at each call.
        plan: of the run; its last stage says which batch norms are live.
        settings: as in training.
        train_input: as in training; drawn for the pseudo-epoch after the last.
        eval_input: as in training.
        device: where this rank computes.
    """
    started, device = time.perf_counter(), torch.device(device)
    kind, weights = settings.average.snapshots, None
    turn = flips(settings, plan.pseudo_epochs)
    with ExitStack() as stack:
        stack.enter_context(determinism(settings.deterministic))
        stack.enter_context(warnings.catch_warnings())
        # Ray's arrays are read-only, and nothing here writes to a batch.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        network.to(device).to(memory_format=torch.channels_last)
        if kind == "swa":
            network.load_state_dict(mean_state(snapshot(step) for step in steps))
            network.set_trainable(plan.stages[-1].options.trainable)  # type: ignore[operator]

            def inputs() -> Iterator[Tensor]:
                for batch in train_batches():
                    made = inputs_of(batch, train_input, device, plan.pseudo_epochs)
                    if made.valid.all():
                        yield made.x_BCSS
                    else:
                        yield made.x_BCSS[torch.from_numpy(np.flatnonzero(made.valid)).to(device)]

            renew_statistics(network, inputs)
            weights = model_state(network)
            predictions = predict(network, val_batches(), eval_input, device, turn)
        else:
            found = []
            for step in steps:
                network.load_state_dict(snapshot(step))
                found.append(predict(network, val_batches(), eval_input, device, turn))
            predictions = _mean_logits(found)
        network.to(memory_format=torch.contiguous_format)
    record = {
        "kind": kind,
        "steps": list(steps),
        "validation": _measured(predictions, settings),
        "seconds": time.perf_counter() - started,
    }
    return Combined(weights, predictions, record)


def mean_state(states: Iterator[State]) -> State:
    """Mean of state dicts, in float64; integer entries are the last one's.

    What is the same in all of them stays so bit by bit.
    """
    first: State = {}
    sums: State = {}
    count = 0
    last: State = {}
    for last in states:
        count += 1
        for name, value in last.items():
            if not value.is_floating_point():
                continue
            if name not in first:
                first[name], sums[name] = value.clone(), torch.zeros_like(value, dtype=torch.double)
            sums[name] += value.double() - first[name].double()
    if not count:
        raise ValueError("no state to average")
    means = {n: (first[n].double() + total / count).to(first[n]) for n, total in sums.items()}
    return last | means


@torch.no_grad()
def renew_statistics(network: nn.Module, inputs: Callable[[], Iterator[Tensor]]) -> None:
    """Running statistics anew: the mean over batches, as `torch.optim.swa_utils.update_bn` does.

    Batch norms that are frozen keep theirs, and all else is in evaluation mode, so that dropout
    draws nothing. On several ranks each takes its own batches, then all take the mean. Without
    live batch norms no batch is asked for.

    Args:
        network: left in evaluation mode.
        inputs: batches of x_BCHW on the network's device; empty ones are left out.
    """
    network.train()
    norms = [norm for norm in live_norms(network) if norm.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    network.eval()
    if not norms:
        return
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative
        norm.train()
    synchronous = any(isinstance(norm, nn.SyncBatchNorm) for norm in norms)
    for x_BCHW in inputs():
        if len(x_BCHW) or synchronous:  # then all ranks must come along
            network(x_BCHW)
    share_running_statistics(network)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.eval()


def _mean_logits(found: Sequence[Predictions]) -> Predictions:
    """Mean logits of the tiles that were read every time."""
    rows = found[0].rows
    for each in found[1:]:
        rows = np.intersect1d(rows, each.rows)
    takes = [np.searchsorted(each.rows, rows) for each in found]
    logits = [each.logits_NK[take].astype(np.float64) for each, take in zip(found, takes)]  # noqa: B905
    lost = len(found[0].rows) - len(rows)
    return replace(
        found[0],
        rows=rows,
        logits_NK=np.mean(logits, axis=0).astype(np.float32),
        labels_NK=found[0].labels_NK[takes[0]],
        unreadable=found[0].unreadable + lost,
    )


def _measured(predictions: Predictions, settings: LoopSettings) -> dict[str, Any] | None:
    logits_NK, labels_NK = predictions.logits_NK, predictions.labels_NK
    if not len(logits_NK) or not np.isfinite(logits_NK).all():
        return None
    losses_N = loss_for(settings.task)(
        torch.from_numpy(logits_NK).double(), torch.from_numpy(labels_NK).double()
    )
    metrics = compute_metrics(logits_NK, labels_NK, settings.classes, settings.task)
    return {"val_loss": float(losses_N.mean()), **metrics}
