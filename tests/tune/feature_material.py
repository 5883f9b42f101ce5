"""Small networks over a small archive, their features, and heads trained both ways."""

import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from train.small_archive import make_recipe, make_run

from satray.data.order import copies
from satray.data.read import read_blocks, to_torch
from satray.storage import Storage
from satray.train import initial
from satray.train.checkpoints import from_bytes, to_bytes
from satray.train.loop import Loop
from satray.train.plan import train_order
from satray.train.setup import Setup, set_up
from satray.train.step import AugmentedTiles
from satray.tune.feature_table import Features, FeatureTable
from satray.tune.features import extract
from satray.tune.head import CPU, HeadNetwork, as_they_are, head_batches, val_batches

HEAD_STAGE = {"trainable": "head", "learning_rate": 0.03, "pseudo_epochs": 3}
RESNET = {"towers": [{"name": "all", "backbone": "resnet18", "bands": ["red", "green", "nir"]}]}
DOUBLE = {
    "towers": [
        {"name": "rgb", "backbone": "simple_cnn", "bands": ["red", "green", "blue"]},
        {"name": "nir", "backbone": "simple_cnn", "bands": ["nir"]},
    ],
    "pooling": "max",
}


@dataclass(frozen=True)
class Prepared:
    """A run up to where training would start."""

    setup: Setup
    run: Any
    weights: str

    @property
    def first(self) -> dict[str, torch.Tensor]:
        """First weights of the whole network."""
        return from_bytes(self.run.storage.read(self.weights))

    def head_file(self, folder: Path) -> str:
        """The head's first weights as a file."""
        head = {name: value for name, value in self.first.items() if name.startswith("head.")}
        Storage().write(str(folder / "head.pt"), to_bytes(head))
        return str(folder / "head.pt")


def prepare(archive: Any, folder: Path, **changes: Any) -> Prepared:
    """Of a recipe that trains the head alone, from three views a tile, on one worker."""
    augment = {"views": 3, "brightness": 0.2, **changes.pop("augment", {})}
    settings = {"stages": [HEAD_STAGE], "augment": augment, "precision": "fp32", **changes}
    run, _ = make_run(folder / "run")
    recipe = make_recipe(archive, folder, **settings)
    setup = set_up(recipe, Storage())
    return Prepared(setup, run, initial.prepare(setup, run))


@contextmanager
def one_core() -> Iterator[None]:
    """Threads that compute on tiny tiles would only wait for each other."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {sorted(cores)[os.getpid() % len(cores)]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def extracted(made: Prepared) -> FeatureTable:
    """Features of both splits, extracted in this process."""
    run = replace(made.run)
    run.ray = False
    with one_core():
        return extract(made.setup, run, made.weights, f"{made.run.out}/features")


def opened(table: FeatureTable, setup: Setup) -> tuple[Features, Features]:
    """Both splits of what was extracted."""
    pooling, index = setup.variant.pooling, setup.index
    return tuple(table.open(s, pooling, index.part(s).labels) for s in ("train", "val"))


def in_memory(made: Prepared) -> tuple[Features, Features]:
    """Both splits, extracted and opened."""
    return opened(extracted(made), made.setup)


def through_backbone(made: Prepared) -> tuple[list[Any], torch.nn.Module]:
    """Train the whole network with its towers frozen; gives the reports and the network."""
    setup, plan = made.setup, made.setup.plan
    network = setup.network()
    network.load_state_dict(made.first)
    sources = [setup.source(split, Storage()) for split in ("train", "val")]
    whole, val = (to_torch(next(read_blocks(source, len(source)))) for source in sources)
    order = train_order(setup.recipe, plan, sources[0].labels)

    def train_batches(pseudo_epoch: int) -> Any:
        rows = order.rows(pseudo_epoch)
        came = copies(rows)
        for start in range(0, len(rows), plan.local_batch):
            some = rows[start : start + plan.local_batch]
            batch = {n: torch.from_numpy(v.numpy()[some]) for n, v in whole.items()}
            yield {**batch, "copy": came[start : start + plan.local_batch]}

    inputs = {
        "train_input": AugmentedTiles.of(setup.recipe, setup.preprocess(), setup.recipe.seed),
        "eval_input": setup.preprocess(),
    }
    loop = Loop(network, plan, setup.recipe, setup.task, setup.index.meta.classes, **inputs)
    while not loop.done:
        loop.step(train_batches, lambda: iter([val]))
    return list(loop.history), network


def from_features(made: Prepared, features: tuple[Features, Features]) -> tuple[list[Any], list]:
    """Train the head from features; gives the reports, and what was trained and kept by each."""
    setup, plan, (tiles, val) = made.setup, made.setup.plan, features
    recipe, states = setup.recipe, []
    network = HeadNetwork(tiles.width, tiles.labels.shape[1], recipe.dropout)
    network.load_head(made.first)
    inputs = {"train_input": as_they_are, "eval_input": as_they_are}
    loop = Loop(network, plan, recipe, setup.task, setup.index.meta.classes, **inputs)
    order = train_order(recipe, plan, tiles.labels)
    batches = partial(head_batches, tiles, order, plan.global_batch, CPU)
    while not loop.done:
        _, seen = loop.step(batches, lambda: val_batches(val, CPU))
        states.append((copy.deepcopy(loop.state().model), loop.kept(seen).weights))
    return list(loop.history), states
