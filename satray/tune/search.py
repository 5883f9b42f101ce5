"""The search itself: range tests, what trials start from, then the trials, heads first."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from satray.config.train import TrainRecipe
from satray.errors import InputError, SatrayError, TrainingError
from satray.runs.run import Run
from satray.storage import join
from satray.train.setup import set_up
from satray.tune import tuner
from satray.tune.board import Board
from satray.tune.records import TrialLog, short_value, trial_id
from satray.tune.space import Configuration, Space
from satray.tune.starts import prepare, settle
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
"""Below the run's state: what range tests found, or why they failed."""
RANDOM_FIRST = 10
"""Trials that Optuna draws at random before it models anything (its own default)."""
SUGGESTIONS = 50
"""Of Optuna's that are no news, before a random configuration is taken."""


@dataclass(frozen=True)
class Found:
    """A search that is over."""

    sweep: Sweep
    """With the space that was searched, and what trials started from."""
    log: TrialLog
    """All trials."""
    work: tuner.Work
    """What trials were given."""
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
    starts, lost = prepare(_by_start(sweep, trials), sweep.index, run, store)
    sweep = replace(sweep, starts=starts, lost=lost)
    board = Board(sweep.metric, sweep.planned, run.say, run.progress)
    log = TrialLog(run.storage, run.state, sweep.metric, board.show)
    if log.records:
        run.say(f"{len(log.records):,} of {sweep.planned:,} trials had ended before")
    work = tuner.work_of(sweep, run)
    with run.activity("trials"):
        for left, heads, tell in _left(sweep, trials, log):
            tuner.run_trials(sweep, left, log, work, run, reuse=heads, tell=tell)
    return Found(sweep, log, work, tested)


class Optuna:
    """Trials that Optuna's TPE suggests, each once."""

    def __init__(self, sweep: Sweep, log: TrialLog) -> None:
        """Begin, or go on as if the sweep had never stopped.

        Args:
            sweep: resolved, with what trials start from.
            log: trials of earlier attempts; those that did not end come first. It is told of
                configurations that cannot be tried.
        """
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._sweep, self._log = sweep, log
        self._seen = set(log.records)
        self._asked: dict[str, optuna.trial.Trial] = {}
        # Each attempt draws from a seed of its own: the first numbers of one would be known points.
        sampler = optuna.samplers.TPESampler(
            seed=sweep.recipe.seed + len(log.records),
            n_startup_trials=RANDOM_FIRST,
            constant_liar=True,
        )
        self._study = optuna.create_study(direction="maximize", sampler=sampler)
        for record in log.records.values():
            if math.isfinite(value := sweep.metric.worth(record.best)):
                parameters, distributions = sweep.space.evaluated(record.configuration)
                self._study.add_trial(
                    optuna.trial.create_trial(
                        params=parameters, distributions=distributions, value=value
                    )
                )
        for configuration in log.unfinished:
            self._enqueue(configuration)

    def __iter__(self) -> Iterator[Trial]:
        """First what began before and did not end, then what Optuna suggests."""
        while len(self._seen) < self._sweep.planned and (found := self._suggest()) is not None:
            try:
                trial = self._sweep.accept(found)
            except InputError as error:
                self._end(self._asked.pop(trial_id(found)), -math.inf)
                _refuse(self._sweep, self._log, found, str(error))
            else:
                yield trial

    def tell(self, trial: Trial, worth: float) -> None:
        """How a trial ended: larger is better, minus infinity for one that failed."""
        self._end(self._asked.pop(trial.id), worth)

    def _suggest(self) -> Configuration | None:
        """One that was not tried: Optuna's, else a random one, else None: the space is used up."""
        for _ in range(SUGGESTIONS):
            trial = self._study.ask()
            found = self._sweep.space.suggest(trial)
            name = trial_id(found)
            if name not in self._seen:
                self._seen.add(name)
                self._asked[name] = trial
                return found
            self._end(trial, -math.inf)
        fresh = self._sweep.space.sample(len(self._seen) + 1, self._sweep.recipe.seed)
        new = next((each for each in fresh if trial_id(each) not in self._seen), None)
        if new is None:
            return None
        self._enqueue(new)
        return self._suggest()

    def _enqueue(self, configuration: Configuration) -> None:
        """Let the study suggest a configuration next."""
        self._study.enqueue_trial(self._sweep.space.evaluated(configuration)[0])

    def _end(self, trial: optuna.trial.Trial, worth: float) -> None:
        from optuna.trial import TrialState

        if math.isfinite(worth):
            self._study.tell(trial, worth)
        else:
            self._study.tell(trial, state=TrialState.FAIL)


def range_tests(sweep: Sweep, run: Run, store: str) -> tuple[Space, dict[str, bytes]]:
    """Test the first stage's learning rate of each variant, once a run. Ray is up.

    A variant whose test shows nothing, or cannot be done, keeps the rates that it had.

    Args:
        sweep: resolved.
        run: its folder; a sweep that goes on finds there what its first trials were given.
        store: folder of features and starts.

    Returns:
        The space with learning rates around what was found; pictures, heading -> PNG.
    """
    from satray.train.range_test import explore, picture

    space, storage = sweep.space, run.storage
    ends: list[tuple[Any, tuple[float, float] | None]] = []
    pictures: dict[str, bytes] = {}
    for number, variant in enumerate(variants_of(space, sweep.recipe)):
        chosen = {"variant": variant} if "variant" in space.keys else {}
        name = short_value("variant", variant)
        name = name if name not in pictures else f"{name} ({number + 1})"
        trial = sweep.trial(chosen)
        out = join(run.state, TESTS)
        own = Run(run.job, str(number), out, storage, run.say, run.progress, ray=run.ray)
        bounds: tuple[float, float] | None
        failed = join(own.state, "failed.txt")
        try:
            if storage.exists(failed):
                raise TrainingError(storage.read(failed).decode())
            one = alone(trial.recipe) if trial.head else trial.recipe
            setup = set_up(one, storage, sweep.index)
            start = settle(setup, run, store, sweep.start_of(trial))
            (finding,) = explore(start.under(setup), own, start.weights, (0,))
            bounds = rate_bounds(finding.learning_rate, finding.suggestions.minimum)
            pictures[name] = picture((finding,), f"{run.run_id}: {name}")
            run.say(f"{name}: {_words(bounds)}; {finding.line()}")
        except SatrayError as error:
            storage.write(failed, str(error).encode())
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


def _by_start(sweep: Sweep, trials: list[Trial]) -> dict[str, TrainRecipe]:
    """What to start from, and a training; for Optuna, where several of those foreseen share it.

    A training of the head where there is one, since features are made for it.
    """
    shared = Counter(map(sweep.start_of, trials))
    heads_last = sorted(trials, key=lambda trial: trial.head)
    found = {sweep.start_of(trial): trial.recipe for trial in heads_last}
    return {key: found[key] for key, number in shared.items() if not sweep.optuna or number > 1}


def _left(
    sweep: Sweep, trials: list[Trial], log: TrialLog
) -> Iterator[tuple[Iterator[Trial], bool, Callable[[Trial, float], object]]]:
    """Trials to run, whether all of them surely train heads, and what is told how they end.

    Lists are cut in two: heads take CPUs that the workers of backbones would wait for.
    """
    if sweep.optuna:
        suggested = Optuna(sweep, log)
        if len(log.records) < sweep.planned:
            heads = all(sweep.regime_of(trial) == "head" for trial in trials)
            yield iter(suggested), heads, suggested.tell
        return
    left = [trial for trial in trials if trial.id not in log.records]
    for trial in left:
        if reason := sweep.lost_by(trial):
            _refuse(sweep, log, trial.configuration, reason)
    for regime in ("head", "backbone"):
        alike = [t for t in left if not sweep.lost_by(t) and sweep.regime_of(t) == regime]
        if alike:
            yield iter(alike), regime == "head", lambda *_: None


def _refuse(sweep: Sweep, log: TrialLog, configuration: Configuration, reason: str) -> None:
    """A trial that cannot begin has failed; for a lost start, until the sweep is run again."""
    log.refuse(configuration, reason, keep=reason not in sweep.lost.values())
