"""The search itself: range tests, grounds and features, then trials, heads before backbones."""

from __future__ import annotations

import functools
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from satray import cluster
from satray.config.train import TrainRecipe
from satray.errors import InputError
from satray.runs.run import Run
from satray.tune import tuner
from satray.tune.actor import Work
from satray.tune.board import Board
from satray.tune.concurrency import Demand, backbones_at_once, heads_at_once
from satray.tune.desk import Desk, Job, Regime
from satray.tune.feature_table import head_only, with_views
from satray.tune.ground import Laid, lay
from satray.tune.ledger import Ledger
from satray.tune.plan import note_lines
from satray.tune.ranges import Tested, range_tests
from satray.tune.records import TrialRecord
from satray.tune.resolve import count
from satray.tune.sources import Listed, Optuna
from satray.tune.space import Configuration, Values
from satray.tune.sweep import Sweep, store_of
from satray.tune.trials import trial_id

SHARED = 2
"""Configurations that Optuna may come upon on one ground, of those foreseen, for which features
are extracted; where fewer stand on it, each would need features of its own."""
PARTING = ("variant", "pooling", "weights", "first_conv", "input", "augment", "seed", "precision",
           "average", "stages")  # fmt: skip
"""Keys of train by which configurations may stand on other grounds, or train more than heads."""
LENGTHS = r"stages\.\d+\.(?!trainable).*"
"""Those of stages that do neither."""
MOST = 256
"""Kinds of configurations that are looked at, at most."""


@dataclass(frozen=True)
class Found:
    """A search that is over."""

    sweep: Sweep
    """With the space that was searched."""
    records: dict[str, TrialRecord]
    """Of all trials, by id."""
    laid: Laid
    """What they stand on."""
    work: Work
    """What trials were given."""
    planned: int
    """How many there were to be."""
    at_once: dict[Regime, int]
    """Regime -> trials at a time."""
    tested: Tested | None
    """What range tests found."""

    @property
    def features(self) -> set[str]:
        """Keys of the features that trials read."""
        grounds = self.laid.grounds.values()
        return {each.features.key for each in grounds if each.features is not None}

    def describe(self, configuration: Configuration) -> Job:
        """The trial of a configuration."""
        return describe(self.sweep, self.laid, configuration)

    def whole(self, configuration: Configuration) -> TrainRecipe:
        """The training of a configuration as `train` would take it, with the views it was given."""
        recipe = self.sweep.whole(configuration)
        recipe = recipe.model_copy(update={"resources": self.sweep.recipe.resources})
        if self.describe(configuration).regime == "head":
            recipe = with_views(recipe, self.sweep.tiles.meta.tile_shape)
        return recipe


def describe(sweep: Sweep, laid: Laid, configuration: Configuration) -> Job:
    """What a configuration's trial is: on which ground, and by which regime."""
    recipe, key = sweep.trained(configuration), sweep.key_of(configuration)
    ground = laid.grounds.get(key)
    there = key in laid.lost or (ground is not None and ground.features is not None)
    regime: Regime = "head" if there and head_only(recipe) is None else "backbone"
    return Job(trial_id(configuration), dict(configuration), key, regime, recipe.seed)


def search(sweep: Sweep, run: Run) -> Found:
    """Run all trials that have not ended. Ray is up.

    Args:
        sweep: resolved.
        run: its folder; what ended is in its state's ledger.

    Raises:
        SatrayError: no trial can begin, since no ground can be had.
    """
    store = store_of(sweep.recipe, run.out)
    tested = None
    if sweep.recipe.landscape:
        tested = range_tests(sweep.recipe, sweep.space, sweep.tiles, run, store, sweep.digest_of)
        sweep = replace(sweep, space=tested.space)
    listed = sweep.listed()
    with run.activity("preparing"):
        sweep.check_networks(listed, heads=False)
        for configuration in listed:
            sweep.check(configuration)
    for line in note_lines(sweep.notes):
        run.say(line)
    laid = lay(_standing(sweep, listed), sweep.tiles, run, store, sweep.digest_of)
    ledger = Ledger(run.storage, run.state)
    records, planned = ledger.records(), count(sweep.recipe, sweep.space)
    if records:
        run.say(f"{len(records):,} of {planned:,} trials had ended before")
    kinds = {trial_id(one): describe(sweep, laid, one).regime for one in listed}
    board = Board(
        sweep.metric,
        planned,
        run.say,
        run.progress,
        records.values(),
        kinds={} if sweep.optuna else kinds,
    )
    at_once = trials_at_once(sweep, run)
    work = _work(sweep, run, laid, at_once)
    _run_all(_Office(sweep, run, laid, listed, ledger, board, work), at_once)
    ended = {record.id: record for record in board.records}
    return Found(sweep, ended, laid, work, planned, at_once, tested)


def trials_at_once(sweep: Sweep, run: Run) -> dict[Regime, int]:
    """Regime -> trials at a time on the cluster. Ray is up."""
    recipe = sweep.recipe
    workers = cluster.allot(recipe.resources, run.say, gpu_share=recipe.gpu_share)
    there = tuner.available()
    wanted = None if recipe.concurrent == "auto" else recipe.concurrent
    demand = Demand(workers.count, workers.gpu, recipe.gpu_share)
    return {
        "head": heads_at_once(there, wanted),
        "backbone": backbones_at_once(there, demand, wanted),
    }


def _work(sweep: Sweep, run: Run, laid: Laid, at_once: Mapping[Regime, int]) -> Work:
    recipe = sweep.recipe
    all_of_them = cluster.allot(
        recipe.resources,
        run.say,
        count=recipe.resources.workers * at_once["backbone"],
        gpu_share=recipe.gpu_share,
    )
    return Work(
        recipe=recipe,
        tiles=sweep.tiles,
        storage=run.storage,
        state=run.state,
        run_id=run.run_id,
        metric=sweep.metric,
        grounds=laid.grounds,
        one_by_one=recipe.stop.name != "none",
        threads=1,  # the CPU that each asks for
        workers=replace(all_of_them, count=recipe.resources.workers),
    )


@dataclass(frozen=True)
class _Office:
    """What it takes to run trials."""

    sweep: Sweep
    run: Run
    laid: Laid
    listed: list[Configuration]
    ledger: Ledger
    board: Board
    work: Work

    def describe(self, configuration: Configuration) -> Job:
        """The trial of a configuration."""
        return describe(self.sweep, self.laid, configuration)

    def lost(self, configuration: Configuration) -> str | None:
        """Why a configuration's ground cannot be had; None where it can, or where it has none."""
        try:
            return self.laid.lost.get(self.sweep.key_of(configuration))
        except InputError:
            return None

    def refused(self, desk: Desk, configuration: Configuration, reason: str) -> None:
        """A configuration that Optuna came upon cannot be tried."""
        desk.refused(configuration, reason, passing=self.lost(configuration) is not None)

    def refuse(self, configuration: Configuration) -> None:
        """Raise InputError where a configuration cannot be trained."""
        self.sweep.check(configuration)
        reason = self.lost(configuration)
        if reason is not None:
            raise InputError(reason)


def _run_all(office: _Office, at_once: Mapping[Regime, int]) -> None:
    sweep, ledger, recipe = office.sweep, office.ledger, office.sweep.recipe
    records, begun = ledger.records(), ledger.begun()
    longest = max((sweep.asked(each)[0] for each in office.listed), default=0)
    for regimes, source in _sources(office, records, begun):
        if source.over:
            continue
        desk = Desk(
            source,
            office.describe,
            ledger,
            office.board,
            sweep.metric,
            len(begun),
        )
        if isinstance(source, Optuna):
            source.refused = functools.partial(office.refused, desk)
        else:
            _record_lost(office, source, desk)
            if source.over:
                continue
        with office.run.activity("trials"):
            tuner.run_trials(
                desk,
                office.work,
                office.run,
                at_once=min(at_once[regime] for regime in regimes),
                reuse=regimes == {"head"},
                stop=recipe.stop,
                grace=recipe.stop.grace or max(1, int(longest // 10)),
                metric=sweep.metric,
                earlier=[
                    (record, sweep.asked(record.configuration)[1])
                    for record in ledger.records().values()
                    if record.curve  # what was refused is no training
                ],
            )


def _record_lost(office: _Office, source: Listed, desk: Desk) -> None:
    """Trials whose ground cannot be had have failed; a sweep that goes on tries them again."""
    for configuration in source.without(lambda each: office.lost(each) is not None):
        desk.refused(configuration, office.lost(configuration) or "", passing=True)


def _sources(
    office: _Office, records: Mapping[str, TrialRecord], begun: list[Configuration]
) -> list[tuple[set[Regime], Listed | Optuna]]:
    """Where trials come from, and of which regimes they are.

    Lists are cut in two: heads take CPUs that the workers of backbones would wait for.
    """
    sweep = office.sweep
    regimes = {trial_id(each): office.describe(each).regime for each in office.listed}
    if sweep.optuna:
        optuna = Optuna(
            sweep.space,
            sweep.recipe.trials or count(sweep.recipe, sweep.space),
            sweep.recipe.seed,
            sweep.metric,
            records=list(records.values()),
            begun=begun,
            refuse=office.refuse,
        )
        return [({"head"} if only_heads(sweep, office.laid) else {"head", "backbone"}, optuna)]
    found: list[tuple[set[Regime], Listed | Optuna]] = []
    both: tuple[Regime, ...] = ("head", "backbone")
    for regime in both:
        of_it = [each for each in office.listed if regimes[trial_id(each)] == regime]
        found.append(({regime}, Listed(of_it, done=records)))
    return found


def only_heads(sweep: Sweep, laid: Laid) -> bool:
    """Whether surely every configuration of the space trains its head on a ground that is there."""
    choices: list[list[Configuration]] = []
    for key in sweep.space.keys:
        if not key.startswith(PARTING) or re.fullmatch(LENGTHS, key):
            continue
        axes = [axis for axis in sweep.space.axes if axis.key == key]
        if not all(isinstance(axis.domain, Values) for axis in axes):
            return False
        values = [value for axis in axes for value in axis.domain.grid()]
        absent: list[Configuration] = [{}] if any(axis.when for axis in axes) else []
        choices.append([*absent, *({key: value} for value in values)])
    for place, parts in enumerate(itertools.product(*choices)):
        one = {key: value for part in parts for key, value in part.items()}
        try:
            if place >= MOST or describe(sweep, laid, one).regime != "head":
                return False
        except InputError:
            continue  # no configuration that is tried
    return True


def _standing(sweep: Sweep, listed: Iterable[Configuration]) -> list[TrainRecipe]:
    """Trainings whose grounds are laid beforehand."""
    keys = {trial_id(each): sweep.key_of(each) for each in listed}
    common = Counter(keys.values())
    least = SHARED if sweep.optuna else 1
    return [sweep.trained(each) for each in listed if common[keys[trial_id(each)]] >= least]
