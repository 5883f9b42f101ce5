"""Heads trained from features by the loop that trains whole networks, as trials.

Letters: B tiles of a batch, F features of a tile, K classes.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from satray.data.augment import send
from satray.data.order import TrainOrder, copies
from satray.errors import attempt
from satray.storage import Storage
from satray.train.checkpoints import Kept, from_bytes
from satray.train.evaluation import Predictions
from satray.train.imbalance import class_weights
from satray.train.loop import Row
from satray.train.plan import train_order
from satray.train.process import begin
from satray.train.setup import Setup
from satray.train.stack import HeadLoop, Trained
from satray.train.step import Batch, view_of
from satray.tune.feature_table import Features

HEAD = "head."
"""Entries of a network's state that belong to its head."""
GATHERED = 16 << 20
"""Bytes of features gathered at a time: many batches by one call."""
CPU = torch.device("cpu")


class HeadNetwork(nn.Module):
    """f_BF -> logits_BK (float32, raw): what `Network` does with what its towers gave.

    Its state has the same names as in the network (`head.*`).
    """

    def __init__(self, width: int, classes: int, dropout: float = 0.0) -> None:
        """Build with fresh random weights (torch's global generator).

        Args:
            width: F.
            classes: K; 1 for a binary task.
            dropout: as the network's.
        """
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, classes)

    def forward(self, f_BF: Tensor) -> Tensor:
        """Logits of features; in float32 whatever the autocast, as in the network."""
        with torch.autocast(f_BF.device.type, enabled=False):
            logits_BK: Tensor = self.head(self.dropout(f_BF))
        return logits_BK

    def several(self, heads: int) -> HeadNetwork:
        """Room for so many heads side by side, the K logits of each after those before it."""
        weight_KF = self.head.weight
        return HeadNetwork(weight_KF.shape[1], heads * weight_KF.shape[0]).to(weight_KF.device)

    def set_trainable(self, spec: str) -> None:
        """The head is all there is."""
        assert spec == "head", spec

    def load_head(self, state: Mapping[str, Tensor]) -> None:
        """Take over the head of a network's state, whatever else is in it."""
        self.load_state_dict({name: v for name, v in state.items() if name.startswith(HEAD)})


def head_batches(
    features: Features, order: TrainOrder, batch: int, device: torch.device, pseudo_epoch: int
) -> Iterator[Batch]:
    """Batches of a pseudo-epoch: the rows that training streams, in the same order.

    The c-th copy of a tile in pseudo-epoch e comes in its view (e + c) mod V, as under
    `augment.views`.

    Args:
        features: of the train split.
        order: of the run (`train_order`).
        batch: B.
        device: where the features of many batches are sent at once.
        pseudo_epoch: 0 for the first.
    """
    rows = order.rows(pseudo_epoch)
    came_before = copies(rows)
    views = view_of(came_before, pseudo_epoch, features.views)
    many = max(1, GATHERED // (4 * features.width * batch)) * batch
    for first in range(0, len(rows), many):
        some = slice(first, first + many)
        gathered = _gathered(features, rows[some], views[some], device)
        gathered["copy"] = came_before[some]
        for start in range(0, len(gathered["row"]), batch):
            yield {name: values[start : start + batch] for name, values in gathered.items()}


def val_batches(features: Features, device: torch.device) -> Iterator[Batch]:
    """The validation split, every tile once, in order, on a device."""
    many = max(1, GATHERED // (4 * features.width))
    for start in range(0, len(features), many):
        rows = np.arange(start, min(start + many, len(features)), dtype=np.int64)
        yield _gathered(features, rows, np.zeros_like(rows), device)


def _gathered(
    features: Features, rows: NDArray[np.int64], views: NDArray[np.int64], device: torch.device
) -> Batch:
    batch = features.batch(rows, views)
    return {**batch, "pixels": send(torch.from_numpy(batch["pixels"]), device)}


def as_they_are(features_BF: Tensor, *_: Any) -> Tensor:
    """The loop's input: the view of each tile was chosen with the batch."""
    return features_BF


class HeadTrial:
    """A head in training, a pseudo-epoch at a time. No Ray.

    It takes less time than its checkpoints would in an object store, so that it keeps none: what
    ends before its end begins anew, and comes out the same.
    """

    def __init__(
        self, setup: Setup, train: Features, val: Features, head: str, storage: Storage
    ) -> None:
        """Begin.

        Args:
            setup: the trial, resolved, with one worker.
            train: features of the train split, of the pooling that the variant has.
            val: of the validation split.
            head: URI of the head's first weights.
            storage: how it is reached.
        """
        plan, classes = setup.plan, setup.index.meta.classes
        # Compiling takes a minute, which no head does.
        recipe = setup.recipe.model_copy(update={"compile": False})
        self.each = plan.samples_per_pseudo_epoch
        """Samples from one evaluation to the next."""
        begin(recipe.seed)
        network = HeadNetwork(train.width, len(classes), recipe.dropout)
        network.load_head(from_bytes(storage.read(head)))
        # Ray shows a GPU to those that asked for one.
        device = torch.device("cuda") if torch.cuda.is_available() else CPU
        order = train_order(recipe, plan, train.labels)
        self.train = functools.partial(head_batches, train, order, plan.global_batch, device)
        """Gives the batches of a pseudo-epoch."""
        self._val = functools.partial(val_batches, val, device)
        self.loop = HeadLoop(
            network,
            plan,
            recipe,
            setup.task,
            classes,
            train_input=as_they_are,
            eval_input=as_they_are,
            positive_weight=class_weights(recipe.loss, train.labels, recipe.repeat),
            device=device,
        )
        self._predictions: Predictions | None = None

    @property
    def done(self) -> bool:
        """Whether all evaluations have been made."""
        return self.loop.done

    @property
    def in_step(self) -> bool:
        """Whether it can train for the next evaluation with other heads that are as far."""
        return not any(row["skipped"] for row in self.loop.history)  # its optimiser is behind

    def step(self, trained: Trained | None = None) -> Row:
        """The next evaluation.

        Args:
            trained: what came of training for it in a stack.

        Raises:
            TrainingError: as of `Loop.step`.
        """
        if trained is None:
            row, self._predictions = self.loop.step(self.train, self._val)
        else:
            row, self._predictions = self.loop.take(trained, self._val)
        return row

    def kept(self) -> Kept:
        """The weights of the last evaluation, and what they gave."""
        assert self._predictions is not None, "there is one rank, and an evaluation"
        return self.loop.kept(self._predictions)


def step_all(trials: Sequence[HeadTrial]) -> list[Row | Exception]:
    """The next evaluation of each trial of a stack; those that are in step train as one.

    Args:
        trials: `Sweep.stacks` says which may be together; equally far, and none of them done.

    Returns:
        Of each what `step` returns, or raises.
    """
    trained: dict[HeadTrial, Trained | None] = {}
    together = [trial for trial in trials if trial.in_step]
    if len(together) > 1:
        first, *others = together
        made = attempt(first.loop.train_with, [each.loop for each in others], first.train)
        if not isinstance(made, Exception):  # else what fails together goes on one by one
            trained |= zip(together, made, strict=True)
    return [attempt(trial.step, trained.get(trial)) for trial in trials]
