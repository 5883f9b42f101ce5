"""Range tests before a sweep: learning rates to try, around what each variant can stand."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from satray.config.train import TrainRecipe
from satray.config.tune import TuneRecipe
from satray.data.index import TileIndex
from satray.errors import SatrayError, TrainingError
from satray.runs.run import Run
from satray.storage import join
from satray.train.setup import set_up
from satray.tune.defaults import RATE, RATES, variants_of
from satray.tune.feature_table import head_only
from satray.tune.ground import DigestOf, ground_key, settle_ground
from satray.tune.resolve import rate_bounds
from satray.tune.space import Space
from satray.tune.trials import compose, short_value, trial_recipe

FOLDER = "range-tests"
"""Beside grounds and features: what was found, so that no sweep tests again. Below the run's state:
why a test failed, for this run alone."""
DECIDING = ("landscape", "optimizer", "loss", "repeat", "batch", "dropout", "sync_batchnorm",
            "deterministic")  # fmt: skip
"""Keys of train that decide what a test finds, beside those of the ground."""
DECIDING_STAGE = ("trainable", "layer_decay", "dropout")
"""Likewise of the stage."""


@dataclass(frozen=True)
class Tested:
    """What range tests found."""

    space: Space
    """With learning rates around it."""
    pictures: dict[str, bytes]
    """Heading -> PNG."""


def range_tests(
    recipe: TuneRecipe,
    space: Space,
    tiles: TileIndex,
    run: Run,
    store: str,
    digest_of: DigestOf,
) -> Tested:
    """Test the first stage's learning rate of each variant. Ray is up.

    A variant whose test shows nothing, or cannot be done, keeps the rates that it had.

    Args:
        recipe: the sweep.
        space: what it searches.
        tiles: its index.
        run: of the sweep.
        store: folder of features, grounds and tests; one that is there already is not done again.
        digest_of: weights -> digest of their file.
    """
    from satray.train.range_test import explore, picture

    ends: list[tuple[Any, tuple[float, float] | None]] = []
    pictures: dict[str, bytes] = {}
    names: list[str] = []
    for variant in variants_of(space, recipe):
        chosen = {"variant": variant} if "variant" in space.keys else {}
        names.append(short_value("variant", variant))
        alike = names.count(names[-1])  # other bands, say
        name = names[-1] if alike == 1 else f"{names[-1]} ({alike})"
        one = trial_recipe(recipe, chosen, "")
        if head_only(one) is None:  # trained alone, whatever the workers
            alone = one.resources.model_copy(update={"workers": 1})
            one = one.model_copy(update={"resources": alone})
        ground = ground_key(one, tiles.digest, digest_of)
        key = key_of_test(one, ground)
        folder = join(store, FOLDER)
        own = Run(run.job, key, folder, run.storage, run.say, run.progress, ray=run.ray)
        bounds: tuple[float, float] | None
        failed = join(run.state, FOLDER, f"{key}.txt")
        try:
            if run.storage.exists(failed):
                raise TrainingError(run.storage.read(failed).decode())
            setup = set_up(one, run.storage, tiles)
            settled = settle_ground(setup, run, store, ground)
            (finding,) = explore(settled.under(setup), own, settled.weights, (0,))
            bounds = rate_bounds(finding.learning_rate, finding.suggestions.minimum)
            pictures[name] = picture((finding,), f"{run.run_id}: {name}")
            run.say(f"{name}: {_words(bounds)}; {finding.line()}")
        except SatrayError as error:
            # A sweep that goes on shall find the space that its first trials were of.
            run.storage.write(failed, str(error).encode())
            bounds = None if _has_rates(recipe, space, chosen) else RATES
            told = "learning rates as given" if bounds is None else _words(bounds)
            run.say(f"{name}: {told}, since its range test failed: {error}")
        for activity, seconds in own.seconds.items():
            run.add_seconds(activity, seconds)
        ends.append((variant, bounds))
    return Tested(space.with_ranges(RATE, "variant", ends), pictures)


def key_of_test(recipe: TrainRecipe, ground: str) -> str:
    """Names what a range test of the first stage finds: 16 hexadecimal digits.

    Args:
        recipe: of a training of that variant.
        ground: its `ground_key`.
    """
    told = recipe.identity()
    stage = {name: told["stages"][0][name] for name in DECIDING_STAGE}
    keys = {name: told[name] for name in DECIDING}
    parts = 1 if recipe.sync_batchnorm else recipe.resources.workers
    whole = [ground, keys, stage, told["augment"]["mixup"], parts]
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:16]


def _words(bounds: tuple[float, float]) -> str:
    return f"learning rates {bounds[0]:.2g} to {bounds[1]:.2g}"


def _has_rates(recipe: TuneRecipe, space: Space, chosen: dict[str, Any]) -> bool:
    """Whether all trials of a variant have rates without a test."""
    rates = [axis for axis in space.axes if axis.key == RATE]
    if any(axis.domain.holds("auto") for axis in rates):
        return False
    if compose(recipe, chosen).stages[0].learning_rate != "auto":
        return True
    return any(axis.may_apply(chosen) and not axis.when_but("variant") for axis in rates)
