"""A head by itself: trained from features by the loop that trains whole networks.

Letters: B tiles of a batch, F features of a tile, K classes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from satray.data.order import TrainOrder, copies
from satray.errors import InputError
from satray.models.network import linear_or_dense
from satray.train.loop.step import Batch, view_of
from satray.train.plan.stages import TrainingPlan
from satray.tune.feature_table import Features

State = dict[str, Tensor]

HEAD = "head."
"""Entries of a network's state that belong to its head."""
TOWERS = "towers."
"""Entries that belong to its towers."""
GATHERED = 16 << 20
"""Bytes of features gathered at a time: many batches by one call."""
EVALUATED = 4096
"""Tiles of a batch of validation, where their features are no more than GATHERED."""


class HeadNetwork(nn.Module):
    """f_BF -> logits_BK (float32, raw): what `Network` does with what its towers gave.

    Its state has the same names as in the network (`head.*`).
    """

    def __init__(self, kind: str, width: int, classes: int, dropout: float = 0.0) -> None:
        """Build with fresh random weights (torch's global generator).

        Args:
            kind: `linear` or `dense`, the variant's head.
            width: F.
            classes: K; 1 for a binary task.
            dropout: as the network's.
        """
        super().__init__()
        self.linear = kind == "linear"
        self.dropout = nn.Dropout(dropout)
        self.head = linear_or_dense(kind, width, classes, dropout)

    def forward(self, f_BF: Tensor) -> Tensor:
        """Logits of features; in float32 whatever the autocast, as in the network."""
        with torch.autocast(f_BF.device.type, enabled=False):
            logits_BK: Tensor = self.head(self.dropout(f_BF) if self.linear else f_BF)
        return logits_BK

    def set_trainable(self, spec: str) -> None:
        """The head is all there is.

        Raises:
            InputError: anything else is asked for.
        """
        if spec != "head":
            raise InputError(f"trainable={spec!r}: features train the head alone; accepted: head")

    def backbones(self) -> dict[str, nn.Module]:
        """None: layers have no depth here."""
        return {}

    def load_head(self, state: Mapping[str, Tensor]) -> None:
        """Take over the head of a network's state, whatever else is in it."""
        self.load_state_dict({name: v for name, v in state.items() if name.startswith(HEAD)})


def full_state(network_state: Mapping[str, Tensor], head_state: Mapping[str, Tensor]) -> State:
    """The state of the whole network with a trained head in it.

    Args:
        network_state: of the network whose features the head was trained on.
        head_state: of the `HeadNetwork` (`TrainState.kept`).

    Raises:
        ValueError: the head is not that of the network.
    """
    ours = {name: value.shape for name, value in head_state.items()}
    theirs = {name: v.shape for name, v in network_state.items() if name.startswith(HEAD)}
    if ours != theirs:
        raise ValueError(f"a head of {ours} for a network whose head is {theirs}")
    return {**network_state, **head_state}


def towers_digest(network_state: Mapping[str, Tensor]) -> str:
    """SHA-256, hexadecimal, of the towers' weights in a network's state: names, shapes, bytes."""
    digest = hashlib.sha256()
    for name in sorted(network_state):
        if not name.startswith(TOWERS):
            continue
        value = network_state[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def head_batches(
    features: Features, order: TrainOrder, plan: TrainingPlan
) -> Callable[[int], Iterator[Batch]]:
    """Pseudo-epoch -> batches of features: the rows that training streams, in the same order.

    The c-th copy of a tile in pseudo-epoch e comes in its view (e + c) mod V, as under
    `augment.views`.

    Args:
        features: of the train split.
        order: of the run (`training.plan.order.train_order`).
        plan: of the run, with one worker.
    """
    whole = max(1, GATHERED // (4 * features.width * plan.global_batch)) * plan.global_batch

    def batches(pseudo_epoch: int) -> Iterator[Batch]:
        rows = order.rows(pseudo_epoch)
        came_before = copies(rows)
        views = view_of(came_before, pseudo_epoch, features.views)
        for start in range(0, len(rows), whole):
            some = slice(start, start + whole)
            yield from _cut(features, rows[some], views[some], came_before[some], plan.global_batch)

    return batches


def val_batches(features: Features) -> Callable[[], Iterator[Batch]]:
    """The validation split, every tile once, in order.

    Args:
        features: of the validation split.
    """
    some_tiles = min(EVALUATED, max(1, GATHERED // (4 * features.width)))

    def batches() -> Iterator[Batch]:
        rows = np.arange(len(features), dtype=np.int64)
        for start in range(0, len(rows), some_tiles):
            some = rows[start : start + some_tiles]
            yield features.batch(some, np.zeros_like(some))

    return batches


def train_features(
    features: Tensor, rows: NDArray[np.int64], copies: NDArray[np.int64], pseudo_epoch: int
) -> Tensor:
    """The loop's `train_input`: features come as they are; their view was chosen with the batch."""
    del rows, copies, pseudo_epoch
    return features


def eval_features(features: Tensor) -> Tensor:
    """The loop's `eval_input`."""
    return features


def _cut(
    features: Features,
    rows: NDArray[np.int64],
    views: NDArray[np.int64],
    came_before: NDArray[np.int64],
    batch: int,
) -> Iterator[Batch]:
    """Gather many rows at once, and give them batch by batch."""
    gathered = {**features.batch(rows, views), "copy": came_before}
    for start in range(0, len(rows), batch):
        yield {name: values[start : start + batch] for name, values in gathered.items()}
