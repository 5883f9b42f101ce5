"""One evaluation: a deterministic pass over a split, gathered over all workers, each tile once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from satray.errors import TrainingError
from satray.metrics.summary import compute_metrics, flat, watch
from satray.train.losses import loss_for
from satray.train.process import by_rank_0
from satray.train.step import Inputs, ahead


@dataclass(frozen=True)
class Predictions:
    """Raw logits of a split, ordered by row, each row once; unreadable tiles are absent."""

    rows: NDArray[np.int64]
    """Rows of the split's table."""
    logits_NK: NDArray[np.float32]  # noqa: N815
    """Raw logits."""
    labels_NK: NDArray[np.uint8]  # noqa: N815
    """0 or 1."""


def evaluate(
    network: nn.Module,
    inputs: Iterator[Inputs],
    device: torch.device,
    *,
    task: str,
    classes: Sequence[str],
    error_budget: float = 1.0,
    bf16: bool = False,
) -> tuple[dict[str, Any], Predictions | None]:
    """Run the network, in evaluation mode, over this worker's share of a split.

    Workers may see a row twice (shards are padded to equal length): it counts once.

    Args:
        network: not wrapped; left in the mode it came in.
        inputs: of this worker.
        device: where the network is.
        task: `binary`, `multilabel` or `multiclass`.
        classes: names, in the order of the logits.
        error_budget: share of the tiles that may be unreadable.
        bf16: autocast to bfloat16.

    Returns:
        Columns of a history's row, the same on all ranks: `val_loss`, those of
        `satray.metrics.summary.compute_metrics` (`ap_C` of class C, ...), `ppr_C` (how often each
        class is predicted), `classes_always` and `classes_never` (how many are, though they occur
        both ways) and `val_unreadable`. On rank 0 the predictions as well.

    Raises:
        TrainingError: on all ranks: more unreadable tiles than the budget allows, none that can be
            read, or a logit that is not finite.
    """
    mine: list[tuple[NDArray[np.int64], NDArray[np.bool_], Tensor, Tensor]] = []
    training = network.training
    network.eval()
    try:
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            for each in ahead(inputs, device):
                logits_BK = network(each.x_BCSS).float()
                mine.append((each.rows, each.valid, each.labels_BK, logits_BK))
    finally:
        network.train(training)
    parts = []
    if mine:  # a worker may have had no batch
        rows, valid, labels, logits = zip(*mine, strict=True)
        parts = [np.concatenate(rows), np.concatenate(valid)]
        parts += [torch.cat(labels).byte().cpu().numpy(), torch.cat(logits).cpu().numpy()]
    seen: list[Predictions] = []

    def measured(shards: list[list[NDArray[Any]]]) -> dict[str, Any]:
        predictions, lost = _merged([shard for shard in shards if shard], error_budget)
        seen.append(predictions)
        logits_NK, labels_NK = predictions.logits_NK, predictions.labels_NK
        found = watch(logits_NK, labels_NK, classes, task)
        z_NK, y_NK = (torch.from_numpy(each).double() for each in (logits_NK, labels_NK))
        return {
            "val_loss": float(loss_for(task)(z_NK, y_NK).mean()),
            "val_unreadable": lost,
            **flat(compute_metrics(logits_NK, labels_NK, classes, task)),
            **{f"ppr_{name}": value for name, value in found.rates.items()},
            "classes_always": len(found.always),
            "classes_never": len(found.never),
        }

    row = by_rank_0(parts, measured)
    return row, seen[0] if seen else None


def _merged(shards: list[list[NDArray[Any]]], error_budget: float) -> tuple[Predictions, int]:
    """What all workers saw, and how many tiles could not be read."""
    rows, valid, labels, logits = (np.concatenate(part) for part in zip(*shards, strict=True))
    readable = np.flatnonzero(valid)
    kept, first = np.unique(rows[readable], return_index=True)  # sorts by row
    take = readable[first]
    lost = len(np.setdiff1d(rows, kept))
    within_budget(lost, len(kept) + lost, "validation", error_budget)
    if not len(kept):
        raise TrainingError("validation: none of its tiles could be read")
    if not np.isfinite(logits[take]).all():
        raise TrainingError("validation logits are not finite. A lower learning rate may help")
    return Predictions(kept, logits[take], labels[take]), lost


def within_budget(unreadable: int, tiles: int, where: str, error_budget: float) -> None:
    """Stop where too many tiles cannot be read; raises TrainingError."""
    if unreadable > error_budget * tiles:
        raise TrainingError(
            f"{where}: {unreadable:,} of {tiles:,} tiles could not be read (error_budget="
            f"{error_budget:g})"
        )
