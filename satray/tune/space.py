"""The search space: axes over keys of `train`, and the configurations that they hold."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from satray.config.cli import is_section
from satray.config.train import TrainRecipe
from satray.config.tune import AXIS
from satray.errors import InputError
from satray.tune.axes import (
    DOMAINS,
    POINTS,
    Axis,
    Range,
    Suggests,
    canonical,
    read_axis,
    text,
)
from satray.tune.told import Told

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Configuration = dict[str, Any]
"""Dotted key of `train` -> value; the keys that apply, in the order of the axes."""

MOST = 100_000
"""Configurations of a grid, at most."""
_TRIES = 200
"""Draws a configuration before those that are left are listed and taken from there."""


@dataclass(frozen=True)
class Space:
    """A search space. Pure: what it gives depends on its axes and on seeds alone."""

    axes: tuple[Axis, ...]
    """In the order given. A key has several axes where they belong to different configurations."""

    @classmethod
    def parse(cls, tree: Mapping[str, Any]) -> Space:
        """Read a space as YAML has it: keys nested or dotted, each with its axis.

        Raises:
            InputError: an axis that is none; a condition on what is no axis, or never so; axes
                that wait for each other.
        """
        space = cls(tuple(read_axis(key, found) for key, found in _flat(tree).items()))
        for axis in space.axes:
            for other, values in axis.when:
                space._check_condition(axis, other, values)
        assert space._ordered is not None  # finds circles
        return space

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys that a configuration may hold, each once."""
        return tuple(dict.fromkeys(axis.key for axis in self.axes))

    @property
    def finite(self) -> bool:
        """Whether its configurations can be counted."""
        return all(axis.domain.finite for axis in self.axes)

    def grid(self, most: int | None = None, seed: int = 0) -> list[Configuration]:
        """All combinations; of a range its points. The first axis changes slowest.

        Args:
            most: take only so many of them, drawn at random; None: all.
            seed: what the draw depends on.

        Raises:
            InputError: there are more than `MOST`.
        """
        found = list(itertools.islice(self._combinations(), MOST + 1))
        if len(found) > MOST:
            raise InputError(
                f"space: a grid of more than {MOST:,} configurations; accepted: fewer values, or "
                "search=random"
            )
        if most is None or most >= len(found):
            return found
        names = [canonical(each) for each in found]
        kept = set(sorted(names, key=lambda name: _share(seed, 0, name))[:most])
        return [each for each, name in zip(found, names, strict=True) if name in kept]

    def sample(self, count: int, seed: int) -> list[Configuration]:
        """Distinct random configurations; the first of them are those of a smaller count.

        Args:
            count: how many; fewer come where the space holds fewer.
            seed: what they depend on, beside the axes.
        """
        found: dict[str, Configuration] = {}
        for draw in range(count * _TRIES):
            if len(found) == count:
                return list(found.values())
            drawn = self._draw(seed, draw)
            found.setdefault(canonical(drawn), drawn)
        if self.finite:
            whole = itertools.islice(self._combinations(whole=True), MOST)
            named = {canonical(each): each for each in whole}
            for one in sorted(named, key=lambda one: _share(seed, 0, one)):
                found.setdefault(one, named[one])
        return list(found.values())[:count]

    def suggest(self, trial: Suggests) -> Configuration:
        """A configuration as an Optuna trial suggests it (define by run)."""
        return self._build(lambda axis, name: axis.domain.suggest(trial, name))

    def evaluated(
        self, configuration: Mapping[str, Any]
    ) -> tuple[dict[str, Any], dict[str, BaseDistribution]]:
        """A configuration as Optuna would have suggested it: for `optuna.trial.create_trial`.

        Returns:
            Parameters and distributions by name.

        Raises:
            ValueError: the space does not hold the configuration.
        """
        if not self.holds(configuration):
            raise ValueError(f"no configuration of this space: {dict(configuration)}")
        told = Told(configuration, {name: axis.key for name, axis in self._named})
        self.suggest(told)
        return told.parameters, told.distributions

    def holds(self, configuration: Mapping[str, Any]) -> bool:
        """Whether a configuration is one of this space."""
        settled: Configuration = {}
        for _, axis in self._ordered:
            if axis.applies(settled):
                value = configuration.get(axis.key, _ABSENT)
                if value is _ABSENT or not axis.domain.holds(value):
                    return False
                settled[axis.key] = value
        return settled.keys() == configuration.keys()

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
        if not there and len(ends) != 1:
            raise ValueError(f"{len(ends)} ranges of {key}, and no axis {by}")
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
    def _named(self) -> tuple[tuple[str, Axis], ...]:
        """Axes with names of their own: the key, with a number where it has several."""
        seen: dict[str, int] = {}
        named = []
        for axis in self.axes:
            seen[axis.key] = number = seen.get(axis.key, 0) + 1
            named.append((axis.key if number == 1 else f"{axis.key}#{number}", axis))
        return tuple(named)

    @cached_property
    def _ordered(self) -> tuple[tuple[str, Axis], ...]:
        """Named axes, each after those that it waits for."""
        left, done = list(self._named), list[tuple[str, Axis]]()
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

    def _draw(self, seed: int, draw: int) -> Configuration:
        return self._build(lambda axis, name: axis.domain.at(_share(seed, draw, name)))

    def _combinations(self, whole: bool = False) -> Iterator[Configuration]:
        """By the axes' grids; `whole`: by all whole numbers of a range."""
        axes = [axis for _, axis in self._ordered]

        def go_on(settled: Configuration, place: int) -> Iterator[Configuration]:
            if place == len(axes):
                yield self._in_order(settled)
                return
            axis = axes[place]
            if not axis.applies(settled):
                yield from go_on(settled, place + 1)
                return
            domain = axis.domain
            if whole and isinstance(domain, Range):
                values: Any = range(int(domain.low), int(domain.high) + 1)
            else:
                values = domain.grid()
            for value in values:
                yield from go_on(settled | {axis.key: value}, place + 1)

        return go_on({}, 0)

    def _in_order(self, settled: Configuration) -> Configuration:
        return {key: settled[key] for key in self.keys if key in settled}


_ABSENT = object()


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
        elif is_section(TrainRecipe, key) is False:
            told = ", ".join(map(str, value)) or "an empty mapping"
            raise InputError(f"space.{key}: found {told}; accepted: {AXIS}")
        else:
            found |= _flat(value, f"{key}.")
    return found
