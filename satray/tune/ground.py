"""What trials stand on: first weights, mean and deviation, features; once for all that share them.

A ground lies beside the features, so that later sweeps over the same index and weights find it
there and need not even build the network. Torch is imported where it is used.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

from satray import __version__
from satray.config.train import TrainRecipe
from satray.data.index import TileIndex
from satray.errors import SatrayError
from satray.models.pretrained import sources_of
from satray.models.variant import resolve
from satray.runs.run import Run
from satray.storage import Storage, join
from satray.train.setup import Setup, Wanted, set_up, weights_wanted
from satray.tune.feature_table import RECORD as FEATURES
from satray.tune.feature_table import FeatureTable, feature_spec, head_only, with_views

FOLDER = "grounds"
"""Beside the features."""
RECORD, HEAD_FILE = "ground.json", "head.pt"
"""Files of a ground: what is known of it, written last; the first weights of the head alone."""
DigestOf = Callable[[Wanted], str]
"""Weights -> digest of their file."""
ALIKE = ("weights", "first_conv", "input", "augment", "seed", "precision")
"""Keys of train, beside the variant, in which trials on one ground agree."""


@dataclass(frozen=True)
class Ground:
    """Small: travels to trials."""

    weights: str
    """URI of the whole network's first weights."""
    head: str
    """URI of the head's."""
    towers: str
    """Digest of the towers' weights."""
    mean: tuple[float, ...]
    """Of each band's values."""
    std: tuple[float, ...]
    """Of each band's values."""
    features: FeatureTable | None = None
    """Where trials that train the head alone read them; None: there are none."""

    def under(self, setup: Setup) -> Setup:
        """The set-up of a trial with the mean and deviation that are known."""
        return replace(setup, mean=self.mean, std=self.std)


@dataclass(frozen=True)
class Laid:
    """Grounds that were asked for, by key."""

    grounds: dict[str, Ground]
    """Those that could be had."""
    lost: dict[str, str]
    """Of the others, why not."""


def ground_key(recipe: TrainRecipe, digest: str, digest_of: DigestOf) -> str:
    """Names the ground that a training stands on: 16 hexadecimal digits.

    Args:
        recipe: of the training.
        digest: of its index.
        digest_of: weights -> digest of their file.
    """
    variant = resolve(recipe.variant, recipe.pooling)
    told = recipe.identity()
    alike: dict[str, Any] = {name: told[name] for name in ALIKE}
    alike["augment"].pop("mixup", None)
    wanted = weights_wanted(variant, sources_of(recipe.weights, variant))
    files = {tower: digest_of(each) for tower, each in wanted.items()}
    whole = [_versions(), digest, variant.model_dump(mode="json"), alike, files]
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:16]


@functools.cache
def _versions() -> tuple[str, ...]:
    """Of what decides which weights are drawn or fetched."""
    return __version__, version("torch"), version("timm")


def settle_ground(setup: Setup, run: Run, store: str, key: str) -> Ground:
    """Find a ground, or make it: measure what is not known, write first weights.

    Args:
        setup: of one of the trainings on it.
        run: told what is found.
        store: folder of features and grounds.
        key: `ground_key`.

    Raises:
        InputError: weights that cannot be had, or do not fit; or a stage that cannot be trained.
    """
    own = Run(run.job, key, join(store, FOLDER), run.storage, run.say, run.progress)
    record = join(own.state, RECORD)
    if not run.storage.exists(record):
        _make(setup, own, record)
    return _read(run.storage, own.state)


def _read(storage: Storage, folder: str) -> Ground:
    found = json.loads(storage.read(join(folder, RECORD)))
    return Ground(
        weights=join(folder, found["weights"]),
        head=join(folder, HEAD_FILE),
        towers=found["towers"],
        mean=tuple(found["mean"]),
        std=tuple(found["std"]),
    )


def extracted(setup: Setup, storage: Storage, store: str, key: str) -> bool:
    """Whether the features of a ground are there, whole. Nothing is written.

    Args:
        setup: of one of the trainings on it, with a number of views (`with_views`).
        storage: how URIs are reached.
        store: folder of features and grounds.
        key: `ground_key`.
    """
    folder = Run("", key, join(store, FOLDER), storage).state
    if not storage.exists(join(folder, RECORD)):
        return False
    ground = _read(storage, folder)
    spec = feature_spec(ground.under(setup), ground.towers)
    return storage.exists(join(store, spec.key, FEATURES))


def _make(setup: Setup, own: Run, record: str) -> None:
    import io

    import torch

    from satray.train import measure
    from satray.train.workers import initial
    from satray.train.workers.combining import to_bytes
    from satray.tune.head import HEAD, towers_digest

    measured = measure.complete(setup, own)
    uri = initial.stage(measured, own)
    state = torch.load(io.BytesIO(own.storage.read(uri)), weights_only=True)
    head = {name: value for name, value in state.items() if name.startswith(HEAD)}
    own.storage.write(join(own.state, HEAD_FILE), to_bytes(head))
    told = {
        "weights": initial.FILE,
        "towers": towers_digest(state),
        "mean": list(measured.mean),
        "std": list(measured.std),
    }
    own.storage.write(record, json.dumps(told).encode())


def lay(
    recipes: Iterable[TrainRecipe],
    tiles: TileIndex,
    run: Run,
    store: str,
    digest_of: DigestOf,
) -> Laid:
    """Settle the grounds of some trainings, and extract the features of those that can use them.

    Ray is up. Extraction goes on where an earlier attempt ended. A ground that cannot be had costs
    its own trials only.

    Args:
        recipes: of `train`.
        tiles: the index, read.
        run: of the sweep.
        store: folder of features and grounds.
        digest_of: weights -> digest of their file.

    Raises:
        SatrayError: not one of them can be had; why not the first.
    """
    from satray.tune.features import extract

    grounds: dict[str, Ground] = {}
    lost: dict[str, SatrayError] = {}
    tables: dict[str, FeatureTable] = {}
    wanted = _by_key(recipes, tiles, digest_of)
    for number, (key, recipe, heads) in enumerate(wanted, 1):
        setup = set_up(recipe, run.storage, tiles)
        try:
            with run.activity("preparing"):
                run.progress(f"first weights: {number} of {len(wanted)}")
                ground = settle_ground(setup, run, store, key)
            if heads:
                setup = ground.under(setup)
                spec = feature_spec(setup, ground.towers)
                if spec.key not in tables:
                    tables[spec.key] = extract(setup, run, ground.weights, spec, store)
                ground = replace(ground, features=tables[spec.key])
        except SatrayError as error:
            lost[key] = error
            run.say(f"note: {recipe.variant if isinstance(recipe.variant, str) else key}: {error}")
            continue
        grounds[key] = ground
    if lost and not grounds:
        raise next(iter(lost.values()))
    return Laid(grounds, {key: str(error) for key, error in lost.items()})


def _by_key(
    recipes: Iterable[TrainRecipe], tiles: TileIndex, digest_of: DigestOf
) -> list[tuple[str, TrainRecipe, bool]]:
    """Key, one of its recipes, and whether any of them trains the head alone."""
    kept: dict[str, tuple[TrainRecipe, bool]] = {}
    for recipe in recipes:
        key = ground_key(recipe, tiles.digest, digest_of)
        heads = head_only(recipe) is None
        if key not in kept or (heads and not kept[key][1]):
            shape = tiles.meta.tile_shape
            kept[key] = (with_views(recipe, shape) if heads else recipe, heads)
    return [(key, recipe, heads) for key, (recipe, heads) in kept.items()]
