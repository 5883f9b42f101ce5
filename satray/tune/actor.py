"""What a trial's process does: open a trial, step it, tell of it. No Ray.

Errors of a trial are told like its evaluations, so that the process lives and takes the next one;
but what may pass (a store that is away, no room) is raised, and the trial begun again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from satray.config.tune import TuneRecipe
from satray.data.index import TileIndex
from satray.errors import InputError, SatrayError, TrainingError
from satray.runs.run import Run
from satray.storage import Storage
from satray.train.setup import Setup, set_up
from satray.tune.feature_table import pooling_of, with_views
from satray.tune.ground import Ground
from satray.tune.ledger import trial_folder
from satray.tune.records import Metric, curve_row
from satray.tune.trials import trial_recipe

if TYPE_CHECKING:
    from satray.cluster import Workers
    from satray.config.train import TrainRecipe
    from satray.tune.feature_table import Features, FeatureTable

TOGETHER = 1.0
"""Seconds of evaluations that are told of together, where none of them can end the trial: an
answer of Tune's takes longer than a head's pseudo-epoch."""


@dataclass(frozen=True)
class Work:
    """What the processes of a sweep's trials need; with the index's labels, not small."""

    recipe: TuneRecipe
    """The sweep."""
    tiles: TileIndex
    """Its index."""
    storage: Storage
    """How URIs are reached."""
    state: str
    """Folder of the sweep's state."""
    run_id: str
    """Of the sweep."""
    metric: Metric
    """What trials are compared by."""
    grounds: dict[str, Ground]
    """By key."""
    one_by_one: bool
    """Tell of each evaluation by itself, since it may be the trial's last."""
    threads: int
    """Threads of a trial that trains its head."""
    workers: Workers
    """What those of a trial that trains its backbone get."""


class Training(Protocol):
    """A trial under way: `HeadTrial` or `BackboneTrial`."""

    @property
    def total(self) -> int:
        """Samples of the whole trial."""

    @property
    def each(self) -> int:
        """Samples from one evaluation to the next, before batches round them."""

    @property
    def done(self) -> bool:
        """Whether it is over."""

    def step(self) -> dict[str, Any]:
        """The next evaluation."""

    def close(self) -> None:
        """Leave off."""


class Session:
    """One process's trials, one after the other."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._opened: dict[tuple[str, str], tuple[Features, Features]] = {}
        self._training: Training | None = None
        self._error: str | None = None
        self._passing: Exception | None = None
        self._samples = 0
        self._told = 0

    def begin(self, job: Mapping[str, Any]) -> None:
        """Open a trial; what goes wrong is told or raised at its first step.

        Args:
            job: `trial`, `configuration`, `ground` and `regime`.
        """
        self._training, self._error, self._passing = None, None, None
        self._samples = self._told = 0
        try:
            self._training = self._open(job)
        except Exception as error:
            self._note(error)

    def step(self) -> dict[str, Any]:
        """Evaluate once or, where that is quick, several times.

        Returns:
            `samples`, `value` and `worth` of the last evaluation; `place`, the samples at which it
            was asked for, the same for trials of any batch; `rows` (curve rows, new ones),
            `seconds` that each took, `share` of the trial that is done; `over`: it is at its end,
            which Tune calls `done`; `error`: why it failed, else None.

        Raises:
            Exception: what may pass.
        """
        rows: list[dict[str, float]] = []
        seconds: list[float] = []
        begun = time.monotonic()
        training, metric = self._training, self._work.metric
        while self._well and training is not None and not training.done:
            try:
                found = training.step()
            except Exception as error:
                self._note(error)
                break
            row = curve_row(found, metric)
            rows.append(row)
            seconds.append(sum(v for name, v in found.items() if name.startswith("seconds_")))
            if math.isnan(metric.of(row)):
                self._error = f"{metric.title} is not a number after {row['samples']:,.0f} samples"
            if self._work.one_by_one or time.monotonic() - begun > TOGETHER:
                break
        if self._passing is not None and not rows:
            raise self._passing
        over = self._error is not None or training is None or training.done
        over = over and self._passing is None
        self._samples = int(rows[-1]["samples"]) if rows else self._samples
        self._told += len(rows)
        value = metric.of(rows[-1]) if rows and self._error is None else math.nan
        return {
            "samples": self._samples,
            "place": self._told * training.each if training is not None else 0,
            "worth": metric.worth(value) if math.isfinite(value) else math.nan,
            "value": value,
            "rows": rows,
            "seconds": seconds,
            "share": self._samples / training.total if training is not None else 0.0,
            "error": self._error,
            "over": over,
            "done": over,
        }

    def end(self) -> None:
        """Leave the trial at hand."""
        training, self._training = self._training, None
        if training is not None and not (training.done and self._error is None):
            training.close()

    @property
    def _well(self) -> bool:
        return self._error is None and self._passing is None

    def _note(self, error: Exception) -> None:
        if may_pass(error):
            self._passing = error
        else:
            self._error = one_line(error)

    def _open(self, job: Mapping[str, Any]) -> Training:
        work = self._work
        folder = trial_folder(work.state, job["trial"])
        recipe = trial_recipe(work.recipe, job["configuration"], folder)
        ground = work.grounds.get(job["ground"])
        if job["regime"] == "head" and ground is not None and ground.features is not None:
            return self._open_head(recipe, ground, ground.features, folder)
        from satray.train import measure
        from satray.train.workers import initial
        from satray.tune.backbone_trial import BackboneTrial

        run = Run("train", work.run_id, folder, work.storage)
        setup = set_up(recipe, work.storage, work.tiles)
        if ground is not None:
            setup, weights = ground.under(setup), ground.weights
        else:
            setup = measure.complete(setup, run)
            weights = initial.stage(setup, run)
        return BackboneTrial(setup, run, weights, work.workers)

    def _open_head(
        self, recipe: TrainRecipe, ground: Ground, table: FeatureTable, folder: str
    ) -> Training:
        import torch

        from satray.tune.head import HeadTrial

        torch.set_num_threads(self._work.threads)
        setup = head_setup(recipe, ground, self._work.tiles, self._work.storage)
        key = (table.key, pooling_of(setup.variant))
        if key not in self._opened:
            self._opened[key] = (table.open("train", key[1]), table.open("val", key[1]))
        train, val = self._opened[key]
        return HeadTrial(setup, train, val, ground.head, folder, self._work.storage)


def head_setup(recipe: TrainRecipe, ground: Ground, tiles: TileIndex, storage: Storage) -> Setup:
    """The set-up of a trial that trains its head: as if by one worker, with a number of views."""
    alone = recipe.resources.model_copy(update={"workers": 1})
    whole = with_views(recipe, tiles.meta.tile_shape)
    recipe = whole.model_copy(update={"resources": alone})
    return ground.under(set_up(recipe, storage, tiles))


def may_pass(error: Exception) -> bool:
    """Whether the same trial may do another time: then it was not the trial that failed."""
    if isinstance(error, SatrayError):
        return not isinstance(error, InputError | TrainingError)
    return isinstance(error, OSError)


def one_line(error: Exception) -> str:
    """What went wrong, for the leaderboard."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = lines[-1] if lines else type(error).__name__
    return said if isinstance(error, SatrayError) else f"{type(error).__name__}: {said}"
