"""One evaluation: a deterministic pass over a split, gathered over all workers, each tile once."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from satray.data.augment import send
from satray.train.loop.parallel import gather
from satray.train.loop.step import Batch


@dataclass(frozen=True)
class Predictions:
    """Raw logits of a split, ordered by row, each row once; unreadable tiles are absent."""

    rows: NDArray[np.int64]
    """Rows of the split's table."""

    logits_NK: NDArray[np.float32]  # noqa: N815
    """Raw logits."""

    labels_NK: NDArray[np.uint8]  # noqa: N815
    """0 or 1."""

    unreadable: int
    """Rows that could not be read."""

    def to_bytes(self) -> bytes:
        """As `numpy.savez_compressed` writes them."""
        sink = io.BytesIO()
        np.savez_compressed(
            sink,
            rows=self.rows,
            logits=self.logits_NK,
            labels=self.labels_NK,
            unreadable=np.int64(self.unreadable),
        )
        return sink.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Predictions:
        """Read what `to_bytes` wrote."""
        with np.load(io.BytesIO(data), allow_pickle=False) as found:
            return cls(found["rows"], found["logits"], found["labels"], int(found["unreadable"]))


def predict(
    network: nn.Module,
    batches: Iterator[Batch],
    preprocess: Callable[[Tensor], Tensor],
    device: torch.device,
    turn: Callable[[Tensor, NDArray[np.int64]], Tensor] | None = None,
) -> Predictions:
    """Run the network, in evaluation mode, over this worker's batches; gather all workers'.

    Workers may see a row twice (shards are padded to equal length): it counts once.

    Args:
        network: not wrapped; left in the mode it came in.
        batches: this worker's share of the split.
        preprocess: pixels_BCHW on the device -> x_BCHW float32, the same every time.
        device: where the network is.
        turn: (x_BCHW, rows of the split) -> x_BCHW, after `preprocess`; None: nothing.
    """
    rows: list[Tensor] = []
    valid: list[Tensor] = []
    labels: list[Tensor] = []
    logits: list[Tensor] = []
    training = network.training
    network.eval()
    try:
        with torch.inference_mode():
            for batch in batches:
                x_BCHW = preprocess(send(torch.as_tensor(batch["pixels"]), device))
                if turn is not None:
                    x_BCHW = turn(x_BCHW, torch.as_tensor(batch["row"]).cpu().numpy())
                # In fp32 whatever training runs in: so do the jobs evaluate and score, whose
                # figures these are to match.
                logits.append(network(x_BCHW).float())
                rows.append(torch.as_tensor(batch["row"]).cpu())
                valid.append(torch.as_tensor(batch["valid"]).cpu())
                labels.append(torch.as_tensor(batch["labels"]).cpu())
            mine = [torch.cat(part).cpu().numpy() for part in (rows, valid, labels, logits) if part]
    finally:
        network.train(training)
    return _merge(gather(mine))


def _merge(shards: list[list[NDArray[Any]]]) -> Predictions:
    shards = [shard for shard in shards if shard]  # a worker may have had no batch
    if not shards:
        raise ValueError("no batch to evaluate")
    rows, valid, labels, logits = (np.concatenate(part) for part in zip(*shards, strict=True))
    readable = np.flatnonzero(valid)
    kept, first = np.unique(rows[readable], return_index=True)  # sorts by row
    take = readable[first]
    return Predictions(
        rows=kept,
        logits_NK=logits[take],
        labels_NK=labels[take],
        unreadable=len(np.setdiff1d(rows, kept)),
    )
