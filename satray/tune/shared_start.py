"""What trials start from: first weights, mean and deviation, features; once for all that share it.

A start lies beside the features, so that later sweeps over the same index and weights find it there
and need not even build the network. Torch is imported where it is used.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
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
from satray.tune.feature_table import FeatureTable, feature_spec, head_only

FOLDER = "starts"
"""Beside the features."""
RECORD, HEAD_FILE = "start.json", "head.pt"
"""Files of a start: what is known of it, written last; the first weights of the head alone."""
DigestOf = Callable[[Wanted], str]
"""Weights -> digest of their file."""
ALIKE = ("weights", "first_conv", "input", "augment", "seed", "precision")
"""Keys of train, beside the variant, in which trials of one start agree."""


@dataclass(frozen=True)
class Start:
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


def start_key(recipe: TrainRecipe, digest: str, digest_of: DigestOf) -> str:
    """Names what a training starts from: 16 hexadecimal digits.

    Args:
        recipe: of the training.
        digest: of its index.
        digest_of: weights -> digest of their file.
    """
    variant = resolve(recipe.variant, recipe.pooling)
    identity = recipe.identity()
    alike: dict[str, Any] = {name: identity[name] for name in ALIKE}
    for blending in ("mixup", "cutmix"):  # keeps heads from features, and changes none
        alike["augment"].pop(blending, None)
    wanted = weights_wanted(variant, sources_of(recipe.weights, variant))
    files = {tower: digest_of(each) for tower, each in wanted.items()}
    whole = [_versions(), digest, variant.model_dump(mode="json"), alike, files]
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:16]


def prepare(
    recipes: Mapping[str, Iterable[TrainRecipe]], index: TileIndex, run: Run, store: str
) -> tuple[dict[str, Start], dict[str, str]]:
    """Make what some trainings start from, with features for those that train the head alone.

    Ray is up. Extraction goes on where an earlier attempt ended. A start that cannot be had costs
    its own trials only.

    Args:
        recipes: `start_key` -> the trainings that start from it.
        index: theirs, read.
        run: of the sweep.
        store: folder of features and starts.

    Returns:
        Starts by key; key of one that cannot be had -> why not.

    Raises:
        SatrayError: not one of them can be had; why not the first.
    """
    from satray.tune.features import extract

    found: dict[str, Start] = {}
    lost: dict[str, SatrayError] = {}
    tables: dict[str, FeatureTable] = {}
    for number, (key, alike) in enumerate(recipes.items(), 1):
        # One that trains the head alone has the number of views that features are made of.
        recipe, *_ = sorted(alike, key=lambda one: head_only(one) is not None)
        setup = set_up(recipe, run.storage, index)
        try:
            with run.activity("preparing"):
                run.progress(f"first weights: {number} of {len(recipes)}")
                start = settle(setup, run, store, key)
            if head_only(recipe) is None:
                setup = start.under(setup)
                spec = feature_spec(setup, start.towers)
                if spec.key not in tables:
                    tables[spec.key] = extract(setup, run, start.weights, spec, store)
                start = replace(start, features=tables[spec.key])
        except SatrayError as error:
            lost[key] = error
            run.say(f"note: {recipe.variant if isinstance(recipe.variant, str) else key}: {error}")
            continue
        found[key] = start
    if lost and not found:
        raise next(iter(lost.values()))
    return found, {key: str(error) for key, error in lost.items()}


def settle(setup: Setup, run: Run, store: str, key: str) -> Start:
    """Find a start, or make it: measure what is not known, write first weights.

    Args:
        setup: of one of its trainings.
        run: told what is found.
        store: folder of features and starts.
        key: `start_key`.

    Raises:
        InputError: weights that cannot be had, or do not fit; or a stage that cannot be trained.
    """
    folder = join(store, FOLDER)
    own = Run(run.job, key, folder, run.storage, run.say, run.progress, ray=run.ray)
    if not run.storage.exists(join(own.state, RECORD)):
        _make(setup, own)
    return _read(run.storage, own.state)


@functools.cache
def _versions() -> tuple[str, ...]:
    """Of what decides which weights are drawn or fetched."""
    return __version__, version("torch"), version("timm")


def _read(storage: Storage, folder: str) -> Start:
    found = json.loads(storage.read(join(folder, RECORD)))
    return Start(
        weights=join(folder, found["weights"]),
        head=join(folder, HEAD_FILE),
        towers=found["towers"],
        mean=tuple(found["mean"]),
        std=tuple(found["std"]),
    )


def _make(setup: Setup, own: Run) -> None:
    import io

    import torch

    from satray.train import initial, measure
    from satray.train.checkpoints import to_bytes
    from satray.tune.head import HEAD, towers_digest

    measured = measure.complete(setup, own)
    uri = initial.stage(measured, own)
    state = torch.load(io.BytesIO(own.storage.read(uri)), weights_only=True)
    head = {name: value for name, value in state.items() if name.startswith(HEAD)}
    own.storage.write(join(own.state, HEAD_FILE), to_bytes(head))
    record = {
        "weights": initial.FILE,
        "towers": towers_digest(state),
        "mean": list(measured.mean),
        "std": list(measured.std),
    }
    own.storage.write(join(own.state, RECORD), json.dumps(record).encode())
