"""A sweep, resolved: its index, its space, and what each configuration means. No torch, no Ray."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass, field

from satray.config.train import TrainRecipe
from satray.config.tune import TuneRecipe
from satray.data.index import TileIndex, check_unchanged, read_index
from satray.errors import InputError
from satray.models.pretrained import sources_of
from satray.models.variant import resolve
from satray.storage import Storage, absolute, join
from satray.train.plan import plan_training
from satray.train.setup import Wanted, set_up, weights_digest, weights_wanted
from satray.tune.feature_table import head_only
from satray.tune.ground import DigestOf, ground_key
from satray.tune.records import Metric, metric_of
from satray.tune.resolve import drawn, space_of
from satray.tune.space import Configuration, Space
from satray.tune.trials import as_trial, full_recipe, trial_id

FORESEEN = 64
"""Random configurations that stand for all, where Optuna is to suggest them."""


UNTAUGHT = "weights=none: heads are trained on backbones that nothing was taught"
"""Also where nobody has published weights of a backbone."""


@dataclass(frozen=True)
class Sweep:
    """A sweep, resolved."""

    recipe: TuneRecipe
    """As given."""
    tiles: TileIndex
    """Its index."""
    space: Space
    """What is searched."""
    metric: Metric
    """What trials are compared by."""
    digest_of: DigestOf
    """Weights -> digest of their file; published ones are fetched."""
    digests: dict[str, str] = field(default_factory=dict)
    """Digest of the index and of each file of weights."""
    _known: _Known = field(default_factory=lambda: _Known(), compare=False, repr=False)

    @property
    def optuna(self) -> bool:
        """Whether configurations come one by one."""
        return self.recipe.search == "optuna"

    @property
    def notes(self) -> tuple[str, ...]:
        """What `train` would remark on the trainings that were checked, each thing once."""
        return tuple(self._known.notes)

    def listed(self) -> list[Configuration]:
        """All configurations, or for Optuna some that stand for them; each is valid for train."""
        if self.optuna:
            found = self.space.sample(FORESEEN, self.recipe.seed)
        else:
            found = drawn(self.recipe, self.space)
        for configuration in found:
            self.whole(configuration)
        return found

    def whole(self, configuration: Configuration) -> TrainRecipe:
        """A configuration's training as a person would give it to `train`.

        Raises:
            InputError: it is none.
        """
        known, name = self._known.recipes, trial_id(configuration)
        if name not in known:
            known[name] = full_recipe(self.recipe, configuration)
        return known[name]

    def trained(self, configuration: Configuration) -> TrainRecipe:
        """The training of a trial, without its folder."""
        return as_trial(self.recipe, self.whole(configuration), "")

    def key_of(self, configuration: Configuration) -> str:
        """The ground that a trial stands on."""
        known, name = self._known.keys, trial_id(configuration)
        if name not in known:
            known[name] = ground_key(self.trained(configuration), self.tiles.digest, self.digest_of)
        return known[name]

    def wanted(self, configuration: Configuration) -> dict[str, Wanted]:
        """The weights that a trial's towers start from."""
        recipe = self.trained(configuration)
        variant = resolve(recipe.variant, recipe.pooling)
        return weights_wanted(variant, sources_of(recipe.weights, variant))

    def asked(self, configuration: Configuration) -> tuple[float, int]:
        """What a trial is asked to see, before batches round it.

        Returns:
            Samples in all, and from one evaluation to the next.
        """
        recipe = self.whole(configuration)
        each = recipe.pseudo_epoch or self.tiles.split_counts["train"]
        lengths = [stage.samples or stage.pseudo_epochs * each for stage in recipe.stages]
        return sum(lengths), each

    def check(self, configuration: Configuration) -> int:
        """See that a configuration can be trained on the index; gives its samples.

        Raises:
            InputError: it cannot.
        """
        recipe = self.trained(configuration)
        for number, stage in enumerate(recipe.stages):
            tested = number == 0 and self.recipe.landscape
            if stage.learning_rate == "auto" and not tested:
                accepted = "a number, or an axis of the space"
                if number == 0:
                    accepted += ", or landscape=true"
                raise InputError(
                    f"stages.{number}.learning_rate=auto: trials are given theirs; accepted: "
                    f"{accepted}"
                )
        heads = head_only(recipe) is None
        if heads:  # they train alone, whatever the workers
            alone = recipe.resources.model_copy(update={"workers": 1})
            recipe = recipe.model_copy(update={"resources": alone})
        rest = recipe.model_dump_json(exclude={"stages", "out"})
        notes = self._known.notes
        if rest not in self._known.checked:
            self._known.checked.add(rest)
            setup = set_up(recipe, Storage(self.recipe.storage), self.tiles)
            if heads and set(setup.sources.values()) == {"none"}:
                notes[UNTAUGHT] = None
            notes.update(dict.fromkeys((*setup.plan.warnings, *setup.notes)))
            return setup.plan.total_samples
        # What stages there are matters to the plan alone, and an index can be large.
        train = self.tiles.split_counts["train"]
        plan = plan_training(recipe, train, recipe.resources.workers)
        notes.update(dict.fromkeys(plan.warnings))
        return plan.total_samples

    def check_networks(self, listed: Iterable[Configuration], heads: bool = True) -> None:
        """See that weights fit their networks, and that stages train blocks that there are.

        Each kind of network is built once.

        Args:
            listed: the trials.
            heads: with those that train the head alone, whose ground sees to it when it is laid.

        Raises:
            InputError: one does not; the line names it.
        """
        storage, seen = Storage(self.recipe.storage), set()
        for configuration in listed:
            recipe = self.trained(configuration)
            if not heads and head_only(recipe) is None:
                continue
            trained = [stage.trainable for stage in recipe.stages]
            sizes = (recipe.variant, recipe.pooling, recipe.batch, recipe.input.size)
            kind = repr((*sizes, recipe.weights, recipe.first_conv, trained))
            if kind not in seen:
                seen.add(kind)
                # Where heads alone are trained the driver does without torch for a while.
                from satray.train.workers.initial import prepared

                prepared(set_up(recipe, storage, self.tiles), storage)


@dataclass(frozen=True)
class _Known:
    """What was found out of configurations: each is composed once."""

    recipes: dict[str, TrainRecipe] = field(default_factory=dict)
    """Trial's id -> training, whole."""
    keys: dict[str, str] = field(default_factory=dict)
    """Trial's id -> its ground."""
    checked: set[str] = field(default_factory=set)
    """Trainings that fit the index, but for their stages."""
    notes: dict[str, None] = field(default_factory=dict)
    """Remarks, in the order in which they came."""


def resolved(recipe: TuneRecipe, storage: Storage) -> Sweep:
    """Read the index and lay out the space.

    Raises:
        InputError: no such index, or a space that is none.
    """
    tiles = read_index(recipe.index, storage)
    meta = tiles.meta
    space = space_of(recipe, meta.bands, tiles.split_counts.get("train", 0))
    digest_of = functools.cache(functools.partial(weights_digest, storage=storage))
    return Sweep(recipe, tiles, space, metric_of(recipe, meta.task), digest_of)


def unchanged(sweep: Sweep, storage: Storage) -> list[str]:
    """What `check_unchanged` says of the sweep's index; raises InputError."""
    recipe, index = sweep.recipe, sweep.tiles
    budget = recipe.base.get("error_budget", TrainRecipe.model_fields["error_budget"].default)
    return check_unchanged(index, recipe.index, storage, budget)


def store_of(recipe: TuneRecipe, out: str) -> str:
    """Where features are kept."""
    return absolute(recipe.features.folder or join(out, "features"))
