"""Paths that a sweep reads by way of its trials: those in base and in space."""

from __future__ import annotations

from collections.abc import Iterator

from satray.config.paths import paths_at
from satray.config.train import TrainRecipe
from satray.config.tune import TuneRecipe
from satray.sweep.axes import Values
from satray.sweep.space import Space
from satray.sweep.trials import dotted


def inner_paths(recipe: TuneRecipe) -> Iterator[tuple[str, str]]:
    """Weight files, as (dotted key, path as given).

    Raises:
        InputError: the space is none.
    """
    for key, value in dotted(recipe.base).items():
        yield from ((f"base.{name}", path) for name, path in paths_at(TrainRecipe, key, value))
    for axis in Space.parse(recipe.space).axes:
        for value in axis.domain.values if isinstance(axis.domain, Values) else ():
            found = paths_at(TrainRecipe, axis.key, value)
            yield from ((f"space.{name}", path) for name, path in found)
