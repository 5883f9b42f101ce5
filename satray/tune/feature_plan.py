"""Which features there are of a split, where they lie, and which recipes can be trained from them.

Pure: no Ray, no torch, no I/O.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from satray import __version__
from satray.config.train import AugmentOptions, InputOptions, TrainRecipe, VariantOptions

if TYPE_CHECKING:
    from satray.train.plan.setup import Setup

FORMAT = 1
"""Of the files, and of what is computed; another one makes other keys."""
POOLINGS = ("avg", "max", "lse")
"""What is kept of a feature map for linear heads; each costs next to nothing beside the forward."""
FLAT = "flat"
"""For dense heads: the whole map."""
VIEWS = 8
"""Draws of augmentation a tile where nobody says how many."""
BLOCK_BYTES = 16 << 20
"""Decoded tiles of a block, at the most: what is read, computed and written at a time."""
BLOCK_TILES = 256
"""Tiles of a block, at the most."""
FEWEST = 8
"""Tiles of a block, at the least; and of one of whole maps, which are larger than tiles."""
SPLITS = ("train", "val")
RECORD = "features.json"
"""Beside the files; written last."""

LIBRARIES = ("torch", "torchvision", "timm")
"""Other versions of them may compute other features."""

_FILE = re.compile(r"(train|val)-(\d{5})\.parquet")


@dataclass(frozen=True)
class FeatureSpec:
    """Everything that decides the features of a frozen network over the tiles of an index."""

    towers: tuple[tuple[str, str, tuple[str, ...]], ...]
    """Name, backbone and bands of each tower."""
    weights: str
    """Digest of the towers' weights; the head has no part in it."""
    index: str
    """SHA-256 of the index's files."""
    tiles: tuple[int, int]
    """Tiles of the train and of the validation split."""
    bands: tuple[str, ...]
    """Bands read, in the network's order."""
    size: int
    """Side of the network's input, px."""
    resize: int | None
    """Shorter side of the tile before cropping, px; None: `size`."""
    evaluate: str
    """How validation tiles become the input: whole or centre."""
    radiometry: tuple[str, tuple[float, ...], tuple[float, ...]]
    """How stored pixels become values: name, low, high."""
    mean: tuple[float, ...]
    """Of each band's values."""
    std: tuple[float, ...]
    """Of each band's values."""
    augment: tuple[tuple[str, Any], ...]
    """The keys of augmentation that have an effect, sorted."""
    seed: int | None
    """That augmentation is drawn from; None where nothing is drawn."""
    views: int
    """Draws of augmentation of each train tile; a validation tile has one view."""
    poolings: tuple[str, ...]
    """What is kept of each map."""
    precision: str
    """The recipe's word; train tiles see it, validation is always in fp32. What `auto` came to is
    noted in each file."""
    versions: tuple[str, ...]
    """Of what computes them: satray, torch, torchvision, timm."""

    @property
    def key(self) -> str:
        """Names the features: 16 hexadecimal digits of a SHA-256 over all of this."""
        text = json.dumps({"format": FORMAT, **asdict(self)}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def views_in(self, split: str) -> int:
        """Views of a tile of that split; validation has one, without augmentation."""
        return self.views if split == "train" else 1

    def blocks(self, tile_bytes: int) -> tuple[FeatureBlock, ...]:
        """Cut both splits into what is computed at a time, whoever computes it.

        Args:
            tile_bytes: bytes of a decoded tile.
        """
        found = []
        for split, tiles in zip(SPLITS, self.tiles, strict=True):
            # At least 16 blocks, so that several actors and interruptions find pieces of work.
            most = min(BLOCK_TILES, BLOCK_BYTES // max(1, tile_bytes), -(-tiles // 16))
            step = FEWEST if FLAT in self.poolings else max(FEWEST, most)
            for number, start in enumerate(range(0, tiles, step)):
                found.append(FeatureBlock(split, number, start, min(start + step, tiles)))
        return tuple(found)


@dataclass(frozen=True)
class FeatureBlock:
    """Tiles whose features are computed, and written to a file, together."""

    split: str
    """`train` or `val`."""
    number: int
    """0 for the split's first."""
    start: int
    """First row of the split."""
    stop: int
    """One past the last."""

    @property
    def file(self) -> str:
        """Its file."""
        return f"{self.split}-{self.number:05d}.parquet"

    def __len__(self) -> int:
        return self.stop - self.start


def missing(blocks: Sequence[FeatureBlock], files: Collection[str]) -> tuple[FeatureBlock, ...]:
    """The blocks that are still to be computed.

    Args:
        blocks: all of them.
        files: names of the files that there are; each was written in one step.
    """
    there = {name for name in files if _FILE.fullmatch(name)}
    return tuple(block for block in blocks if block.file not in there)


def feature_spec(setup: Setup, weights: str) -> FeatureSpec:
    """What features a run's heads can be trained from.

    Args:
        setup: the run, resolved and measured (mean and deviation are known).
        weights: digest of the towers' first weights.

    Raises:
        ValueError: mean and deviation are not measured yet.
    """
    if not setup.mean:
        raise ValueError("mean and deviation are not measured yet: training.measure.complete")
    recipe, values = setup.recipe, setup.radiometry
    shape = setup.index.meta.tile_shape
    random = draws(recipe.augment, recipe.input, shape)
    linear = setup.variant.head == "linear"
    return FeatureSpec(
        towers=tuple((t.name, t.backbone, t.bands) for t in setup.variant.towers),
        weights=weights,
        index=setup.digest,
        tiles=(setup.train_tiles, setup.val_tiles),
        bands=setup.bands,
        size=recipe.input.size,
        resize=recipe.input.resize,
        evaluate=recipe.input.evaluate,
        radiometry=(values.name, values.low, values.high),
        mean=setup.mean,
        std=setup.std,
        augment=_effective(recipe.augment),
        seed=recipe.seed if random else None,
        views=views_of(recipe, shape),
        poolings=POOLINGS if linear else (FLAT,),
        precision=recipe.precision,
        versions=(__version__, *map(version, LIBRARIES)),
    )


def pooling_of(variant: VariantOptions) -> str:
    """The pooling whose columns a variant's head sees."""
    return variant.pooling if variant.head == "linear" else FLAT


def views_of(recipe: TrainRecipe, tile_shape: tuple[int, int]) -> int:
    """Draws of augmentation a tile: the recipe's; where it has none, 8, or 1 if nothing is drawn.

    A recipe without `augment.views` draws anew in every pseudo-epoch: its heads are trained from
    features only when it is given this number of views (`with_views`).

    Args:
        recipe: of a trial.
        tile_shape: height and width of the index's tiles, px.
    """
    if not draws(recipe.augment, recipe.input, tile_shape):
        return 1
    return recipe.augment.views or VIEWS


def with_views(recipe: TrainRecipe, tile_shape: tuple[int, int]) -> TrainRecipe:
    """The recipe with the number of views that it is trained with from features."""
    views = views_of(recipe, tile_shape)
    augment = recipe.augment.model_copy(update={"views": views})
    return recipe.model_copy(update={"augment": augment})


def draws(augment: AugmentOptions, given: InputOptions, tile_shape: tuple[int, int]) -> bool:
    """Whether augmentation draws anything that changes a tile of that shape (px).

    Mixup is no part of it: it blends what has been drawn.
    """
    if augment.flips != "none" or augment.brightness > 0 or augment.contrast > 0:
        return True
    if augment.crop == "resized":
        return True
    height, width = tile_shape
    short = given.resize or given.size
    return augment.crop == "random" and (short > given.size or height != width)


def head_only(recipe: TrainRecipe) -> str | None:
    """None where a recipe's head can be trained from features; else why not, in one line.

    It can where every stage trains the head alone, so that the towers stay as they start, and
    where the head sees a fixed set of features: nothing blends inputs (mixup), validation tiles
    are always the same (`input.evaluate_flip`), and no snapshots are combined at the end. A moving
    average of the weights, dropout, class-aware sampling and any loss, optimiser and schedule are
    fine, and so is a dense head, whose features are whole maps.

    Args:
        recipe: of `train`.
    """
    for number, stage in enumerate(recipe.stages):
        if stage.trainable != "head":
            return f"stages.{number}.trainable={stage.trainable} trains more than the head"
    if recipe.augment.mixup > 0:
        return f"augment.mixup={recipe.augment.mixup:g} blends tiles before the backbone"
    if recipe.input.evaluate_flip:
        return "input.evaluate_flip=true draws validation tiles anew"
    if recipe.average.snapshots != "none":
        return f"average.snapshots={recipe.average.snapshots} combines whole networks"
    return None


def _effective(augment: AugmentOptions) -> tuple[tuple[str, Any], ...]:
    """Keys that change a view, sorted; those of `crop=resized` only with it."""
    kept = {
        "flips": augment.flips,
        "crop": augment.crop,
        "brightness": augment.brightness,
        "contrast": augment.contrast,
    }
    if augment.crop == "resized":
        kept |= {"scale": augment.scale, "ratio": augment.ratio}
    return tuple(sorted(kept.items()))
