"""The search space: axes over keys of `train`, and the configurations that they hold. Pure."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from satray.config.base import type_at
from satray.config.cli import holds_keys
from satray.config.train import TrainRecipe
from satray.config.tune import AXIS
from satray.errors import InputError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import BaseTrial

Configuration = dict[str, Any]
"""Dotted key of `train` -> value; the keys that apply, in the order of the axes."""

RANGES = ("uniform", "log_uniform", "integer")
DOMAINS = ("values", *RANGES)
WORDS = (*DOMAINS, "when", "points")
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
class Values:
    """Some values."""

    values: tuple[Any, ...]
    """What YAML can hold: words, numbers, lists, mappings."""

    finite = True

    def grid(self) -> tuple[Any, ...]:
        """All of them."""
        return self.values

    whole = grid

    def at(self, share: float) -> Any:
        """The value at a share, 0 to below 1, of the list."""
        return self.values[int(share * len(self.values))]

    def suggest(self, trial: BaseTrial, name: str) -> Any:
        """What Optuna suggests. It knows plain values only: the others go by their text."""
        by_choice = {choice(value): value for value in self.values}
        return by_choice[trial.suggest_categorical(name, list(by_choice))]

    def holds(self, value: Any) -> bool:
        """Whether it may take a value."""
        return any(same(value, each) for each in self.values)

    def words(self) -> str:
        """For a person."""
        return ", ".join(text(value) for value in self.values)


@dataclass(frozen=True)
class Range:
    """Numbers between two, ends included."""

    kind: str
    """`uniform`, `log_uniform` or `integer`."""
    low: float
    """Smallest; an integer where the kind is."""
    high: float
    """Largest."""
    points: int = POINTS
    """How many a grid takes."""

    @property
    def finite(self) -> bool:
        """Whether the values can be counted."""
        return self.kind == "integer"

    def grid(self) -> tuple[Any, ...]:
        """Evenly spread points, ends included; of one point, the middle."""
        shares = [i / (self.points - 1) for i in range(self.points)] if self.points > 1 else [0.5]
        return tuple(dict.fromkeys(self._between(share) for share in shares))

    def whole(self) -> Sequence[int]:
        """All values of a range of integers."""
        return range(int(self.low), int(self.high) + 1)

    def at(self, share: float) -> Any:
        """The number at a share, 0 to below 1, of the range."""
        if self.kind == "integer":
            return int(self.low) + int(share * (self.high - self.low + 1))
        return self._between(share)

    def suggest(self, trial: BaseTrial, name: str) -> Any:
        """What Optuna suggests."""
        if self.kind == "integer":
            return trial.suggest_int(name, int(self.low), int(self.high))
        found = trial.suggest_float(name, self.low, self.high, log=self.kind == "log_uniform")
        return self._rounded(found)

    def holds(self, value: Any) -> bool:
        """Whether it may take a value."""
        number = isinstance(value, int | float) and not isinstance(value, bool)
        whole = self.kind != "integer" or (number and float(value).is_integer())
        return number and whole and self.low <= value <= self.high

    def words(self) -> str:
        """For a person."""
        return f"{self.kind.replace('_', '-')} {self.low:g} to {self.high:g}"

    def _between(self, share: float) -> Any:
        if self.kind == "log_uniform":
            found = math.exp(math.log(self.low) * (1 - share) + math.log(self.high) * share)
        else:
            found = self.low * (1 - share) + self.high * share
        return round(found) if self.kind == "integer" else self._rounded(found)

    def _rounded(self, value: float) -> float:
        return min(max(float(f"{value:.{DIGITS}g}"), self.low), self.high)


@dataclass(frozen=True)
class Axis:
    """A key of `train` and what it may be."""

    key: str
    """Dotted key."""
    domain: Values | Range
    """Its values."""
    when: tuple[tuple[str, tuple[Any, ...]], ...] = ()
    """Other axes' keys, each with the values at which this axis belongs to a configuration."""

    def applies(self, configuration: Mapping[str, Any]) -> bool:
        """Whether the axis belongs to a configuration, as far as it is settled."""
        return all(
            key in configuration and any(same(configuration[key], value) for value in values)
            for key, values in self.when
        )

    def may_apply(self, settled: Mapping[str, Any]) -> bool:
        """Whether the axis belongs to some configuration of which so much is settled."""
        return all(
            key not in settled or any(same(settled[key], value) for value in values)
            for key, values in self.when
        )

    def when_but(self, other: str) -> tuple[tuple[str, tuple[Any, ...]], ...]:
        """Its conditions, without one on `other`."""
        return tuple(pair for pair in self.when if pair[0] != other)

    def words(self) -> str:
        """Its values and conditions, for a person."""
        when = "; ".join(f"{key}: {', '.join(map(text, values))}" for key, values in self.when)
        return self.domain.words() + (f" (where {when})" if when else "")


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
            for other, values in axis.when:
                space._check_condition(axis, other, values)
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
        combinations = self._combinations(lambda axis: axis.domain.grid())
        found = list(itertools.islice(combinations, LARGEST_GRID + 1))
        if len(found) > LARGEST_GRID:
            raise InputError(
                f"space: a grid of more than {LARGEST_GRID:,} configurations; accepted: fewer "
                "values, or search=random"
            )
        if most is None or most >= len(found):
            return found
        names = [canonical(each) for each in found]
        kept = set(sorted(names, key=lambda name: _share(seed, 0, name))[:most])
        return [each for each, name in zip(found, names, strict=True) if name in kept]

    def sample(self, count: int, seed: int) -> list[Configuration]:
        """Distinct random configurations; the first of them are those of a smaller count.

        Args:
            count: how many; where the space holds fewer, all of them.
            seed: what they depend on, beside the axes.
        """
        if all(axis.domain.finite for axis in self.axes):
            combinations = self._combinations(lambda axis: axis.domain.whole())
            whole = list(itertools.islice(combinations, count + 1))
            if len(whole) <= count:
                return sorted(whole, key=lambda one: _share(seed, 0, canonical(one)))
        found: dict[str, Configuration] = {}
        for draw in range(count * _DRAWS):
            drawn = self._build(lambda axis, name: axis.domain.at(_share(seed, draw, name)))  # noqa: B023
            found.setdefault(canonical(drawn), drawn)
            if len(found) == count:
                break
        return list(found.values())

    def suggest(self, trial: BaseTrial) -> Configuration:
        """A configuration as an Optuna trial suggests it (define by run)."""
        return self._build(lambda axis, name: axis.domain.suggest(trial, name))

    def evaluated(
        self, configuration: Mapping[str, Any]
    ) -> tuple[dict[str, Any], dict[str, BaseDistribution]]:
        """A configuration of this space, for `optuna.trial.create_trial`.

        Returns:
            Parameters and distributions by name, as if Optuna had suggested it.
        """
        from optuna.trial import FixedTrial

        named = [(name, axis) for name, axis in self._ordered if axis.applies(configuration)]
        trial = FixedTrial({name: choice(configuration[axis.key]) for name, axis in named})
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
        points = olds[0].domain.points if olds and isinstance(olds[0].domain, Range) else POINTS
        when = olds[0].when if len(olds) == 1 else ()
        there = by in self.keys
        news: list[Axis] = []
        for value, found in ends:
            also = ((by, (value,)),) if there else ()
            if found is None:
                stay = [old for old in olds if not there or old.may_apply({by: value})]
                news += [replace(old, when=(*old.when_but(by), *also)) for old in stay]
            else:
                news.append(Axis(key, Range("log_uniform", *found, points), (*when, *also)))
        place = self.axes.index(olds[0]) if olds else len(self.axes)
        kept = [axis for axis in self.axes if axis.key != key]
        return replace(self, axes=(*kept[:place], *news, *kept[place:]))

    def _check_condition(self, axis: Axis, other: str, values: tuple[Any, ...]) -> None:
        name = f"space.{axis.key}.when.{other}"
        if other == axis.key or other not in self.keys:
            there = ", ".join(key for key in self.keys if key != axis.key) or "none, there is one"
            raise InputError(f"{name}: no other axis of the space; accepted: {there}")
        domains = [each.domain for each in self.axes if each.key == other]
        for value in values:
            if not any(domain.holds(value) for domain in domains):
                accepted = "; ".join(domain.words() for domain in domains)
                raise InputError(f"{name}={text(value)}: never so; accepted: {accepted}")

    @cached_property
    def _ordered(self) -> tuple[tuple[str, Axis], ...]:
        """Axes, each after those that it waits for, under names of their own.

        The name is the key, with a number where the key has several axes.
        """
        seen: dict[str, int] = {}
        left: list[tuple[str, Axis]] = []
        for axis in self.axes:
            seen[axis.key] = number = seen.get(axis.key, 0) + 1
            left.append((axis.key if number == 1 else f"{axis.key}#{number}", axis))
        done: list[tuple[str, Axis]] = []
        while left:
            waiting = {axis.key for _, axis in left}
            ready = [entry for entry in left if not any(key in waiting for key, _ in entry[1].when)]
            if not ready:
                circle = ", ".join(dict.fromkeys(axis.key for _, axis in left))
                raise InputError(f"space: {circle} wait for each other (when); accepted: no circle")
            done += ready
            left = [entry for entry in left if entry not in ready]
        return tuple(done)

    def _build(self, value: Callable[[Axis, str], Any]) -> Configuration:
        """Settle one axis after the other; `value` is asked with each that applies, by its name."""
        settled: Configuration = {}
        for name, axis in self._ordered:
            if axis.applies(settled):
                settled[axis.key] = value(axis, name)
        return self._in_order(settled)

    def _combinations(self, values: Callable[[Axis], Sequence[Any]]) -> Iterator[Configuration]:
        axes = [axis for _, axis in self._ordered]

        def go_on(settled: Configuration, place: int) -> Iterator[Configuration]:
            if place == len(axes):
                yield self._in_order(settled)
            elif not axes[place].applies(settled):
                yield from go_on(settled, place + 1)
            else:
                for value in values(axes[place]):
                    yield from go_on(settled | {axes[place].key: value}, place + 1)

        return go_on({}, 0)

    def _in_order(self, settled: Configuration) -> Configuration:
        return {key: settled[key] for key in self.keys if key in settled}


def canonical(value: Any) -> str:
    """JSON in which equal values are equal texts, `1.0` and `1` too."""
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), default=str)


def same(one: Any, other: Any) -> bool:
    """Whether two values of an axis are one; true is not 1."""
    return canonical(one) == canonical(other)


def choice(value: Any) -> Any:
    """What stands for a value where only plain ones are known: all else by its JSON.

    True and false too: Python takes them for 1 and 0.
    """
    plain = value is None or isinstance(value, int | float | str)
    return value if plain and not isinstance(value, bool) else text(value)


def text(value: Any) -> str:
    """A value as it would be typed."""
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:g}"
    return json.dumps(value, ensure_ascii=False, default=str)


def _axis(key: str, found: Any) -> Axis:
    if isinstance(found, list | tuple):
        return Axis(key, _values(key, found))
    if not isinstance(found, Mapping):
        raise InputError(
            f"space.{key}={text(found)}: accepted: {AXIS} (one fixed value belongs in base)"
        )
    unknown = [word for word in found if word not in WORDS]
    kinds = [word for word in found if word in DOMAINS]
    if unknown or len(kinds) != 1:
        named = ", ".join(map(str, unknown or kinds)) or "none of them"
        raise InputError(f"space.{key}: found {named}; accepted: {AXIS}")
    (kind,) = kinds
    when = _conditions(key, found.get("when", {}))
    if kind != "values":
        return Axis(key, _range(key, kind, found[kind], found.get("points", POINTS)), when)
    if "points" in found:
        raise InputError(f"space.{key}.points: works with a range; accepted: values alone")
    return Axis(key, _values(f"{key}.values", found["values"]), when)


def _values(key: str, found: Any) -> Values:
    if not isinstance(found, list | tuple) or not found:
        raise InputError(f"space.{key}={text(found)}: accepted: a list of one value or more")
    texts = [canonical(value) for value in found]
    twice = next((i for i, one in enumerate(texts) if one in texts[:i]), None)
    if twice is not None:
        raise InputError(f"space.{key}: {text(found[twice])} is there twice; accepted: each once")
    return Values(tuple(found))


def _range(key: str, kind: str, ends: Any, points: Any) -> Range:
    name = f"space.{key}.{kind}"
    numbers = isinstance(ends, list | tuple) and len(ends) == 2
    if not numbers or any(isinstance(e, bool) or not isinstance(e, int | float) for e in ends):
        raise InputError(f"{name}={text(ends)}: accepted: two numbers [low, high]")
    low, high = ends
    if kind == "integer" and not all(isinstance(end, int) for end in ends):
        raise InputError(f"{name}={text(ends)}: accepted: two whole numbers [low, high]")
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise InputError(f"{name}={text(ends)}: accepted: low below high, both finite")
    if kind == "log_uniform" and low <= 0:
        raise InputError(f"{name}={text(ends)}: accepted: low above 0")
    if isinstance(points, bool) or not isinstance(points, int) or points < 1:
        raise InputError(f"space.{key}.points={text(points)}: accepted: a whole number, 1 or more")
    return Range(kind, low, high, points)


def _conditions(key: str, found: Any) -> tuple[tuple[str, tuple[Any, ...]], ...]:
    if not isinstance(found, Mapping):
        raise InputError(f"space.{key}.when={text(found)}: accepted: {{key: [values]}}")
    conditions = []
    for other, values in found.items():
        listed = tuple(values) if isinstance(values, list | tuple) else (values,)
        if not listed:
            raise InputError(f"space.{key}.when.{other}={text(values)}: accepted: a list of values")
        conditions.append((str(other), listed))
    return tuple(conditions)


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


def _flat(tree: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Axes by dotted key; a key written nested and dotted counts once, as it comes last."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        key = f"{above}{name}"
        is_axis = not isinstance(value, Mapping) or any(word in value for word in DOMAINS)
        if is_axis:
            found[key] = value
        elif (kind := type_at(TrainRecipe, key)) is not None and not holds_keys(kind):
            named = ", ".join(map(str, value)) or "an empty mapping"
            raise InputError(f"space.{key}: found {named}; accepted: {AXIS}")
        else:
            found |= _flat(value, f"{key}.")
    return found
