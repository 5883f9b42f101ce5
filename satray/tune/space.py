"""The search space: axes over keys of `train`, and the configurations that they hold. Pure."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING, Any

from satray.config.tune import AXIS
from satray.errors import InputError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import BaseTrial

Configuration = dict[str, Any]
"""Dotted key of `train` -> value; the keys that apply, in the order of the axes."""

KINDS = ("values", "uniform", "log_uniform", "integer")
WORDS = (*KINDS, "when", "points")
"""What an axis written as a mapping may hold; no key of `train` is called so (tested)."""
POINTS = 3
"""Points of a range in a grid, where it does not say."""
DIGITS = 4
"""Significant digits that a number drawn from a range keeps: enough to try, short to read."""
LARGEST_GRID = 100_000
"""Configurations."""
_DRAWS = 200
"""A configuration, at most: of a range narrower than its digits there are few."""


@dataclass(frozen=True)
class Axis:
    """A key of `train` and what it may be."""

    key: str
    """Dotted key."""
    kind: str
    """`values`, or a range of numbers: `uniform`, `log_uniform` or `integer`."""
    values: tuple[Any, ...]
    """All of them, whatever YAML can hold; of a range its ends, which belong to it."""
    points: int = POINTS
    """How many a grid takes of a range."""
    when: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """Other axes' keys, each with the values at which this axis belongs to a configuration."""

    def grid(self) -> tuple[Any, ...]:
        """All values; of a range evenly spread points, ends included; of one point, the middle."""
        if self.kind == "values":
            return self.values
        shares = [i / (self.points - 1) for i in range(self.points)] if self.points > 1 else [0.5]
        return tuple(dict.fromkeys(map(self._between, shares)))

    def all(self) -> Sequence[Any]:
        """All values; empty where they cannot be counted."""
        low, high = self.values[0], self.values[-1]
        if self.kind == "integer":
            return range(low, high + 1)
        return self.values if self.kind == "values" else ()

    def at(self, share: float) -> Any:
        """The value at a share, 0 to below 1, of all."""
        if counted := self.all():
            return counted[int(share * len(counted))]
        return self._between(share)

    def suggest(self, trial: BaseTrial, name: str) -> Any:
        """What Optuna suggests. It knows plain values only, so that choices go by their text."""
        low, high = self.values[0], self.values[-1]
        if self.kind == "values":
            by_text = {canonical(value): value for value in self.values}
            return by_text[trial.suggest_categorical(name, list(by_text))]
        if self.kind == "integer":
            return trial.suggest_int(name, low, high)
        return self._short(trial.suggest_float(name, low, high, log=self.kind == "log_uniform"))

    def holds(self, value: Any) -> bool:
        """Whether it may take a value."""
        if self.kind == "values":
            return any(same(value, each) for each in self.values)
        low, high = self.values
        return isinstance(value, int | float) and low <= value <= high

    def applies(self, settled: Mapping[str, Any], *, unsettled: bool = False) -> bool:
        """Whether the axis belongs to a configuration of which so much is settled.

        Args:
            settled: keys and their values.
            unsettled: what a condition counts on a key that is not among them.
        """
        return all(
            any(same(settled[key], value) for value in values) if key in settled else unsettled
            for key, values in self.when.items()
        )

    def words(self) -> str:
        """Its values and conditions, for a person."""
        found = ", ".join(map(text, self.values))
        if self.kind != "values":
            found = "{} {:g} to {:g}".format(self.kind.replace("_", "-"), *self.values)
        when = "; ".join(f"{key}: {', '.join(map(text, of))}" for key, of in self.when.items())
        return found + (f" (where {when})" if when else "")

    def _between(self, share: float) -> Any:
        low, high = self.values
        if self.kind == "log_uniform":
            found = math.exp(math.log(low) * (1 - share) + math.log(high) * share)
        else:
            found = low * (1 - share) + high * share
        return round(found) if self.kind == "integer" else self._short(found)

    def _short(self, value: float) -> float:
        low, high = self.values
        return float(min(max(float(f"{value:.{DIGITS}g}"), low), high))


@dataclass(frozen=True)
class Space:
    """A search space. What it gives depends on its axes and on seeds alone."""

    axes: tuple[Axis, ...]
    """In the order given. A key has several axes where they belong to different configurations."""

    @classmethod
    def parse(cls, tree: Mapping[str, Any]) -> Space:
        """Read a space as YAML has it: keys nested or dotted, each with its axis.

        Raises:
            InputError: an axis that is none; a condition on what is no axis, or never so; axes
                that wait for each other.
        """
        space = cls(tuple(_axis(key, found) for key, found in _flat(tree).items()))
        for axis in space.axes:
            for other, values in axis.when.items():
                there = [each for each in space.axes if each.key == other != axis.key]
                for value in values:
                    if not any(each.holds(value) for each in there):
                        accepted = "; ".join(each.words() for each in there)
                        accepted = accepted or f"another of {', '.join(space.keys)}"
                        raise InputError(
                            f"space.{axis.key}.when.{other}={text(value)}: never so; accepted: "
                            f"{accepted}"
                        )
        assert space._ordered is not None  # finds circles
        return space

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys that a configuration may hold, each once."""
        return tuple(dict.fromkeys(axis.key for axis in self.axes))

    def grid(self, most: int | None = None, seed: int = 0) -> list[Configuration]:
        """All combinations; of a range its points. The first axis changes slowest.

        Args:
            most: take only so many of them, drawn at random; None: all.
            seed: what the draw depends on.

        Raises:
            InputError: there are more than `LARGEST_GRID`.
        """
        found = self._combined(Axis.grid, LARGEST_GRID)
        if found is None:
            raise InputError(
                f"space: a grid of more than {LARGEST_GRID:,} configurations; accepted: fewer "
                "values, or search=random"
            )
        if most is None:
            return found
        drawn = sorted(map(canonical, found), key=lambda name: _share(seed, 0, name))
        kept = set(drawn[:most])
        return [each for each in found if canonical(each) in kept]

    def sample(self, count: int, seed: int) -> list[Configuration]:
        """Distinct random configurations; the first of them are those of a smaller count.

        Args:
            count: how many; where the space holds fewer, all of them.
            seed: what they depend on, beside the axes.
        """
        whole = self._combined(Axis.all, count) if all(axis.all() for axis in self.axes) else None
        if whole is not None:
            return sorted(whole, key=lambda one: _share(seed, 0, canonical(one)))
        found: dict[str, Configuration] = {}
        for draw in range(count * _DRAWS):
            drawn = self._settled(lambda axis, name: axis.at(_share(seed, draw, name)))  # noqa: B023
            found.setdefault(canonical(drawn), drawn)
            if len(found) == count:
                break
        return list(found.values())

    def suggest(self, trial: BaseTrial) -> Configuration:
        """A configuration as an Optuna trial suggests it (define by run)."""
        return self._settled(lambda axis, name: axis.suggest(trial, name))

    def evaluated(
        self, configuration: Mapping[str, Any]
    ) -> tuple[dict[str, Any], dict[str, BaseDistribution]]:
        """A configuration of this space, for `optuna.trial.create_trial`.

        Returns:
            Parameters and distributions by name, as if Optuna had suggested it.
        """
        from optuna.trial import FixedTrial

        parameters = {
            name: canonical(value) if axis.kind == "values" else value
            for name, axis in self._ordered
            if axis.applies(configuration)
            for value in [configuration[axis.key]]
        }
        trial = FixedTrial(parameters)
        self.suggest(trial)
        return trial.params, trial.distributions

    def with_ranges(
        self, key: str, by: str, ends: Sequence[tuple[Any, tuple[float, float] | None]]
    ) -> Space:
        """The space with log-uniform ranges for a key, one a value of another axis.

        Args:
            key: whose axes are replaced; added where it has none.
            by: the other axis's key. Where the space has no such axis, `ends` has one entry,
                which then holds always.
            ends: value of `by` -> lowest and highest; None: the axes of `key` stay for that value.
        """
        olds = [axis for axis in self.axes if axis.key == key]
        points = max((axis.points for axis in olds), default=POINTS)
        news: list[Axis] = []
        for value, found in ends:
            when = {by: (value,)} if by in self.keys else {}
            if found is not None:
                news.append(Axis(key, "log_uniform", found, points, when))
                continue
            stay = [old for old in olds if old.applies({by: value}, unsettled=True)]
            news += [replace(old, when={**old.when, **when}) for old in stay]
        place = self.axes.index(olds[0]) if olds else len(self.axes)
        kept = [axis for axis in self.axes if axis.key != key]
        return replace(self, axes=(*kept[:place], *news, *kept[place:]))

    @cached_property
    def _ordered(self) -> list[tuple[str, Axis]]:
        """Axes, each after those that it waits for, under names of their own.

        The name is the key, with a number where the key has several axes.
        """
        waiting = TopologicalSorter[str]()
        for key in self.keys:
            waiting.add(key)
        for axis in self.axes:
            waiting.add(axis.key, *axis.when)
        try:
            keys = list(waiting.static_order())
        except CycleError as error:
            circle = ", ".join(dict.fromkeys(error.args[1]))
            raise InputError(
                f"space: {circle} wait for each other (when); accepted: no circle"
            ) from None
        found = []
        for key in keys:
            alike = [axis for axis in self.axes if axis.key == key]
            found += [(f"{key}#{n}" if n > 1 else key, axis) for n, axis in enumerate(alike, 1)]
        return found

    def _settled(self, value: Callable[[Axis, str], Any]) -> Configuration:
        """Settle one axis after the other; `value` is asked with each that applies, by its name."""
        settled: Configuration = {}
        for name, axis in self._ordered:
            if axis.applies(settled):
                settled[axis.key] = value(axis, name)
        return self._in_order(settled)

    def _combined(
        self, values: Callable[[Axis], Iterable[Any]], most: int
    ) -> list[Configuration] | None:
        """All combinations of the axes' values; None where there are more than `most`."""
        found: list[Configuration] = [{}]
        for _, axis in self._ordered:
            found = list(itertools.islice(_grown(found, axis, values), most + 1))
            if len(found) > most:
                return None
        return [self._in_order(one) for one in found]

    def _in_order(self, settled: Configuration) -> Configuration:
        return {key: settled[key] for key in self.keys if key in settled}


def canonical(value: Any) -> str:
    """JSON in which equal values are equal texts, `1.0` and `1` too."""
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), default=str)


def same(one: Any, other: Any) -> bool:
    """Whether two values of an axis are one; true is not 1."""
    return canonical(one) == canonical(other)


def text(value: Any) -> str:
    """A value as it would be typed."""
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:g}"
    return json.dumps(value, ensure_ascii=False, default=str)


def _grown(
    found: Iterable[Configuration], axis: Axis, values: Callable[[Axis], Iterable[Any]]
) -> Iterator[Configuration]:
    for one in found:
        if axis.applies(one):
            yield from ({**one, axis.key: value} for value in values(axis))
        else:
            yield one


def _flat(tree: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Axes by dotted key; a key written nested and dotted counts once, as it comes last."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping) and not any(word in value for word in WORDS):
            found |= _flat(value, f"{above}{name}.")
        else:
            found[f"{above}{name}"] = value
    return found


def _axis(key: str, found: Any) -> Axis:
    def refuse(where: str, value: Any, accepted: str) -> InputError:
        return InputError(f"space.{key}{where}={text(value)}: accepted: {accepted}")

    given = found if isinstance(found, Mapping) else {"values": found}
    kinds = [word for word in KINDS if word in given]
    if len(kinds) != 1 or not set(given) <= set(WORDS):
        raise refuse("", found, AXIS)
    (kind,) = kinds
    values, points, when = given[kind], given.get("points", POINTS), given.get("when", {})
    if not isinstance(values, list | tuple) or not values:
        raise refuse("", found, f"{AXIS} (one fixed value belongs in base)")
    if kind == "values":
        if len(set(map(canonical, values))) < len(values):
            raise refuse("", values, "each value once")
    else:
        number = int if kind == "integer" else int | float
        numbers = all(isinstance(e, number) and not isinstance(e, bool) for e in values)
        if len(values) != 2 or not numbers or not -math.inf < values[0] < values[1] < math.inf:
            whole = "whole numbers" if kind == "integer" else "numbers"
            raise refuse(f".{kind}", values, f"two {whole} [low, high], low below high")
        if kind == "log_uniform" and values[0] <= 0:
            raise refuse(f".{kind}", values, "low above 0")
    if not isinstance(points, int) or points < 1:
        raise refuse(".points", points, "a whole number, 1 or more")
    if not isinstance(when, Mapping) or [] in when.values():
        raise refuse(".when", when, "{key: [values]}")
    conditions = {
        str(other): tuple(of) if isinstance(of, list | tuple) else (of,)
        for other, of in when.items()
    }
    return Axis(key, kind, tuple(values), points, conditions)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return value


def _share(seed: int, draw: int, name: str) -> float:
    """A number in 0 to below 1, the same for the same three: no axis shifts another's."""
    digest = hashlib.sha256(f"{seed}\0{draw}\0{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
