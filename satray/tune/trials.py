"""From a recipe of `tune` to its trials, each composed and validated once. No torch, no Ray."""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from satray.config.base import idle_keys, type_at
from satray.config.cli import apply_overrides, fill_lists, holds_keys, validate
from satray.config.stages import usual_stages
from satray.config.train import TrainRecipe
from satray.config.tune import TuneRecipe
from satray.data.index import TileIndex, check_unchanged, read_index
from satray.errors import InputError
from satray.models.pretrained import UNPUBLISHED, is_word, sources_of
from satray.models.variant import BUILT_IN, input_bands, resolve
from satray.storage import Storage, absolute, join
from satray.train.plan import plan_training
from satray.train.setup import (
    best_metric,
    set_up,
    weights_digest,
)
from satray.tune.feature_table import head_only, views_of
from satray.tune.records import Metric, Regime, trial_id
from satray.tune.space import Configuration, Space, Values, text
from satray.tune.starts import DigestOf, Start, start_key

SAMPLED = 32
"""Trials of a search that is no grid, where the recipe does not say."""
FORESEEN = 64
"""Random configurations that stand for all, where Optuna is to suggest them."""
OWN = ("index", "out", "overwrite", "storage", "resources")
"""Keys of train that `tune` has too: given there, for all trials."""
TRAINABLE = re.compile(r"stages\.\d+\.trainable")
"""Keys that say what is trained."""
NOTES = 12
"""Notes that are shown."""
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
    the head alone, with the number of views that its features have."""

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
    digest_of: DigestOf
    """Weights -> digest of their file; published ones are fetched."""
    starts: dict[str, Start] = field(default_factory=dict)
    """What trials start from, by key, once it is prepared."""
    lost: dict[str, str] = field(default_factory=dict)
    """Key of a start that cannot be had -> why not."""
    digests: dict[str, str] = field(default_factory=dict)
    """Digest of the index and of each file of weights."""
    _trials: dict[str, Trial] = field(default_factory=dict, compare=False, repr=False)
    _starts: dict[str, str] = field(default_factory=dict, compare=False, repr=False)
    _checked: set[str] = field(default_factory=set, compare=False, repr=False)
    _notes: dict[str, None] = field(default_factory=dict, compare=False, repr=False)

    @property
    def optuna(self) -> bool:
        """Whether configurations come one by one."""
        return self.recipe.search == "optuna"

    @property
    def planned(self) -> int:
        """How many trials there are to be, at most."""
        return _count(self.recipe) if self.optuna else len(configurations(self.recipe, self.space))

    @property
    def features(self) -> list[str]:
        """Keys of the features that trials share."""
        return sorted(key for key, one in self.starts.items() if one.features)

    @property
    def notes(self) -> tuple[str, ...]:
        """What `train` would remark on the trainings that were checked, each thing once."""
        return tuple(self._notes)

    def trial(self, configuration: Configuration) -> Trial:
        """The trial of a configuration.

        Raises:
            InputError: the configuration cannot be valid; the line names it.
        """
        name = trial_id(configuration)
        if name not in self._trials:
            recipe = full_recipe(self.recipe, configuration)
            if head_only(recipe) is None:
                views = views_of(recipe, self.index.meta.tile_shape)
                augment = recipe.augment.model_copy(update={"views": views})
                recipe = recipe.model_copy(update={"augment": augment})
            self._trials[name] = Trial(name, dict(configuration), recipe)
        return self._trials[name]

    def listed(self) -> list[Trial]:
        """All trials, or for Optuna some that stand for them.

        Raises:
            InputError: one that cannot be valid, or more of them than a grid may have.
        """
        if self.optuna:
            found = self.space.sample(FORESEEN, self.recipe.seed)
        else:
            found = configurations(self.recipe, self.space)
        return [self.trial(each) for each in found]

    def start_of(self, trial: Trial) -> str:
        """Key of what a trial starts from; trials that share it share features."""
        if trial.id not in self._starts:
            key = start_key(trial.recipe, self.index.digest, self.digest_of)
            self._starts[trial.id] = key
        return self._starts[trial.id]

    def regime_of(self, trial: Trial) -> Regime:
        """head: from features, where there are any; backbone: on workers of its own."""
        start = self.starts.get(self.start_of(trial))
        there = start is not None and start.features is not None
        return "head" if there and trial.head else "backbone"

    def lost_by(self, trial: Trial) -> str | None:
        """Why what a trial starts from cannot be had; None where it can."""
        return self.lost.get(self.start_of(trial))

    def accept(self, configuration: Configuration) -> Trial:
        """The trial of a configuration that nobody has looked at yet.

        Raises:
            InputError: it cannot be trained.
        """
        trial = self.trial(configuration)
        self.check(trial)
        if reason := self.lost_by(trial):
            raise InputError(reason)
        return trial

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
        _check_rates(trial.recipe, self.recipe.landscape)
        recipe = alone(trial.recipe) if trial.head else trial.recipe
        rest = recipe.model_dump_json(exclude={"stages"})
        if rest not in self._checked:
            self._checked.add(rest)
            setup = set_up(recipe, Storage(self.recipe.storage), self.index)
            if trial.head and set(setup.weights.values()) == {"none"}:
                self._notes[UNTAUGHT] = None
            self._notes.update(dict.fromkeys(setup.notes))
            return setup.plan.total_samples
        # What stages there are matters to the plan alone, and an index can be large.
        train = self.index.split_counts["train"]
        plan = plan_training(recipe, train, recipe.resources.workers)
        return plan.total_samples

    def check_networks(self, trials: Iterable[Trial]) -> None:
        """See that weights fit their networks, and that stages train blocks that there are.

        Each kind of network is built once, with torch, which takes seconds to import.

        Raises:
            InputError: one does not; the line names it.
        """
        storage, seen = Storage(self.recipe.storage), set()
        for trial in trials:
            recipe = trial.recipe
            trained = [stage.trainable for stage in recipe.stages]
            sizes = (recipe.variant, recipe.pooling, recipe.batch, recipe.input.size)
            kind = repr((*sizes, recipe.weights, recipe.first_conv, trained))
            if kind not in seen:
                seen.add(kind)
                from satray.train.initial import prepared

                prepared(set_up(recipe, storage, self.index), storage)

    def check_unchanged(self, storage: Storage) -> list[str]:
        """What is to be said of an archive that was indexed a while ago.

        Raises:
            InputError: it is not the one that was indexed.
        """
        budget = TrainRecipe.model_fields["error_budget"].default
        budget = self.recipe.base.get("error_budget", budget)
        return check_unchanged(self.index, self.recipe.index, storage, budget)

    def store(self, out: str) -> str:
        """Where features are kept, for a sweep whose run lies in `out`."""
        return absolute(self.recipe.features.folder or join(out, "features"))


def resolved(recipe: TuneRecipe, storage: Storage) -> Sweep:
    """Read the index and lay out the space.

    Raises:
        InputError: no such index, or a space that is none.
    """
    index = read_index(recipe.index, storage)
    meta = index.meta
    space = space_of(recipe, meta.bands, index.split_counts.get("train", 0))
    digest_of = functools.cache(functools.partial(weights_digest, storage=storage))
    best = recipe.metric if recipe.metric != "auto" else dotted(recipe.base).get("best", "auto")
    notes = dict.fromkeys(idle_keys(recipe, None))
    metric = Metric(best_metric(str(best), meta.task))
    return Sweep(recipe, index, space, metric, digest_of, _notes=notes)


def space_of(recipe: TuneRecipe, bands: Sequence[str], train_tiles: int) -> Space:
    """The space of a sweep; whether `train` takes its values is seen when they are composed.

    Args:
        recipe: the sweep.
        bands: those that the index has.
        train_tiles: tiles in its train split.

    Raises:
        InputError: a key that is not a trial's, or an axis that is none.
    """
    _check_keys(recipe)
    return Space.parse(recipe.space or default_space(recipe, bands, train_tiles))


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
    left = {key: axis for key, axis in wanted.items() if not _says(trained, key)}
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


def configurations(recipe: TuneRecipe, space: Space) -> list[Configuration]:
    """The configurations of a grid or of a random search, in order; not validated.

    Raises:
        InputError: more of them than a grid may have.
    """
    if recipe.search == "grid":
        return space.grid(recipe.trials, recipe.seed)
    return space.sample(_count(recipe), recipe.seed)


def variants_of(space: Space, recipe: TuneRecipe) -> list[Any]:
    """The variants that a sweep tries: those of its axis, else the one of base."""
    domains = [axis.domain for axis in space.axes if axis.key == "variant"]
    found = [value for each in domains if isinstance(each, Values) for value in each.values]
    return found or [full_recipe(recipe, {}).variant]


def full_recipe(recipe: TuneRecipe, configuration: Mapping[str, Any]) -> TrainRecipe:
    """A configuration's training as a person would give it to `train`, without a folder.

    Raises:
        InputError: the configuration cannot be valid; the line names it.
    """
    try:
        found = _compose(recipe, configuration)
        resolve(found.variant, found.pooling)
        return found
    except InputError as error:
        named = ", ".join(f"{key}={text(value)}" for key, value in configuration.items())
        where = f"configuration {named}: " if named else "base."
        raise InputError(f"{where}{error}") from None


def alone(recipe: TrainRecipe) -> TrainRecipe:
    """A training by one worker, as heads are trained whatever the workers."""
    resources = recipe.resources.model_copy(update={"workers": 1})
    return recipe.model_copy(update={"resources": resources})


def fine_tuning(recipe: TrainRecipe) -> TrainRecipe:
    """The second step after a head: its own stages, then those in which `train` tunes all of it.

    A recipe that trains more than the head, or whose towers start from nothing, is its own.
    """
    variant = resolve(recipe.variant, recipe.pooling)
    taught = set(sources_of(recipe.weights, variant).values()) != {"none"}
    if head_only(recipe) is not None or not taught:
        return recipe
    usual = usual_stages(recipe.weights, variant)
    then = tuple(stage for stage in usual if stage.trainable != "head")
    augment = recipe.augment.model_copy(update={"views": None})
    return recipe.model_copy(update={"stages": (*recipe.stages, *then), "augment": augment})


def note_lines(notes: Iterable[str], most: int = NOTES) -> list[str]:
    """What `train` would remark, for the person."""
    lines = [f"note: {line}" for line in notes]
    more = len(lines) - most
    return [*lines[:most], f"note: and {more} more of the kind"] if more > 0 else lines


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


def _compose(recipe: TuneRecipe, configuration: Mapping[str, Any]) -> TrainRecipe:
    """A configuration over base over what a sweep lays under both."""
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
    shared = {name: getattr(recipe, name).model_dump() for name in ("storage", "resources")}
    found = validate(TrainRecipe, tree | {"index": recipe.index, **shared}, absolute)
    views = recipe.features.views
    if views is None or found.augment.views is not None or head_only(found) is not None:
        return found
    return found.model_copy(update={"augment": found.augment.model_copy(update={"views": views})})


def _train_heads(tree: dict[str, Any]) -> None:
    """Let every stage train the head alone, where none of them says what it trains."""
    stages = tree["stages"]
    parts = stages if isinstance(stages, list) else []
    parts = [stage for stage in parts if isinstance(stage, dict)]
    if not any("trainable" in stage for stage in parts):
        for stage in parts:
            stage["trainable"] = "head"


def _count(recipe: TuneRecipe) -> int:
    return recipe.trials or SAMPLED


def _check_rates(recipe: TrainRecipe, tested: bool) -> None:
    for number, stage in enumerate(recipe.stages):
        if stage.learning_rate == "auto" and not (number == 0 and tested):
            accepted = "a number, or an axis of the space"
            if number == 0:
                accepted += ", or landscape=true"
            raise InputError(
                f"stages.{number}.learning_rate=auto: trials are given theirs; accepted: {accepted}"
            )


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
        found = TrainRecipe.model_fields.get(first)
        extra = found.json_schema_extra if found is not None else None
        if isinstance(extra, dict) and not extra.get("identity", True):
            raise InputError(f"space.{name}: changes nothing that train makes; accepted in base")
    best = dotted(recipe.base).get("best", "auto")
    if "auto" not in (best, recipe.metric) and best != recipe.metric:
        raise InputError(
            f"metric={recipe.metric}: base.best={best} is another; accepted: one of the two"
        )


def _variants(bands: Sequence[str], weights: str | dict[str, str]) -> list[str]:
    given = weights.values() if isinstance(weights, dict) else (weights,)
    published = any(is_word(each) for each in given)
    return [
        name
        for name, variant in BUILT_IN.items()
        if variant.head == "linear"
        and set(input_bands(variant)) <= set(bands)
        and not (published and {tower.backbone for tower in variant.towers} & set(UNPUBLISHED))
    ]


def _says(recipe: TrainRecipe, key: str) -> bool:
    """Whether somebody gave a key, by itself or in what is given whole."""
    *above, last = key.split(".")
    found: Any = recipe
    for part in above:
        found = found[int(part)] if part.isdigit() else getattr(found, part)
    return last in found.model_fields_set


def _short(length: float) -> float:
    return float(f"{length:.3g}")
