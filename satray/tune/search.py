"""The search itself: range tests, what trials start from, then the trials, heads first."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from satray.errors import InputError, SatrayError, TrainingError
from satray.runs.run import Run
from satray.storage import join
from satray.train.setup import set_up
from satray.tune import tuner
from satray.tune.records import TrialLog, short_value, trial_id
from satray.tune.space import Space
from satray.tune.starts import prepare, settle
from satray.tune.trials import RATE, RATES, Sweep, Trial, full_recipe

TESTS = "range-tests"
"""Below the run's state: what range tests found, or why they failed."""
RANDOM_FIRST = 10
"""Trials that Optuna draws at random before it models anything (its own default)."""
SUGGESTIONS = 50
"""Of Optuna's that are no news, before a random configuration is taken."""


def search(sweep: Sweep, run: Run) -> tuple[TrialLog, tuner.Work, dict[str, bytes]]:
    """Run all trials that have not ended. Ray is up.

    Args:
        sweep: resolved.
        run: its folder; what ended is in its state's log.

    Returns:
        All trials; what they were given, with the space that was searched; pictures of range
        tests, heading -> PNG.

    Raises:
        InputError: workers of a trial would share GPUs.
        SatrayError: no trial can begin, since no start can be had.
    """
    tuner.refuse_shared_gpus(sweep)
    store, tested = sweep.store(run.out), dict[str, bytes]()
    if sweep.recipe.landscape:
        space, tested = range_tests(sweep, run, store)
        sweep = sweep.over(space)
        for trial in sweep.trials:
            sweep.check(trial)
    with run.activity("preparing"):
        heads = sweep.recipe.refit  # else they are seen to fit when their features are made
        sweep.check_networks(trial for trial in sweep.trials if heads or not trial.head)
    for line in sweep.notes:
        run.say(f"note: {line}")
    # Features are made for a training of the head, where one is among those that share a start.
    shared = Counter(trial.start for trial in sweep.trials)
    heads_last = sorted(sweep.trials, key=lambda trial: trial.head)
    recipes = {trial.start: trial.recipe for trial in heads_last}
    # Of what Optuna may come to, what several of those foreseen share.
    wanted = {key: recipes[key] for key in shared if not sweep.optuna or shared[key] > 1}
    starts, lost = prepare(wanted, sweep.index, run, store)
    sweep = replace(sweep, starts=starts, lost=lost)
    log = TrialLog(run, sweep.metric, sweep.planned)
    if log.records:
        run.say(f"{len(log.records):,} of {sweep.planned:,} trials had ended before")
    work = tuner.work_of(sweep, run)
    with run.activity("trials"):
        for left, heads in _left(sweep, log, work.at_once["head"]):
            tuner.run_trials(left, log, work, run, heads=heads)
    return log, work, tested


def _left(
    sweep: Sweep, log: TrialLog, at_once: int
) -> Iterator[tuple[Iterator[tuple[Trial, ...]], bool]]:
    """Trials to run, in stacks, and whether all of them surely train heads.

    Lists are cut in two: heads take CPUs that the workers of backbones would wait for. Of heads so
    many stacks run at once.
    """
    if sweep.optuna:
        if len(log.records) < sweep.planned:
            heads = all(sweep.regime_of(trial) == "head" for trial in sweep.trials)
            yield ((trial,) for trial in suggested(sweep, log)), heads
        return
    left = [trial for trial in sweep.trials if trial.id not in log.records]
    for trial in left:
        if trial.start in sweep.lost:  # until the sweep is run again
            log.refuse(trial.configuration, sweep.lost[trial.start], keep=False)
    for regime in ("head", "backbone"):
        alike = [t for t in left if t.start not in sweep.lost and sweep.regime_of(t) == regime]
        if alike and regime == "head" and sweep.stacked:
            yield iter(sweep.stacks(alike, at_once)), True
        elif alike:
            yield ((trial,) for trial in alike), regime == "head"


def suggested(sweep: Sweep, log: TrialLog) -> Iterator[Trial]:
    """Trials that Optuna's TPE suggests, each once, as if the sweep had never stopped.

    Args:
        sweep: resolved, with what trials start from.
        log: what ended, before or meanwhile, is learnt from; what an earlier attempt began and did
            not end comes first. It is told of configurations that cannot be tried.
    """
    import optuna
    from optuna.trial import TrialState, create_trial

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space, seen = sweep.space, set(log.records)
    asked: dict[str, optuna.trial.Trial] = {}
    # Each attempt draws from a seed of its own: the first numbers of one would be known points.
    seed = (sweep.recipe.seed + len(log.records)) % 2**32
    sampler = optuna.samplers.TPESampler(
        seed=seed, n_startup_trials=RANDOM_FIRST, constant_liar=True
    )
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for record in log.records.values():
        if math.isfinite(value := sweep.metric.worth(record.best)):
            params, distributions = space.evaluated(record.configuration)
            told = create_trial(params=params, distributions=distributions, value=value)
            study.add_trial(told)
    for configuration in log.unfinished:
        study.enqueue_trial(space.evaluated(configuration)[0])
    idle = 0
    while len(seen) < sweep.planned:
        for name in [name for name in asked if name in log.records]:
            worth = sweep.metric.worth(log.records[name].best)
            if math.isfinite(worth):
                study.tell(asked.pop(name), worth)
            else:
                study.tell(asked.pop(name), state=TrialState.FAIL)
        trial = study.ask()
        found = space.suggest(trial)
        name = trial_id(found)
        if name in seen:
            study.tell(trial, state=TrialState.FAIL)
            idle += 1
            if idle % SUGGESTIONS == 0:
                fresh = space.sample(len(seen) + 1, sweep.recipe.seed)
                left = [each for each in fresh if trial_id(each) not in seen]
                if not left:
                    return  # the space is used up
                study.enqueue_trial(space.evaluated(left[0])[0])
            continue
        seen.add(name)
        asked[name] = trial
        try:
            new = sweep.trial(found)
            sweep.check(new)
        except InputError as error:
            log.refuse(found, str(error))
            continue
        if new.start in sweep.lost:
            log.refuse(found, sweep.lost[new.start], keep=False)
        else:
            yield new


def range_tests(sweep: Sweep, run: Run, store: str) -> tuple[Space, dict[str, bytes]]:
    """Test the first stage's learning rate of each variant, once a run. Ray is up.

    A variant whose test shows nothing, or cannot be done, keeps the rates that it had.

    Args:
        sweep: resolved.
        run: its folder; a sweep that goes on finds there what its first trials were given.
        store: folder of starts and features.

    Returns:
        The space with learning rates around what was found; pictures, heading -> PNG.
    """
    from satray.train.range_test import explore, picture

    space, storage = sweep.space, run.storage
    ends: list[tuple[Any, tuple[float, float] | None]] = []
    pictures: dict[str, bytes] = {}
    searched = [value for axis in space.axes if axis.key == "variant" for value in axis.values]
    variants = searched or [full_recipe(sweep.recipe, {}).variant]
    for number, variant in enumerate(variants):
        chosen = {"variant": variant} if searched else {}
        name = short_value("variant", variant)
        name = name if name not in pictures else f"{name} ({number + 1})"
        out = join(run.state, TESTS)
        own = Run(run.job, str(number), out, storage, run.say, run.progress, ray=run.ray)
        bounds: tuple[float, float] | None
        failed = join(own.state, "failed.txt")
        try:
            if storage.exists(failed):
                raise TrainingError(storage.read(failed).decode())
            trial = sweep.trial(chosen)
            setup = set_up(trial.recipe, storage, sweep.index)
            start = settle(setup, run, store, trial.start)
            (finding,) = explore(setup, own, start.weights, (0,))
            bounds = rate_bounds(finding.learning_rate, finding.suggestions.minimum)
            pictures[name] = picture((finding,), f"{run.run_id}: {name}")
            run.say(f"{name}: {_words(bounds)}; {finding.line()}")
        except SatrayError as error:
            storage.write(failed, str(error).encode())
            alike = [t for t in sweep.trials if chosen.items() <= t.configuration.items()]
            given = all(t.recipe.stages[0].learning_rate != "auto" for t in alike)
            bounds = None if given else RATES
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
