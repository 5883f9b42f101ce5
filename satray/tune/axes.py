"""One axis of a search space: the values that a key of `train` may take, and when."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from satray.config.tune import AXIS
from satray.errors import InputError

RANGES = ("uniform", "log_uniform", "integer")
DOMAINS = ("values", *RANGES)
WORDS = (*DOMAINS, "when", "points")
"""What an axis written as a mapping may hold; no key of `train` is called so (tested)."""

POINTS = 3
"""Points of a range in a grid, where it does not say."""
DIGITS = 4
"""Significant digits that a number drawn from a range keeps: enough to try, short to read."""


class Suggests(Protocol):
    """What is used of an `optuna.Trial`."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """A number between low and high."""

    def suggest_int(self, name: str, low: int, high: int) -> int:
        """A whole number from low to high."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of the choices."""


@dataclass(frozen=True)
class Values:
    """Some values."""

    values: tuple[Any, ...]
    """What YAML can hold: words, numbers, lists, mappings."""

    def grid(self) -> tuple[Any, ...]:
        """All of them."""
        return self.values

    def at(self, share: float) -> Any:
        """The value at a share, 0 to below 1, of the list."""
        return self.values[int(share * len(self.values))]

    def suggest(self, trial: Suggests, name: str) -> Any:
        """What Optuna suggests. It knows plain values only: the others go by their text."""
        by_choice = {choice(value): value for value in self.values}
        return by_choice[trial.suggest_categorical(name, list(by_choice))]

    def holds(self, value: Any) -> bool:
        """Whether it may take a value."""
        return any(same(value, each) for each in self.values)

    @property
    def finite(self) -> bool:
        """Whether the values can be counted."""
        return True

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

    def grid(self) -> tuple[Any, ...]:
        """Evenly spread points, ends included; of one point, the middle."""
        shares = [i / (self.points - 1) for i in range(self.points)] if self.points > 1 else [0.5]
        return tuple(dict.fromkeys(self._between(share) for share in shares))

    def at(self, share: float) -> Any:
        """The number at a share, 0 to below 1, of the range."""
        if self.kind == "integer":
            return int(self.low) + int(share * (self.high - self.low + 1))
        return self._between(share)

    def suggest(self, trial: Suggests, name: str) -> Any:
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

    @property
    def finite(self) -> bool:
        """Whether the values can be counted."""
        return self.kind == "integer"

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


Domain = Values | Range


@dataclass(frozen=True)
class Axis:
    """A key of `train` and what it may be."""

    key: str
    """Dotted key."""
    domain: Domain
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


def read_axis(key: str, found: Any) -> Axis:
    """Read an axis as YAML has it.

    Args:
        key: dotted key of `train`.
        found: a list, or a mapping of `WORDS`.

    Raises:
        InputError: it is something else.
    """
    if isinstance(found, list | tuple):
        return Axis(key, _values(key, found))
    if not isinstance(found, Mapping):
        raise InputError(
            f"space.{key}={text(found)}: accepted: {AXIS} (one fixed value belongs in base)"
        )
    unknown = [word for word in found if word not in WORDS]
    kinds = [word for word in found if word in DOMAINS]
    if unknown or len(kinds) != 1:
        told = ", ".join(map(str, unknown or kinds)) or "none of them"
        raise InputError(f"space.{key}: found {told}; accepted: {AXIS}")
    (kind,) = kinds
    when = _conditions(key, found.get("when", {}))
    if kind == "values":
        if "points" in found:
            raise InputError(f"space.{key}.points: works with a range; accepted: values alone")
        return Axis(key, _values(f"{key}.values", found["values"]), when)
    return Axis(key, _range(key, kind, found[kind], found.get("points", POINTS)), when)


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


def canonical(value: Any) -> str:
    """JSON in which equal values are equal texts, `1.0` and `1` too."""
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), default=str)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return value


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
