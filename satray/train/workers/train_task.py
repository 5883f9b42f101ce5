"""What each train worker is given, and the streams it reads from.

Nothing here imports torch, which would cost Ray's controller seconds.
"""

import functools
from dataclasses import dataclass
from typing import Any

from satray import cluster
from satray.data.order import TrainOrder, WholeOrder
from satray.data.read import TileSource, tile_source
from satray.data.stream import tile_dataset
from satray.runs.run import Run
from satray.storage import Storage
from satray.train.plan import renewal_steps, train_order
from satray.train.setup import Setup
from satray.train.workers import checkpoints


@dataclass(frozen=True)
class Task:
    """What each worker is given; small but for the sources' tables of URIs and labels."""

    setup: Setup
    """The run, resolved, without its index's table."""
    train: TileSource
    """The train split."""
    val: TileSource
    """The validation split."""
    initial: str
    """URI of the network's first weights."""
    state: str
    """Folder of the run's state."""
    storage: Storage
    """How URIs are reached."""
    workers: cluster.Workers
    """What each of them gets, and what reads for them."""
    channel: cluster.ProgressChannel
    """Where messages to the driver go."""

    @property
    def train_order(self) -> TrainOrder:
        """Rows of each pseudo-epoch."""
        return train_order(self.setup.recipe, self.setup.plan, self.train.labels)

    def steps_in(self, pseudo_epoch: int) -> int:
        """Steps of a pseudo-epoch; past the last, those that renew batch statistics."""
        plan = self.setup.plan
        if pseudo_epoch < plan.pseudo_epochs:
            return plan.steps_in(pseudo_epoch)
        return renewal_steps(plan, self.setup.recipe.average)

    def train_data(self) -> Any:
        """Make the train stream; called in Ray's controller at each start of the workers."""
        plan, recipe = self.setup.plan, self.setup.recipe
        return tile_dataset(
            self.train,
            self.train_order,
            batch=plan.local_batch,
            workers=plan.workers,
            readers=self.workers.readers,
            start=checkpoints.find(self.storage, self.state).pseudo_epochs,
            deterministic=recipe.deterministic,
        )

    def val_data(self) -> Any:
        """Make the validation stream."""
        plan, recipe = self.setup.plan, self.setup.recipe
        return tile_dataset(
            self.val,
            WholeOrder(len(self.val), plan.workers),
            batch=plan.local_batch,
            workers=plan.workers,
            readers=self.workers.readers,
            deterministic=recipe.deterministic,
        )


def make_task(
    setup: Setup,
    run: Run,
    initial: str,
    channel: cluster.ProgressChannel,
    workers: cluster.Workers,
) -> Task:
    """Gather what workers need. Ray is up."""
    recipe = setup.recipe
    source = functools.partial(
        tile_source,
        setup.index,
        bands=setup.bands,
        storage=run.storage,
        digest=setup.digest,
        cache=recipe.cache,
    )
    return Task(
        setup=setup.without_table(),
        train=source("train"),
        val=source("val"),
        initial=initial,
        state=run.state,
        storage=run.storage,
        workers=workers,
        channel=channel,
    )
