"""Keys that a recipe sets and that do nothing there, since another key rules them out. No torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from satray.config.base import Section
from satray.config.train import StageOptions, TrainRecipe, VariantOptions
from satray.models.pretrained import sources_of
from satray.train.plan.cycles import SMITH
from satray.train.plan.imbalance import loss_name


@dataclass(frozen=True)
class Case:
    """A recipe, and what it comes to."""

    recipe: TrainRecipe
    """As given."""
    variant: VariantOptions
    """The variant that it means."""
    task: str
    """`binary`, `multilabel` or `multiclass`."""


def _loss(*names: str) -> Callable[[Case], bool]:
    return lambda case: loss_name(case.recipe.loss, case.task) in names


def _schedule(*names: str) -> Callable[[StageOptions], bool]:
    return lambda stage: stage.schedule.name in names


def _resized(case: Case) -> bool:
    return case.recipe.augment.crop == "resized"


def _has_weights(case: Case) -> bool:
    return set(sources_of(case.recipe.weights, case.variant).values()) != {"none"}


def _linear(case: Case) -> bool:
    return case.variant.head == "linear"


def _snapshots(case: Case) -> bool:
    return case.recipe.average.snapshots != "none"


def _cached(case: Case) -> bool:
    return case.recipe.cache.enabled


RULES: tuple[tuple[str, str, Callable[[Case], bool]], ...] = (
    ("variant.pooling", "a linear head", _linear),
    ("pooling", "a linear head", _linear),
    ("first_conv", "weights other than none", _has_weights),
    (
        "input.resize",
        "augment.crop=random or centre, or input.evaluate=centre",
        lambda case: not _resized(case) or case.recipe.input.evaluate == "centre",
    ),
    ("augment.scale", "augment.crop=resized", _resized),
    ("augment.ratio", "augment.crop=resized", _resized),
    ("loss.gamma", "loss.name=focal", _loss("focal")),
    ("loss.gamma_negative", "loss.name=asymmetric", _loss("asymmetric")),
    ("loss.gamma_positive", "loss.name=asymmetric", _loss("asymmetric")),
    ("loss.margin", "loss.name=asymmetric", _loss("asymmetric")),
    ("optimizer.momentum", "optimizer.name=sgd", lambda case: case.recipe.optimizer.name == "sgd"),
    ("average.start", "average.snapshots=swa or ensemble", _snapshots),
    ("average.most", "average.snapshots=swa or ensemble", _snapshots),
    (
        "calibrate.thresholds",
        "binary and multilabel tasks",
        lambda case: case.task != "multiclass",
    ),
    (
        "calibrate.positives",
        "binary and multilabel tasks and calibrate.thresholds=f1 or f2",
        lambda case: case.task != "multiclass" and case.recipe.calibrate.thresholds != "half",
    ),
    (
        "landscape",
        "stages.N.learning_rate=auto",
        lambda case: any(stage.learning_rate == "auto" for stage in case.recipe.stages),
    ),
    ("sync_batchnorm", "two workers or more", lambda case: case.recipe.resources.workers > 1),
    ("cache.folder", "cache.enabled=true", _cached),
    ("cache.gib", "cache.enabled=true", _cached),
)
"""A key (or a section), what it works with, and whether it does. Keys of no row always work."""

STAGE_RULES: tuple[tuple[str, str, Callable[[StageOptions], bool]], ...] = (
    ("pseudo_epochs", "no samples given", lambda stage: stage.samples is None),
    ("layer_decay", "more than the head to train", lambda stage: stage.trainable != "head"),
    ("schedule.warmup_start", "schedule.warmup", lambda stage: stage.schedule.warmup > 0),
    ("schedule.step", "schedule.name=step", _schedule("step")),
    ("schedule.gamma", "schedule.name=step or exp_range", _schedule("step", "exp_range")),
    ("schedule.pct_start", "schedule.name=one_cycle", _schedule("one_cycle")),
    ("schedule.div", "schedule.name=one_cycle", _schedule("one_cycle")),
    ("schedule.final_div", "schedule.name=one_cycle", _schedule("one_cycle")),
    (
        "schedule.cycle",
        "schedule.name=triangular, triangular2, exp_range or cosine_restarts",
        _schedule(*SMITH, "cosine_restarts"),
    ),
    ("schedule.growth", "schedule.name=cosine_restarts", _schedule("cosine_restarts")),
    (
        "schedule.lowest",
        "schedule.name=triangular, triangular2, exp_range, cosine or cosine_restarts",
        _schedule(*SMITH, "cosine", "cosine_restarts"),
    ),
)
"""The same for the keys of a stage."""


def idle_keys(recipe: TrainRecipe, variant: VariantOptions, task: str) -> tuple[str, ...]:
    """A line for each key that differs from its default and does nothing.

    Args:
        recipe: as given.
        variant: the variant that it means.
        task: of the index.
    """
    case = Case(recipe, variant, task)
    lines = [
        _line(key, value, needs)
        for rule, needs, works in RULES
        if not works(case)
        for key, value in _changed(recipe, rule)
    ]
    lines += [
        _line(f"stages.{number}.{key}", value, needs)
        for number, stage in enumerate(recipe.stages)
        for rule, needs, works in STAGE_RULES
        if not works(stage)
        for key, value in _changed(stage, rule)
    ]
    return tuple(lines)


def _line(key: str, value: Any, needs: str) -> str:
    shown = str(value).lower() if isinstance(value, bool) else value
    return f"{key}={shown} does nothing here: it works with {needs}"


def _changed(section: Section, rule: str) -> Iterator[tuple[str, Any]]:
    """The keys at or below a dotted name that differ from their defaults, with their values."""
    first, _, rest = rule.partition(".")
    value = getattr(section, first)
    if rest:
        # A section may be given by its name: then it has no keys of its own.
        below = _changed(value, rest) if isinstance(value, Section) else ()
    elif isinstance(value, Section):
        below = (each for name in type(value).model_fields for each in _changed(value, name))
    else:
        if value != type(section).model_fields[first].get_default():
            yield first, value
        return
    for name, found in below:
        yield f"{first}.{name}", found
