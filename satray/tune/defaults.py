"""The space that is searched where a recipe names none, and what a space says about a sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from satray.config.tune import TuneRecipe
from satray.errors import InputError
from satray.models.pretrained import UNPUBLISHED, is_word
from satray.models.variant import BUILT_IN, input_bands
from satray.tune.space import Space, Values
from satray.tune.trials import compose, dotted

SCHEDULES = ("constant", "step", "triangular", "triangular2", "one_cycle", "cosine_restarts")
CYCLES = ("triangular", "triangular2", "cosine_restarts")
RATES = (1e-4, 1e-1)
"""Learning rates, lowest and highest; wide, since a head learns at rates that burst a backbone."""
RATE = "stages.0.learning_rate"


def default_space(recipe: TuneRecipe, bands: Sequence[str], train_tiles: int) -> dict[str, Any]:
    """Variants x learning rate x schedule, as YAML would have it; what base fixes is left out.

    The variants are the built-in ones with CAMs whose bands are there, and that somebody has
    published weights of unless base asks for none. Where a schedule cycles, a cycle is a quarter
    or half of the stage; `step` drops twice.

    Args:
        recipe: the sweep.
        bands: those that the index has.
        train_tiles: tiles in its train split.

    Raises:
        InputError: no variant fits the bands, or base fixes everything, or base is not valid.
    """
    base, trained = dotted(recipe.base), compose(recipe, {})
    stage = trained.stages[0]
    length = stage.pseudo_epochs
    if stage.samples is not None:
        length = stage.samples / (trained.pseudo_epoch or train_tiles)
    name = "stages.0.schedule.name"
    wanted: dict[str, Any] = {
        "variant": _variants(bands, trained.weights),
        RATE: {"log_uniform": list(RATES)},
        name: list(SCHEDULES),
        "stages.0.schedule.step": {"values": [_short(length / 3)], "when": {name: ["step"]}},
        "stages.0.schedule.cycle": {
            "values": [_short(length / 4), _short(length / 2)],
            "when": {name: list(CYCLES)},
        },
    }
    left = {key: axis for key, axis in wanted.items() if not _fixes(base, key)}
    if name not in left:  # what remains of it belongs to schedules that are not searched
        left = {key: axis for key, axis in left.items() if ".schedule." not in key}
    if not left:
        raise InputError("space: base fixes all that is searched by default; accepted: a space")
    if left.get("variant") == []:
        raise InputError(
            f"space: no built-in variant fits the bands {', '.join(bands)}; accepted: "
            "base.variant={towers, pooling}, or space.variant"
        )
    return left


def variants_of(space: Space, recipe: TuneRecipe) -> list[Any]:
    """The variants that a sweep tries: those of its axis, else the one of base."""
    domains = [axis.domain for axis in space.axes if axis.key == "variant"]
    found = [value for each in domains if isinstance(each, Values) for value in each.values]
    return found or [compose(recipe, {}).variant]


def _variants(bands: Sequence[str], weights: str | dict[str, str]) -> list[str]:
    return [
        name
        for name, variant in BUILT_IN.items()
        if variant.head == "linear"
        and set(input_bands(variant)) <= set(bands)
        and not (_by_word(weights) and {t.backbone for t in variant.towers} & set(UNPUBLISHED))
    ]


def _by_word(weights: str | dict[str, str]) -> bool:
    given = weights.values() if isinstance(weights, dict) else (weights,)
    return any(is_word(each) for each in given)


def _fixes(base: Mapping[str, Any], key: str) -> bool:
    """Whether base says something for a key, by itself or in what is given whole."""
    if key in base:
        return True
    first, *rest = key.split(".")
    found: Any = base.get(first)
    for part in rest:
        if isinstance(found, list) and part.isdigit() and int(part) < len(found):
            found = found[int(part)]
        elif isinstance(found, Mapping):
            found = found.get(part)
        else:
            return False
    return found is not None


def _short(length: float) -> float:
    return float(f"{length:.3g}")
