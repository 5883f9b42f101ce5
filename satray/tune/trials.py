"""One trial: a configuration on top of what all share, as a recipe of `train`; its id and label."""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Mapping
from typing import Any

from satray.config.cli import apply_overrides, fill_lists, is_section, validate
from satray.config.train import FINE_TUNING, TrainRecipe
from satray.config.tune import TuneRecipe
from satray.errors import InputError
from satray.models.pretrained import sources_of
from satray.models.variant import resolve
from satray.storage import absolute
from satray.tune.feature_table import head_only
from satray.tune.space import canonical, text

TRAINABLE = re.compile(r"stages\.\d+\.trainable")
"""Keys that say what is trained."""
DIGITS = 12
"""Of a trial's id: of a million trials no two are likely to share one."""
PLAIN = ("variant", "learning_rate", "name", "trainable")
"""Keys whose values say by themselves what they are; of others a label names the last part."""
WORDS = {"step": "every"}
"""What a label calls a key, where its own name would be read as something else (a schedule)."""


def trial_recipe(recipe: TuneRecipe, configuration: Mapping[str, Any], out: str) -> TrainRecipe:
    """The training that a trial is: nothing of it is tracked, resources are the sweep's.

    Args:
        recipe: the sweep.
        configuration: the trial's.
        out: the trial's own folder.

    Raises:
        InputError: the configuration cannot be valid; the line names it.
    """
    return as_trial(recipe, full_recipe(recipe, configuration), out)


def as_trial(recipe: TuneRecipe, whole: TrainRecipe, out: str) -> TrainRecipe:
    """A training (`full_recipe`) as a trial of a sweep, below a folder of its own."""
    own = {"out": out, "tracking": "none", "resources": recipe.resources}
    return whole.model_copy(update=own)


def full_recipe(recipe: TuneRecipe, configuration: Mapping[str, Any]) -> TrainRecipe:
    """The same as a person would give it to `train`, without a folder.

    Raises:
        InputError: the configuration cannot be valid; the line names it.
    """
    try:
        return compose(recipe, configuration)
    except InputError as error:
        told = ", ".join(f"{key}={text(value)}" for key, value in configuration.items())
        raise InputError(f"configuration {told or 'base'}: {error}") from None


def compose(recipe: TuneRecipe, configuration: Mapping[str, Any]) -> TrainRecipe:
    """A configuration over base over what a sweep lays under both.

    Raises:
        InputError: what `train` would say.
    """
    tree: dict[str, Any] = {"seed": recipe.seed}
    for layer in (dotted(recipe.base), configuration):
        # What is given whole (stages) comes before what is changed in it.
        keys = sorted(layer, key=lambda key: key.count("."))
        if any(key.startswith("stages.") for key in keys):
            tree.setdefault("stages", [{}])  # the default, with nothing said of it yet
        fill_lists(TrainRecipe, tree, dict.fromkeys(keys))
        apply_overrides(tree, {key: copy.deepcopy(layer[key]) for key in keys})
    tree.setdefault("stages", [{}])  # one of its own, not the usual ones
    if not any(TRAINABLE.fullmatch(key) for key in dotted(recipe.space)):
        _train_heads(tree)
    if recipe.metric != "auto":
        tree["best"] = recipe.metric
    tree |= {"index": recipe.index, "storage": recipe.storage.model_dump()}
    found = validate(TrainRecipe, tree, absolute)
    views = recipe.features.views
    if views is None or found.augment.views is not None or head_only(found) is not None:
        return found
    return found.model_copy(update={"augment": found.augment.model_copy(update={"views": views})})


def fine_tuning(recipe: TrainRecipe) -> TrainRecipe:
    """The second step after a head: its own stages, then those in which `train` tunes all of it.

    A recipe that trains more than the head, or whose towers start from nothing, is its own.
    """
    variant = resolve(recipe.variant, recipe.pooling)
    taught = set(sources_of(recipe.weights, variant).values()) != {"none"}
    if head_only(recipe) is not None or not taught:
        return recipe
    then = tuple(stage for stage in FINE_TUNING if stage.trainable != "head")
    augment = recipe.augment.model_copy(update={"views": None})
    return recipe.model_copy(update={"stages": (*recipe.stages, *then), "augment": augment})


def _train_heads(tree: dict[str, Any]) -> None:
    """Let every stage train the head alone, where none of them says what it trains."""
    stages = tree["stages"]
    parts = stages if isinstance(stages, list) else []
    parts = [stage for stage in parts if isinstance(stage, dict)]
    if not any("trainable" in stage for stage in parts):
        for stage in parts:
            stage["trainable"] = "head"


def dotted(tree: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Keys of train by dotted name, from a mapping that has them nested, dotted or both.

    Of a key that is there twice the last counts.
    """
    found: dict[str, Any] = {}
    for name, value in tree.items():
        key = f"{above}{name}"
        if isinstance(value, Mapping) and is_section(TrainRecipe, key):
            found |= dotted(value, f"{key}.")
        else:
            found[key] = value
    return found


def trial_id(configuration: Mapping[str, Any]) -> str:
    """Hexadecimal digits: the same configuration is the same trial, in whatever order."""
    return hashlib.sha256(canonical(configuration).encode()).hexdigest()[:DIGITS]


def label(configuration: Mapping[str, Any]) -> str:
    """A configuration in a few words: `single3 1.0e-3 one_cycle`."""
    stages = {key.split(".")[1] for key in configuration if re.match(r"stages\.\d", key)}
    parts = []
    for key, value in configuration.items():
        *above, last = key.split(".")
        if len(stages) > 1 and above[:1] == ["stages"]:
            parts.append(f"[{above[1]}]")
        shown = short_value(key, value)
        parts.append(shown if last in PLAIN else f"{WORDS.get(last, last)} {shown}")
    return " ".join(parts) or "base"


def short_value(key: str, value: Any) -> str:
    """One value in few letters: rates as 1.0e-3, a variant of one's own by its towers."""
    if isinstance(value, float) and (key.endswith("learning_rate") or 0 < abs(value) < 0.01):
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa}e{int(exponent)}"
    if isinstance(value, float):
        return f"{value:.3g}"
    if key == "variant" and isinstance(value, Mapping):
        towers = value.get("towers", ())
        return "+".join(str(tower.get("backbone", "?")) for tower in towers)
    return text(value)
