"""The search itself: range tests, what trials start from, then the trials, heads first."""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from satray import cluster
from satray.config.train import TrainRecipe
from satray.errors import InputError, SatrayError, TrainingError
from satray.runs.run import Run
from satray.storage import join
from satray.train.setup import set_up
from satray.tune import tuner
from satray.tune.board import Board
from satray.tune.records import Metric, Regime, TrialLog, TrialRecord, short_value, trial_id
from satray.tune.shared_start import prepare, settle
from satray.tune.space import Configuration, Space
from satray.tune.trials import (
    RATE,
    RATES,
    Sweep,
    Trial,
    alone,
    full_recipe,
    note_lines,
    variants_of,
)

if TYPE_CHECKING:
    import optuna

TESTS = "range-tests"
"""Beside starts and features: what was found, so that no sweep tests again. Below the run's state:
why a test failed, for this run alone."""
DECIDING = ("landscape", "optimizer", "loss", "repeat", "batch", "accumulate", "dropout",
            "drop_path", "sync_batchnorm", "deterministic")  # fmt: skip
"""Keys of train that decide what a range test finds, beside those of the start."""
DECIDING_STAGE = ("trainable", "layer_decay", "dropout")
"""Likewise of the stage."""
RANDOM_FIRST = 10
"""Trials that Optuna draws at random before it models anything (its own default)."""
SUGGESTIONS = 50
"""Of Optuna's that are no news, before a random configuration is taken."""


@dataclass(frozen=True)
class Found:
    """A search that is over."""

    sweep: Sweep
    """With the space that was searched, and what trials started from."""
    records: dict[str, TrialRecord]
    """Of all trials, by id."""
    work: tuner.Work
    """What trials were given."""
    at_once: dict[Regime, int]
    """Regime -> trials at a time."""
    tested: dict[str, bytes]
    """What range tests found: heading -> PNG."""


def search(sweep: Sweep, run: Run) -> Found:
    """Run all trials that have not ended. Ray is up.

    Args:
        sweep: resolved.
        run: its folder; what ended is in its state's log.

    Raises:
        SatrayError: no trial can begin, since no start can be had.
    """
    store, tested = sweep.store(run.out), dict[str, bytes]()
    if sweep.recipe.landscape:
        space, tested = range_tests(sweep, run, store)
        sweep = replace(sweep, space=space)
    trials = sweep.listed()
    with run.activity("preparing"):
        sweep.check_networks(trial for trial in trials if not trial.head)
        for trial in trials:
            sweep.check(trial)
    for line in note_lines(sweep.notes):
        run.say(line)
    sweep = replace(sweep, starts=prepare(_by_start(sweep, trials), sweep.index, run, store))
    log = TrialLog(run.storage, run.state, sweep.metric)
    if log.records:
        run.say(f"{len(log.records):,} of {sweep.planned:,} trials had ended before")
    at_once = tuner.trials_at_once(sweep.recipe, run)
    work = _work(sweep, run, at_once)
    board = Board(log, sweep.metric, sweep.planned, run.say, run.progress)
    longest = max((sweep.length_of(trial)[0] for trial in trials), default=0)
    grace = sweep.recipe.stop.grace or max(1, int(longest // 10))
    with run.activity("trials"):
        for left, reuse, tell in _left(sweep, trials, log, board):
            earlier = [
                (record, sweep.length_of(sweep.trial(record.configuration))[1])
                for record in log.records.values()
                if record.curve  # what was refused is no training
            ]
            scheduler = tuner.scheduler_of(sweep.recipe.stop, grace, sweep.metric, earlier)
            tuner.run_trials(
                sweep, left, log, board, work, run,
                at_once=at_once, reuse=reuse, scheduler=scheduler, tell=tell,
            )  # fmt: skip
    return Found(sweep, log.records, work, at_once, tested)


class Optuna:
    """Trials that Optuna's TPE suggests, each once."""

    def __init__(
        self,
        space: Space,
        count: int,
        seed: int,
        metric: Metric,
        accept: Callable[[Configuration], Trial],
        *,
        records: Iterable[TrialRecord] = (),
        unfinished: Iterable[Configuration] = (),
        refused: Callable[[Configuration, str], object] = lambda *_: None,
    ) -> None:
        """Begin, or go on as if the sweep had never stopped.

        Args:
            space: what to suggest from.
            count: how many trials, those of `records` and `unfinished` included.
            seed: of the sampler.
            metric: what trials are compared by.
            accept: gives the trial of a configuration; raises InputError where it cannot be tried.
            records: trials that ended in earlier attempts.
            unfinished: configurations that began and did not end; they come first.
            refused: told of configurations that cannot be tried, and why.
        """
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._space, self._count, self._seed = space, count, seed
        self._accept, self._refused = accept, refused
        ended = {record.id: record for record in records}
        self._unfinished = list(unfinished)
        self._seen = set(ended)
        self._asked: dict[str, optuna.trial.Trial] = {}
        # Each attempt draws from a seed of its own: the first numbers of one would be known points.
        sampler = optuna.samplers.TPESampler(
            seed=seed + len(ended), n_startup_trials=RANDOM_FIRST, constant_liar=True
        )
        self._study = optuna.create_study(direction="maximize", sampler=sampler)
        for record in ended.values():
            self._add(record.configuration, metric.worth(record.best))

    def __iter__(self) -> Iterator[Trial]:
        """First what began before and did not end, then what Optuna suggests."""
        while self._unfinished or len(self._seen) < self._count:
            found = self._unfinished.pop(0) if self._unfinished else self._suggest()
            if found is None:
                return
            self._seen.add(trial_id(found))
            try:
                trial = self._accept(found)
            except InputError as error:
                self._tell(found, -math.inf)
                self._refused(found, str(error))
            else:
                yield trial

    def tell(self, trial: Trial, worth: float) -> None:
        """How a trial ended: larger is better, minus infinity for one that failed."""
        self._tell(trial.configuration, worth)

    def _suggest(self) -> Configuration | None:
        """One that was not tried: Optuna's, else a random one, else None: the space is used up."""
        for _ in range(SUGGESTIONS):
            trial = self._study.ask()
            found = self._space.suggest(trial)
            if trial_id(found) not in self._seen:
                self._asked[trial_id(found)] = trial
                return found
            self._finish(trial, -math.inf)
        fresh = self._space.sample(len(self._seen) + 1, self._seed)
        return next((each for each in fresh if trial_id(each) not in self._seen), None)

    def _tell(self, configuration: Configuration, worth: float) -> None:
        asked = self._asked.pop(trial_id(configuration), None)
        if asked is None:
            self._add(configuration, worth)
        else:
            self._finish(asked, worth)

    def _finish(self, trial: optuna.trial.Trial, worth: float) -> None:
        from optuna.trial import TrialState

        if math.isfinite(worth):
            self._study.tell(trial, worth)
        else:
            self._study.tell(trial, state=TrialState.FAIL)

    def _add(self, configuration: Configuration, worth: float) -> None:
        """Let the study know of a trial that it did not suggest itself in this attempt."""
        import optuna

        if math.isfinite(worth):
            parameters, distributions = self._space.evaluated(configuration)
            told = optuna.trial.create_trial(
                params=parameters, distributions=distributions, value=worth
            )
            self._study.add_trial(told)


def range_tests(sweep: Sweep, run: Run, store: str) -> tuple[Space, dict[str, bytes]]:
    """Test the first stage's learning rate of each variant. Ray is up.

    A variant whose test shows nothing, or cannot be done, keeps the rates that it had.

    Args:
        sweep: resolved.
        run: its folder.
        store: folder of features, starts and tests; one that is there already is not done again.

    Returns:
        The space with learning rates around what was found; pictures, heading -> PNG.
    """
    from satray.train.range_test import explore, picture

    recipe, space = sweep.recipe, sweep.space
    ends: list[tuple[Any, tuple[float, float] | None]] = []
    pictures: dict[str, bytes] = {}
    names: list[str] = []
    for variant in variants_of(space, recipe):
        chosen = {"variant": variant} if "variant" in space.keys else {}
        names.append(short_value("variant", variant))
        alike = names.count(names[-1])  # other bands, say
        name = names[-1] if alike == 1 else f"{names[-1]} ({alike})"
        trial = sweep.trial(chosen)
        one = alone(trial.recipe) if trial.head else trial.recipe
        start = sweep.start_of(trial)
        key = key_of_test(one, start)
        folder = join(store, TESTS)
        own = Run(run.job, key, folder, run.storage, run.say, run.progress, ray=run.ray)
        bounds: tuple[float, float] | None
        failed = join(run.state, TESTS, f"{key}.txt")
        try:
            if run.storage.exists(failed):
                raise TrainingError(run.storage.read(failed).decode())
            setup = set_up(one, run.storage, sweep.index)
            settled = settle(setup, run, store, start)
            (finding,) = explore(settled.under(setup), own, settled.weights, (0,))
            bounds = rate_bounds(finding.learning_rate, finding.suggestions.minimum)
            pictures[name] = picture((finding,), f"{run.run_id}: {name}")
            run.say(f"{name}: {_words(bounds)}; {finding.line()}")
        except SatrayError as error:
            # A sweep that goes on shall find the space that its first trials were of.
            run.storage.write(failed, str(error).encode())
            bounds = None if _has_rates(sweep, chosen) else RATES
            rates = "learning rates as given" if bounds is None else _words(bounds)
            run.say(f"{name}: {rates}, since its range test failed: {error}")
        for activity, seconds in own.seconds.items():
            run.add_seconds(activity, seconds)
        ends.append((variant, bounds))
    return space.with_ranges(RATE, "variant", ends), pictures


def rate_bounds(chosen: float, minimum: float) -> tuple[float, float]:
    """Lowest and highest learning rate to try around what a range test found.

    A tenth of the rate that it chose to ten times it, but not above three times its `minimum`
    suggestion, beyond which the loss bursts.

    Args:
        chosen: `Finding.learning_rate`.
        minimum: `Finding.suggestions.minimum`.
    """
    low, high = chosen / 10, max(chosen, min(chosen * 10, minimum * 3))
    return float(f"{low:.3g}"), float(f"{high:.3g}")


def key_of_test(recipe: TrainRecipe, start: str) -> str:
    """Names what a range test of the first stage finds: 16 hexadecimal digits.

    Args:
        recipe: of a training of that variant.
        start: key of its start.
    """
    identity = recipe.identity()
    stage = {name: identity["stages"][0][name] for name in DECIDING_STAGE}
    keys = {name: identity[name] for name in DECIDING}
    blending = [identity["augment"][name] for name in ("mixup", "cutmix")]
    parts = 1 if recipe.sync_batchnorm else recipe.resources.workers
    whole = [start, keys, stage, blending, parts]
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:16]


def _words(bounds: tuple[float, float]) -> str:
    return f"learning rates {bounds[0]:.2g} to {bounds[1]:.2g}"


def _has_rates(sweep: Sweep, chosen: Configuration) -> bool:
    """Whether all trials of a variant have rates without a test."""
    rates = [axis for axis in sweep.space.axes if axis.key == RATE]
    if any(axis.domain.holds("auto") for axis in rates):
        return False
    if full_recipe(sweep.recipe, chosen).stages[0].learning_rate != "auto":
        return True
    return any(axis.may_apply(chosen) and not axis.when_but("variant") for axis in rates)


def _by_start(sweep: Sweep, trials: Iterable[Trial]) -> dict[str, list[TrainRecipe]]:
    """Trainings by what they start from; for Optuna, where several of those foreseen share it."""
    found = defaultdict[str, list[TrainRecipe]](list)
    for trial in trials:
        found[sweep.start_of(trial)].append(trial.recipe)
    return {key: alike for key, alike in found.items() if not sweep.optuna or len(alike) > 1}


def _work(sweep: Sweep, run: Run, at_once: Mapping[Regime, int]) -> tuner.Work:
    recipe = sweep.recipe
    all_of_them = cluster.allot(
        recipe.resources,
        run.say,
        count=recipe.resources.workers * at_once["backbone"],
        gpu_share=recipe.gpu_share,
    )
    return tuner.Work(
        index=sweep.index,
        storage=run.storage,
        state=run.state,
        run_id=run.run_id,
        metric=sweep.metric,
        starts=sweep.starts.found,
        one_by_one=recipe.stop.name != "none",
        workers=replace(all_of_them, count=recipe.resources.workers),
    )


def _left(
    sweep: Sweep, trials: list[Trial], log: TrialLog, board: Board
) -> Iterator[tuple[Iterator[Trial], bool, Callable[[Trial, float], object]]]:
    """Trials to run, whether all of them surely train heads, and what is told how they end.

    Lists are cut in two: heads take CPUs that the workers of backbones would wait for.
    """
    refused = functools.partial(_refuse, sweep, log, board)
    left = [trial for trial in trials if trial.id not in log.records]
    if sweep.optuna:
        suggested = Optuna(
            sweep.space,
            sweep.planned,
            sweep.recipe.seed,
            sweep.metric,
            sweep.accept,
            records=log.records.values(),
            unfinished=log.unfinished,
            refused=refused,
        )
        if log.unfinished or len(log.records) < sweep.planned:
            heads = all(sweep.regime_of(trial) == "head" for trial in left)
            yield iter(suggested), heads, suggested.tell
        return
    regimes: dict[Regime, list[Trial]] = {"head": [], "backbone": []}
    for trial in left:
        reason = sweep.lost(trial)
        if reason is None:
            regimes[sweep.regime_of(trial)].append(trial)
        else:
            refused(trial.configuration, reason)
    for regime, alike in regimes.items():
        if alike:
            yield iter(alike), regime == "head", lambda *_: None


def _refuse(
    sweep: Sweep, log: TrialLog, board: Board, configuration: Configuration, reason: str
) -> None:
    """A trial that cannot begin has failed; for a lost start, until the sweep is run again."""
    try:
        trial = sweep.trial(configuration)
    except InputError:
        board.ended(log.refuse(configuration, reason))
        return
    regime, keep = sweep.regime_of(trial), sweep.lost(trial) is None
    seed = trial.recipe.seed
    board.ended(log.refuse(configuration, reason, regime=regime, seed=seed, keep=keep))
