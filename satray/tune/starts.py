"""What trials start from: first weights and features; once for all that share it.

A start lies where the sweep keeps features, so that later sweeps over the same index and weights
find it there and need not even build the network. Torch is imported where it is used.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version

from satray import __version__
from satray.config.train import TrainRecipe
from satray.data.index import TileIndex
from satray.errors import SatrayError
from satray.models.pretrained import sources_of
from satray.models.variant import resolve
from satray.runs.run import Run
from satray.storage import join
from satray.train.checkpoints import INITIAL, from_bytes, to_bytes
from satray.train.setup import Setup, Wanted, set_up, weights_wanted
from satray.tune.feature_table import FeatureTable, head_only

HEAD_FILE = "head.pt"
"""Of a start: the first weights of the head alone; written last."""
DigestOf = Callable[[Wanted], str]
"""Weights -> digest of their file."""
ALIKE = ("weights", "first_conv", "input", "augment", "seed", "precision")
"""Keys of train, beside the towers and the head, in which trials of one start agree."""
FORMAT = 4
"""Of what a start holds, and of how it is computed; another one makes other keys."""


@dataclass(frozen=True)
class Start:
    """Small: travels to trials."""

    weights: str
    """URI of the whole network's first weights."""
    head: str
    """URI of the head's."""
    features: FeatureTable | None = None
    """Where trials that train the head alone read them; None: there are none."""


def start_key(recipe: TrainRecipe, digest: str, digest_of: DigestOf) -> str:
    """Names what a training starts from, features included: 16 hexadecimal digits.

    Args:
        recipe: of the training; where it trains the head alone, with its number of views.
        digest: of its index.
        digest_of: weights -> digest of their file.
    """
    variant = resolve(recipe.variant, recipe.pooling)
    identity = recipe.identity()
    alike = {name: identity[name] for name in ALIKE}
    for blending in ("mixup", "cutmix"):  # keeps heads from features, and changes none
        alike["augment"].pop(blending, None)
    network = variant.model_dump(mode="json", exclude={"pooling"})  # features are of all poolings
    wanted = weights_wanted(variant, sources_of(recipe.weights, variant))
    files = {tower: digest_of(each) for tower, each in wanted.items()}
    whole = [FORMAT, _versions(), digest, network, alike, files]
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:16]


@functools.cache
def _versions() -> tuple[str, ...]:
    """Of what decides which weights are drawn or fetched, and what networks say."""
    return __version__, *map(version, ("torch", "torchvision", "timm"))


def prepare(
    recipes: Mapping[str, TrainRecipe], index: TileIndex, run: Run, store: str
) -> tuple[dict[str, Start], dict[str, str]]:
    """Make what some trainings start from, with features for those that train the head alone.

    Extraction goes on where an earlier attempt ended. A start that cannot be had costs its own
    trials only.

    Args:
        recipes: `start_key` -> a training that starts from it.
        index: theirs, read.
        run: of the sweep; Ray is up where it says so.
        store: folder of starts and features.

    Returns:
        Starts by key; key of one that cannot be had -> why not.

    Raises:
        SatrayError: not one of them can be had; why not the first.
    """
    from satray.tune.features import extract

    found: dict[str, Start] = {}
    lost: dict[str, SatrayError] = {}
    for number, (key, recipe) in enumerate(recipes.items(), 1):
        setup = set_up(recipe, run.storage, index)
        try:
            with run.activity("preparing"):
                run.progress(f"first weights: {number} of {len(recipes)}")
                start = settle(setup, run, store, key)
            if head_only(recipe) is None:
                own = _own(run, store, key)
                table = extract(setup, run, start.weights, own.state)
                start = replace(start, features=table)
        except SatrayError as error:
            lost[key] = error
            run.say(f"note: {recipe.variant if isinstance(recipe.variant, str) else key}: {error}")
            continue
        found[key] = start
    if lost and not found:
        raise next(iter(lost.values()))
    return found, {key: str(error) for key, error in lost.items()}


def settle(setup: Setup, run: Run, store: str, key: str) -> Start:
    """Find a start, or make it: write first weights.

    Args:
        setup: of one of its trainings.
        run: told what is found.
        store: folder of starts and features.
        key: `start_key`.

    Raises:
        InputError: weights that cannot be had, or do not fit; or a stage that cannot be trained.
    """
    own = _own(run, store, key)
    start = Start(join(own.state, INITIAL), join(own.state, HEAD_FILE))
    if not own.storage.exists(start.head):
        from satray.train import initial
        from satray.tune.head import HEAD

        state = from_bytes(own.storage.read(initial.prepare(setup, own)))
        head = {name: value for name, value in state.items() if name.startswith(HEAD)}
        own.storage.write(start.head, to_bytes(head))
    return start


def _own(run: Run, store: str, key: str) -> Run:
    """The run whose state is a start's folder."""
    return Run(run.job, key, store, run.storage, run.say, run.progress, ray=run.ray)
