"""Where the configurations of a sweep come from: a list, or Optuna. No Ray, no torch.

What earlier attempts tried is told to a searcher before it is asked for more, so that a sweep goes
on as if it had never stopped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from satray.errors import InputError
from satray.tune.records import Metric, TrialRecord
from satray.tune.space import Configuration, Space
from satray.tune.trials import trial_id

if TYPE_CHECKING:
    import optuna

_TRIES = 50
"""Suggestions that are no news before a random one is taken."""
_RANDOM = 10
"""Trials that Optuna draws at random before it models anything (its own default)."""


class Source(Protocol):
    """Gives configurations that have not been tried."""

    @property
    def over(self) -> bool:
        """Whether there surely are no more."""

    def ask(self) -> Configuration | None:
        """The next one; None where there are no more."""

    def tell(self, configuration: Mapping[str, Any], worth: float) -> None:
        """How a trial ended: larger is better, minus infinity for one that failed."""


class Listed:
    """Configurations known beforehand, in order."""

    def __init__(self, configurations: Iterable[Configuration], done: Iterable[str] = ()) -> None:
        """Leave out what is done.

        Args:
            configurations: all of them; one that is there twice counts once.
            done: ids of trials that ended.
        """
        left = {trial_id(each): each for each in configurations}
        for trial in done:
            left.pop(trial, None)
        self._left = list(left.values())

    def without(self, refuse: Callable[[Configuration], bool]) -> list[Configuration]:
        """Take off the configurations that are refused; gives them."""
        taken = [each for each in self._left if refuse(each)]
        self._left = [each for each in self._left if not refuse(each)]
        return taken

    @property
    def over(self) -> bool:
        """Whether the list is at its end."""
        return not self._left

    def ask(self) -> Configuration | None:
        """The next one."""
        return self._left.pop(0) if self._left else None

    def tell(self, configuration: Mapping[str, Any], worth: float) -> None:
        """Nothing is learnt from it."""


class Optuna:
    """Configurations that Optuna's TPE suggests, each once."""

    def __init__(
        self,
        space: Space,
        count: int,
        seed: int,
        metric: Metric,
        *,
        records: Sequence[TrialRecord] = (),
        begun: Sequence[Configuration] = (),
        refuse: Callable[[Configuration], object] = lambda _: None,
    ) -> None:
        """Begin, or go on.

        Args:
            space: what to suggest from.
            count: how many trials, those of `records` and `begun` included.
            seed: of the sampler.
            metric: what trials are compared by.
            records: trials that ended.
            begun: trials that began; those without a record come first.
            refuse: raises InputError where a configuration cannot be valid; it then counts as a
                trial that failed, and `refused` is told.
        """
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._space = space
        self._count = count
        self._seed = seed
        self._refuse = refuse
        self.refused: Callable[[Configuration, str], None] = lambda _, __: None
        ended = {record.id: record for record in records}
        self._unfinished = [each for each in begun if trial_id(each) not in ended]
        self._asked: dict[str, optuna.trial.Trial] = {}
        self._seen = set(ended)
        # Each attempt draws from a seed of its own: the first numbers of one would be known points.
        sampler = optuna.samplers.TPESampler(
            seed=seed + len(ended), n_startup_trials=_RANDOM, constant_liar=True
        )
        self._study = optuna.create_study(direction="maximize", sampler=sampler)
        for record in records:
            self._note(record.configuration, metric.worth(record.best))

    @property
    def over(self) -> bool:
        """Whether there are as many as there were to be."""
        return not self._unfinished and len(self._seen) >= self._count

    def ask(self) -> Configuration | None:
        """The next one: one that began before and did not end, else what Optuna suggests."""
        while self._unfinished:
            configuration = self._unfinished.pop(0)
            if self._new(configuration):
                return configuration
        while len(self._seen) < self._count:
            found = self._suggest()
            if found is None:
                return None
            try:
                self._refuse(found)
            except InputError as error:
                self.tell(found, -math.inf)
                self.refused(found, str(error))
                continue
            return found
        return None

    def tell(self, configuration: Mapping[str, Any], worth: float) -> None:
        """How it ended."""
        trial = self._asked.pop(trial_id(configuration), None)
        if trial is None:
            self._note(configuration, worth)
        else:
            self._tell(trial, worth)

    def _suggest(self) -> Configuration | None:
        """One that was not tried: Optuna's, else a random one, else None: the space is empty."""
        for _ in range(_TRIES):
            trial = self._study.ask()
            found = self._space.suggest(trial)
            if self._new(found):
                self._asked[trial_id(found)] = trial
                return found
            self._tell(trial, -math.inf)
        fresh = self._space.sample(len(self._seen) + 1, self._seed)
        return next((each for each in fresh if self._new(each)), None)

    def _new(self, configuration: Configuration) -> bool:
        trial = trial_id(configuration)
        if trial in self._seen:
            return False
        self._seen.add(trial)
        return True

    def _tell(self, trial: optuna.trial.Trial, worth: float) -> None:
        from optuna.trial import TrialState

        if math.isfinite(worth):
            self._study.tell(trial, worth)
        else:
            self._study.tell(trial, state=TrialState.FAIL)

    def _note(self, configuration: Mapping[str, Any], worth: float) -> None:
        """Let the study know of a trial that it did not suggest itself in this attempt."""
        import optuna

        if not math.isfinite(worth):
            return
        parameters, distributions = self._space.evaluated(configuration)
        self._study.add_trial(
            optuna.trial.create_trial(params=parameters, distributions=distributions, value=worth)
        )
