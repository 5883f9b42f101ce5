"""A very small training set-up: networks, tiles, batches, a plan."""

import copy
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from satray.config.train import OptimizerOptions, ScheduleOptions, StageOptions, TrainRecipe
from satray.data.augment import Augment
from satray.models.preprocess import Preprocess
from satray.train.loop import TIMES, Loop
from satray.train.plan import plan_training
from satray.train.step import AugmentedTiles

ROWS, VAL_ROWS, SIDE, SIZE, CLASSES = 24, 10, 12, 8, ("bright", "dark")
PREPROCESS = Preprocess(("a", "b", "c"), (2500.0,) * 3, (1500.0,) * 3, SIZE, SIDE)


class TinyNet(nn.Module):
    """Two convolutions, a norm, dropout and a linear head; all but the head can be frozen."""

    def __init__(self, norm="group", dropout=0.0, classes=2):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.GroupNorm(2, 8) if norm == "group" else nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(8, classes)

    def forward(self, x):
        x = torch.relu(self.norm(self.first(x)))
        return self.head(self.dropout(torch.relu(self.second(x)).mean((2, 3))))

    def set_trainable(self, spec):
        self.requires_grad_(spec == "all")
        self.head.requires_grad_(True)


def tiny_net(**options):
    torch.manual_seed(5)
    return TinyNet(**options)


def tiles(rows, seed):
    """Pixels uint16 and two labels that can be learnt: is the tile bright, is it dark."""
    rng = np.random.default_rng(seed)
    level = rng.integers(0, 2, rows)
    pixels = rng.integers(0, 2000, (rows, 3, SIDE, SIDE)) + 3000 * level[:, None, None, None]
    labels = np.stack([level, 1 - level], axis=1)
    return pixels.astype(np.uint16), labels.astype(np.uint8)


def batches(data, order, batch, rank=0, workers=1, unreadable=()):
    pixels, labels = data
    local = batch // workers
    for start in range(0, len(order) - batch + 1, batch):
        rows = np.asarray(order[start + rank * local : start + (rank + 1) * local])
        yield {
            "pixels": pixels[rows],
            "labels": labels[rows],
            "row": rows.astype(np.int64),
            "copy": np.zeros(local, np.int64),
            "valid": ~np.isin(rows, unreadable),
        }


def stage(pseudo_epochs, rate=0.02, schedule="one_cycle", **options):
    return StageOptions(
        pseudo_epochs=pseudo_epochs,
        learning_rate=rate,
        schedule=ScheduleOptions(name=schedule, step=1, cycle=1),
        **options,
    )


def recipe(*stages, batch=8, optimizer="adamw", ema=0.0, average=None, **options):
    return TrainRecipe(
        index="nowhere",
        batch=batch,
        stages=stages or (stage(2),),
        optimizer=OptimizerOptions(name=optimizer),
        average={"ema": ema, **(average or {})},
        **options,
    )


class Trained(NamedTuple):
    """A run: its rows, a state after each, its network, the predictions."""

    rows: tuple
    states: list
    net: nn.Module
    seen: list


def run(
    given,
    net,
    *,
    stop_after=None,
    rank=0,
    workers=1,
    unreadable=(),
    val_unreadable=(),
    task="multilabel",
    classes=CLASSES,
    augment=None,
    data=None,
    val_data=None,
    **options,
):
    """Train; what came of it. Options are of `Loop`."""
    data, val_data = data or tiles(ROWS, 1), val_data or tiles(VAL_ROWS, 2)
    plan = plan_training(given, len(data[0]), workers)
    augment = augment or Augment(SIZE, seed=given.seed)
    loop = Loop(
        net,
        plan,
        given,
        task,
        classes,
        train_input=AugmentedTiles(PREPROCESS, augment, given.augment.views),
        eval_input=PREPROCESS,
        **options,
    )

    def train_batches(pseudo_epoch):
        order = np.random.default_rng(pseudo_epoch).permutation(len(data[0]))
        return batches(data, order, plan.global_batch, rank, workers, unreadable)

    def val_batches():
        # Padded to whole batches by repeating rows, as the streams do.
        order = np.resize(np.arange(VAL_ROWS), 12)
        return batches(val_data, order, 4, rank, workers, val_unreadable)

    states, seen, begun = [], [], loop.pseudo_epoch
    while not loop.done and len(states) != stop_after:
        seen.append(loop.step(train_batches, val_batches)[1])
        states.append(loop.state().copied())
        if loop.history[-1]["kind"] == "swa":
            equal(loop.kept(seen[-1]).weights, mean_of(states[-1]))
    return Trained(loop.history[begun:], states, net, seen)


def weights(net):
    return copy.deepcopy({name: value.contiguous() for name, value in net.state_dict().items()})


def kept(state):
    """What is evaluated of a state: the moving average where there is one."""
    return _averaged(state.average) or state.model


def mean_of(state):
    """The mean of the snapshots."""
    return _averaged(state.swa)


def _averaged(state):
    return {n.removeprefix("module."): state[n] for n in state if "." in n}


def timeless(rows):
    """History rows without what differs from run to run, NaN made comparable."""
    return [{name: repr(row[name]) for name in row if name not in TIMES} for row in rows]


def equal(first, second):
    """Weights that are the same to the bit."""
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
