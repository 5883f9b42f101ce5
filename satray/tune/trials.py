"""From a recipe of `tune` to its trials, each composed and validated once. No torch, no Ray."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from satray.config.base import type_at
from satray.config.cli import apply_overrides, holds_keys, validate
from satray.config.train import TrainRecipe, usual_stages
from satray.config.tune import TuneRecipe
from satray.data.index import TileIndex, check_unchanged
from satray.errors import InputError
from satray.models.pretrained import UNPUBLISHED, is_word, refuse_unreachable, sources_of
from satray.models.variant import BUILT_IN, input_bands, resolve
from satray.storage import Storage, absolute, join
from satray.train import tracking
from satray.train.plan import plan_training
from satray.train.setup import Wanted, set_up, weights_digest
from satray.tune.feature_table import head_only, views_of
from satray.tune.records import Metric, Regime, trial_id
from satray.tune.space import Configuration, Space, text
from satray.tune.starts import Start, start_key

SAMPLED = 32
"""Trials of a search that is no grid, where the recipe does not say."""
FORESEEN = 64
"""Random configurations that stand for all, where Optuna is to suggest them."""
STACKED, STACKED_WEIGHTS = 16, 4 << 20
"""Heads of a stack, and their weights in all, at most: more gain little, and several copies of them
are in memory."""
OWN = ("index", "out", "overwrite", "storage", "resources")
"""Keys of train that `tune` has too: given there, for all trials."""
TRAINABLE = re.compile(r"stages\.\d+\.trainable")
"""Keys that say what is trained."""
UNTAUGHT = "weights=none: heads are trained on backbones that nothing was taught"
"""Also where nobody has published weights of a backbone."""

SCHEDULES = ("constant", "step", "triangular", "triangular2", "one_cycle", "cosine_restarts")
CYCLES = ("triangular", "triangular2", "cosine_restarts")
RATES = (1e-4, 1e-1)
"""Learning rates, lowest and highest; wide, since a head learns at rates that burst a backbone."""
RATE = "stages.0.learning_rate"


@dataclass(frozen=True)
class Trial:
    """One configuration of a sweep."""

    id: str
    """`trial_id` of the configuration."""
    configuration: Configuration
    """Dotted key of train -> value; what base says is not in it."""
    recipe: TrainRecipe
    """The training as a person would give it to `train`, on the sweep's resources. Where it trains
    the head alone, by one worker, with the number of views that its features have."""
    start: str
    """Key of what it starts from; trials that share it share features."""

    @property
    def head(self) -> bool:
        """Whether it trains the head alone."""
        return head_only(self.recipe) is None


@dataclass(frozen=True)
class Sweep:
    """A sweep, resolved against its index."""

    recipe: TuneRecipe
    """As given."""
    index: TileIndex
    """Its index."""
    space: Space
    """What is searched."""
    metric: Metric
    """What trials are compared by."""
    trials: tuple[Trial, ...] = ()
    """All of them, or for Optuna some that stand for them."""
    starts: dict[str, Start] = field(default_factory=dict)
    """What trials start from, by key, once it is prepared."""
    lost: dict[str, str] = field(default_factory=dict)
    """Key of a start that cannot be had -> why not."""
    digests: dict[str, str] = field(default_factory=dict)
    """Digest of the index and of each file of weights."""
    notes: dict[str, None] = field(default_factory=dict, compare=False)
    """What `train` would remark on the trainings that were checked, each thing once, in order."""
    weights: dict[Wanted, str] = field(default_factory=dict, compare=False)
    """Digest of each file of weights that was asked for."""
    _checked: set[str] = field(default_factory=set, compare=False, repr=False)

    @property
    def optuna(self) -> bool:
        """Whether configurations come one by one."""
        return self.recipe.search == "optuna"

    @property
    def stacked(self) -> bool:
        """Whether heads train several as one: none comes, or ends, by what others show."""
        return not self.optuna and self.recipe.stop.name == "none"

    @property
    def planned(self) -> int:
        """How many trials there are to be, at most."""
        return (self.recipe.trials or SAMPLED) if self.optuna else len(self.trials)

    def over(self, space: Space) -> Sweep:
        """The sweep with the trials of a space.

        Raises:
            InputError: one that cannot be valid, or more of them than a grid may have.
        """
        found = configurations(self.recipe, space)
        return replace(self, space=space, trials=tuple(map(self.trial, found)))

    def trial(self, configuration: Configuration) -> Trial:
        """The trial of a configuration.

        Raises:
            InputError: the configuration cannot be valid (the line names it), or asks for weights
                that cannot be had.
        """
        recipe = full_recipe(self.recipe, configuration)
        if not self.weights:  # the first to ask, before the seconds that timm takes to import
            refuse_unreachable(recipe.weights, resolve(recipe.variant, recipe.pooling))
        if head_only(recipe) is None:
            views = {"views": views_of(recipe, self.index.meta.tile_shape)}
            alone = recipe.resources.model_copy(update={"workers": 1})
            augment = recipe.augment.model_copy(update=views)
            recipe = recipe.model_copy(update={"augment": augment, "resources": alone})
        start = start_key(recipe, self.index.digest, self.digest_of)
        return Trial(trial_id(configuration), dict(configuration), recipe, start)

    def regime_of(self, trial: Trial) -> Regime:
        """head: from features, where there are any; backbone: on workers of its own."""
        start = self.starts.get(trial.start)
        there = start is not None and start.features is not None
        return "head" if there and trial.head else "backbone"

    def stacks(self, heads: Sequence[Trial], at_once: int) -> list[tuple[Trial, ...]]:
        """Put trials together that can be trained as one (`satray.train.stack.HeadStack`).

        In a stack all see the same batches, with the same features dropped, and differ in learning
        rates and schedules alone; where momentum cycles, in rates alone.

        Args:
            heads: trials that train heads from features, each to its end.
            at_once: stacks at a time; there are no fewer where there are as many trials.
        """
        alike: dict[str, list[Trial]] = {}
        for trial in heads:
            recipe = trial.recipe
            own = {"stages": {"__all__": {"learning_rate", "schedule"}}}
            schedules = [one.schedule for one in recipe.stages]
            cycles = [one if one.cycle_momentum else None for one in schedules]
            # Last bits depend on who else is in a stack, dropout on the parts of a batch.
            alone = trial.id if recipe.deterministic or recipe.accumulate > 1 else None
            key = f"{alone} {recipe.model_dump_json(exclude=own)} {cycles}"
            alike.setdefault(key, []).append(trial)
        found = []
        for some in alike.values():
            table = self.starts[some[0].start].features
            assert table is not None, "heads are trained from features"
            fitting = STACKED_WEIGHTS // (table.width * len(self.index.meta.classes))
            most = max(1, min(STACKED, fitting, len(heads) // at_once))
            found += [tuple(some[i : i + most]) for i in range(0, len(some), most)]
        return found

    def length_of(self, trial: Trial) -> tuple[float, int]:
        """What a trial is asked to see, before batches round it.

        Returns:
            Samples in all, and from one evaluation to the next.
        """
        recipe = trial.recipe
        each = recipe.pseudo_epoch or self.index.split_counts["train"]
        lengths = [stage.samples or stage.pseudo_epochs * each for stage in recipe.stages]
        return sum(lengths), each

    def check(self, trial: Trial) -> int:
        """See that a trial can be trained on the index; gives its samples.

        Raises:
            InputError: it cannot.
        """
        recipe, train = self.final(trial), self.index.split_counts["train"]
        for number, stage in enumerate(recipe.stages):
            if stage.learning_rate == "auto" and (number or not self.recipe.landscape):
                tested = "" if number else ", or landscape=true"
                raise InputError(
                    f"stages.{number}.learning_rate=auto: trials are given theirs; accepted: a "
                    f"number, or an axis of the space{tested}"
                )
        rest = recipe.model_dump_json(exclude={"stages"})
        if rest in self._checked:
            # What stages there are matters to the plan alone, and an index can be large.
            plan_training(recipe, train, recipe.resources.workers)
        else:
            self._checked.add(rest)
            setup = set_up(recipe, Storage(self.recipe.storage), self.index)
            untaught = [UNTAUGHT] if trial.head and set(setup.weights.values()) == {"none"} else []
            self.notes.update(dict.fromkeys((*untaught, *setup.notes)))
        if self.recipe.refit:
            tracking.check(recipe)
        return plan_training(trial.recipe, train, trial.recipe.resources.workers).total_samples

    def final(self, trial: Trial) -> TrainRecipe:
        """What is left of a sweep whose best trial this is: its training, or that of `refit`.

        The latter asks for no less: all of the network, on the sweep's resources.
        """
        if not self.recipe.refit:
            return trial.recipe
        resources = {"resources": self.recipe.resources}
        return fine_tuning(trial.recipe.model_copy(update=resources))

    def check_networks(self, trials: Iterable[Trial]) -> None:
        """See that weights fit their networks, and that stages train blocks that there are.

        Each kind of network is built once, with torch, which takes seconds to import.

        Raises:
            InputError: one does not; the line names it.
        """
        storage, seen = Storage(self.recipe.storage), set()
        for recipe in map(self.final, trials):
            trained = [stage.trainable for stage in recipe.stages]
            parts = (recipe.batch, recipe.resources.workers, recipe.accumulate)
            shape = (recipe.variant, recipe.pooling, recipe.input.size, recipe.drop_path)
            kind = repr((*parts, *shape, recipe.weights, recipe.first_conv, trained))
            if kind not in seen:
                seen.add(kind)
                from satray.train.initial import prepared

                prepared(set_up(recipe, storage, self.index), storage)

    def check_unchanged(self, storage: Storage) -> list[str]:
        """What is to be said of an archive that was indexed a while ago.

        Raises:
            InputError: it is not the one that was indexed.
        """
        budget = self.trials[0].recipe.error_budget
        return check_unchanged(self.index, self.recipe.index, storage, budget)

    def store(self, out: str) -> str:
        """Where starts and features are kept, for a sweep whose run lies in `out`."""
        return absolute(self.recipe.features.folder or join(out, "features"))

    def digest_of(self, wanted: Wanted) -> str:
        """Digest of a file of weights, read once."""
        if wanted not in self.weights:
            self.weights[wanted] = weights_digest(wanted, Storage(self.recipe.storage))
        return self.weights[wanted]


def space_of(recipe: TuneRecipe, bands: Sequence[str], train_tiles: int) -> Space:
    """The space of a sweep; whether `train` takes its values is seen when they are composed.

    Args:
        recipe: the sweep.
        bands: those that the index has.
        train_tiles: tiles in its train split.

    Raises:
        InputError: a key that is not a trial's, or an axis that is none, or one that waits for
            learning rates that `landscape` replaces.
    """
    for where, tree in (("base", recipe.base), ("space", recipe.space)):
        for name in tree:
            first = str(name).split(".")[0]
            if first in OWN or (where, first) == ("space", "best"):
                own = "metric" if first == "best" else first
                raise InputError(
                    f"{where}.{name}: not a trial's; accepted: {own} of tune itself, for all trials"
                )
    space = Space.parse(recipe.space or default_space(recipe, bands, train_tiles))
    for axis in space.axes if recipe.landscape else ():
        if RATE in axis.when:
            raise InputError(
                f"space.{axis.key}.when.{RATE}: landscape=true replaces these rates; accepted: "
                "another key, or landscape=false"
            )
    return space


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
    trained = full_recipe(recipe, {})
    stage = trained.stages[0]
    length = stage.pseudo_epochs
    if stage.samples is not None:
        length = stage.samples / (trained.pseudo_epoch or train_tiles)
    third, quarter, half = (float(f"{length / parts:.3g}") for parts in (3, 4, 2))
    weights = trained.weights
    asked = weights.values() if isinstance(weights, Mapping) else (weights,)
    without = UNPUBLISHED if any(map(is_word, asked)) else ()
    wanted: dict[str, Any] = {}
    if "variant" not in trained.model_fields_set:
        wanted["variant"] = [
            name
            for name, variant in BUILT_IN.items()
            if variant.head == "linear"
            and set(input_bands(variant)) <= set(bands)
            and not {tower.backbone for tower in variant.towers} & set(without)
        ]
        if not wanted["variant"]:
            raise InputError(
                f"space: no built-in variant fits the bands {', '.join(bands)}; accepted: "
                "base.variant={towers, pooling}, or space.variant"
            )
    if "learning_rate" not in stage.model_fields_set:
        wanted[RATE] = {"log_uniform": list(RATES)}
    said = stage.schedule.model_fields_set if "schedule" in stage.model_fields_set else set()
    if "name" not in said:
        above = "stages.0.schedule"
        wanted[f"{above}.name"] = list(SCHEDULES)
        for key, values, names in (("step", [third], ["step"]), ("cycle", [quarter, half], CYCLES)):
            if key not in said:
                when = {f"{above}.name": list(names)}
                wanted[f"{above}.{key}"] = {"values": values, "when": when}
    if not wanted:
        raise InputError("space: base fixes all that is searched by default; accepted: a space")
    return wanted


def configurations(recipe: TuneRecipe, space: Space) -> list[Configuration]:
    """The configurations of a search, in order; of Optuna's some that stand for them.

    Raises:
        InputError: more of them than a grid may have.
    """
    if recipe.search == "grid":
        return space.grid(recipe.trials, recipe.seed)
    count = FORESEEN if recipe.search == "optuna" else recipe.trials or SAMPLED
    return space.sample(count, recipe.seed)


def full_recipe(recipe: TuneRecipe, configuration: Mapping[str, Any]) -> TrainRecipe:
    """A configuration over base over what a sweep lays under both, as one would give it to `train`.

    Where nothing says what stages train, they train the head alone.

    Raises:
        InputError: the configuration cannot be valid; the line names it.
    """
    tree: dict[str, Any] = {"seed": recipe.seed, "stages": [{}]}  # not the usual stages
    try:
        for layer in (dotted(recipe.base), configuration):
            apply_overrides(tree, copy.deepcopy(dict(layer)))
        given = tree["stages"] if isinstance(tree["stages"], list) else []
        stages = [stage for stage in given if isinstance(stage, dict)]
        searched = any(TRAINABLE.fullmatch(key) for key in dotted(recipe.space))
        if not searched and not any("trainable" in stage for stage in stages):
            for stage in stages:
                stage["trainable"] = "head"
        if recipe.metric != "auto":
            tree["best"] = recipe.metric
        shared = {name: getattr(recipe, name).model_dump() for name in ("storage", "resources")}
        found = validate(TrainRecipe, tree | {"index": recipe.index, **shared}, absolute)
        resolve(found.variant, found.pooling)
        return found
    except InputError as error:
        named = ", ".join(f"{key}={text(value)}" for key, value in configuration.items())
        where = f"configuration {named}: " if named else "base."
        raise InputError(f"{where}{error}") from None


def fine_tuning(recipe: TrainRecipe) -> TrainRecipe:
    """The second step after a head: its own stages, then those in which `train` tunes all of it.

    A recipe that trains more than the head, or whose towers start from nothing, is its own.
    """
    variant = resolve(recipe.variant, recipe.pooling)
    taught = set(sources_of(recipe.weights, variant).values()) != {"none"}
    if head_only(recipe) is not None or not taught:
        return recipe
    usual = usual_stages({"weights": recipe.weights, "variant": variant})
    then = tuple(stage for stage in usual if stage.trainable != "head")
    augment = recipe.augment.model_copy(update={"views": None})
    return recipe.model_copy(update={"stages": (*recipe.stages, *then), "augment": augment})


def dotted(tree: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Keys of train by dotted name, from a mapping that has them nested, dotted or both.

    Of a key that is there twice the last counts.
    """
    found: dict[str, Any] = {}
    for name, value in tree.items():
        key = f"{above}{name}"
        if isinstance(value, Mapping) and holds_keys(type_at(TrainRecipe, key)):
            found |= dotted(value, f"{key}.")
        else:
            found[key] = value
    return found
