"""From a recipe of `tune` to its space and its trials, with all that can be refused beforehand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from satray.config.train import TrainRecipe
from satray.config.tune import TuneRecipe
from satray.errors import InputError
from satray.models.variant import resolve
from satray.tune.defaults import default_space
from satray.tune.space import Axis, Configuration, Range, Space, text
from satray.tune.trials import compose, dotted, full_recipe

OWN = ("index", "out", "overwrite", "storage", "resources")
"""Keys of train that `tune` has too: given there, for all trials."""
SAMPLED = 32
"""Trials of a search that is no grid, where the recipe does not say."""


def space_of(recipe: TuneRecipe, bands: Sequence[str], train_tiles: int) -> Space:
    """The space of a sweep; every value of it that can be wrong by itself is seen to be right.

    Args:
        recipe: the sweep.
        bands: those that the index has.
        train_tiles: tiles in its train split.

    Raises:
        InputError: base or space names no key of train, one that is not theirs, a value that train
            refuses, or an axis that is none.
    """
    _check_keys(recipe)
    if recipe.space:
        space = Space.parse(recipe.space)
        _check_base(recipe, space.axes)
    else:
        _check_base(recipe, ())
        space = Space.parse(default_space(recipe, bands, train_tiles))
    for axis in space.axes:
        for value in _extremes(axis):
            _check_value(recipe, space, axis, value)
    return space


def configurations(recipe: TuneRecipe, space: Space) -> list[Configuration]:
    """The trials of a grid or of a random search, in order; each is valid for train.

    Raises:
        InputError: one that is not, or more trials than a grid may have.
    """
    found = drawn(recipe, space)
    for configuration in found:
        full_recipe(recipe, configuration)
    return found


def drawn(recipe: TuneRecipe, space: Space) -> list[Configuration]:
    """The same, not looked at; raises InputError where a grid has too many."""
    if recipe.search == "grid":
        return space.grid(recipe.trials, recipe.seed)
    return space.sample(recipe.trials or SAMPLED, recipe.seed)


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


def count(recipe: TuneRecipe, space: Space) -> int:
    """How many trials a sweep has, at most; raises InputError where a grid has too many."""
    if recipe.search == "optuna":
        return recipe.trials or SAMPLED
    return len(drawn(recipe, space))


def _check_keys(recipe: TuneRecipe) -> None:
    for where, tree in (("base", recipe.base), ("space", recipe.space)):
        for name in tree:
            first = str(name).split(".")[0]
            if first in OWN:
                raise InputError(
                    f"{where}.{name}: not a trial's; accepted: {first} of tune itself, for all "
                    "trials"
                )
    for name in recipe.space:
        first = str(name).split(".")[0]
        if first == "best":
            raise InputError("space.best: trials are compared by one metric; accepted: metric=...")
        field = TrainRecipe.model_fields.get(first)
        extra = field.json_schema_extra if field is not None else None
        if isinstance(extra, dict) and not extra.get("identity", True):
            raise InputError(f"space.{name}: changes nothing that train makes; accepted in base")
    best = dotted(recipe.base).get("best", "auto")
    if "auto" not in (best, recipe.metric) and best != recipe.metric:
        raise InputError(
            f"metric={recipe.metric}: base.best={best} is another; accepted: one of the two"
        )


def _check_base(recipe: TuneRecipe, axes: Sequence[Axis]) -> None:
    error = _complaint(recipe, {})
    if error is not None and not _mends(error, axes):
        raise InputError(f"base.{error}")


def _check_value(recipe: TuneRecipe, space: Space, axis: Axis, value: Any) -> None:
    """Refuse a value of one axis that train does not take whatever the others are."""
    settled = {axis.key: value}
    for key, values in axis.when:
        settled.setdefault(key, values[0])
    error = _complaint(recipe, settled)
    others = [each for each in space.axes if each.key != axis.key]
    if error is None or (_is_about(error, axis.key) is False and _mends(error, others)):
        return
    shown = "" if _is_about(error, axis.key) else f"{axis.key}={text(value)}: "
    raise InputError(f"space.{shown}{error}")


def _extremes(axis: Axis) -> Iterator[Any]:
    if isinstance(axis.domain, Range):
        whole = axis.domain.kind == "integer"
        yield from (int(e) if whole else e for e in (axis.domain.low, axis.domain.high))
    else:
        yield from axis.domain.grid()


def _complaint(recipe: TuneRecipe, configuration: Configuration) -> str | None:
    try:
        found = compose(recipe, configuration)
        resolve(found.variant, found.pooling)
    except InputError as error:
        return str(error)
    return None


def _is_about(error: str, key: str) -> bool:
    return error.startswith(key) and error[len(key) :][:1] in ("=", ":", ".", "")


def _mends(error: str, axes: Sequence[Axis]) -> bool:
    """Whether another value of an axis may undo a complaint: it stands in the section named."""
    if "unknown key" in error:
        return False
    named = error.split(":")[0].split("=")[0]
    return any(
        f"{axis.key}.".startswith(f"{named}.") or _is_about(named, axis.key) for axis in axes
    )
