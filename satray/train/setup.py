"""From a recipe and a tile index to everything that a training run is about. No Ray, no torch."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, cast

import numpy as np

from satray.config.base import idle_keys
from satray.config.prepare import Task
from satray.config.train import NormalizeOptions, TrainRecipe, VariantOptions
from satray.data.index import (
    BandStatistics,
    IndexMeta,
    TileIndex,
    check_unchanged,
    read_index,
)
from satray.data.read import TileSource, tile_source
from satray.errors import InputError
from satray.models.pretrained import fetch, is_word, published, refuse_unreachable, sources_of
from satray.models.radiometry import Radiometry
from satray.models.spec import SPEC
from satray.models.variant import RGB, check_bands, input_bands, resolve
from satray.runs.run import Run, digest_file
from satray.storage import Storage, join, parent
from satray.train.imbalance import label_notes, loss_name
from satray.train.plan import TrainingPlan, plan_training

if TYPE_CHECKING:
    from satray.models.network import Network
    from satray.models.preprocess import Preprocess

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Of `RGB` in 0..1, as torchvision's and most of timm's weights want them."""

LOW, HIGH = "2", "98"
"""Percentiles of the index between which `percentile` stretches."""

Numbers = tuple[float, ...]
Wanted = tuple[str, str]
"""Weights: a file and nothing, or a word and the backbone that it is said of."""


@dataclass(frozen=True)
class Setup:
    """A training run, resolved."""

    recipe: TrainRecipe
    """As given, with its stages."""
    index: TileIndex
    """The whole index."""
    variant: VariantOptions
    """Towers, pooling, head."""
    weights: dict[str, str]
    """What each tower starts from: `none`, a word for published weights, or a file."""
    bands: tuple[str, ...]
    """Bands read, in the network's order: the variant's, and what the radiometry needs besides."""
    radiometry: Radiometry
    """How stored pixels become values."""
    mean: tuple[float, ...]
    """Of each band's values after the radiometry."""
    std: tuple[float, ...]
    """Of each band's values; as `mean`."""
    plan: TrainingPlan
    """Steps, stages, evaluations."""
    train_tiles: int
    """Tiles in the train split."""
    val_tiles: int
    """Tiles in the validation split."""
    best: str
    """Validation metric that picks the bundle: map, accuracy, loss or auc."""
    notes: tuple[str, ...] = ()
    """What labels cannot teach or show, keys without effect; one line each."""
    digests: dict[str, str] = field(default_factory=dict)
    """Digest of the index (`index`) and of each tower's weights (`weights.TOWER`), if looked up."""

    @property
    def task(self) -> Task:
        """`binary`, `multilabel` or `multiclass`."""
        return cast(Task, self.index.meta.task)

    def source(self, split: str, storage: Storage) -> TileSource:
        """The tiles of a split, with the bands that are read."""
        return tile_source(self.index, split, self.bands, storage, self.recipe.cache)

    def preprocess(self) -> "Preprocess":
        """From stored pixels to the network's input."""
        from satray.models.preprocess import Preprocess

        wanted = self.recipe.input
        size = (wanted.size, wanted.resize, wanted.evaluate)
        return Preprocess(self.bands, self.mean, self.std, *size, self.radiometry)

    def network(self) -> "Network":
        """A network with fresh random weights.

        Raises:
            InputError: `drop_path` for a backbone that has none.
        """
        from satray.models.network import Network

        return Network(
            self.variant,
            len(self.index.meta.classes),
            bands=self.bands,
            dropout=self.recipe.dropout,
            drop_path=self.recipe.drop_path,
            size=self.recipe.input.size if self.variant.head == "dense" else None,
        )

    def without_table(self) -> "Setup":
        """The same without the index's rows, to travel to workers."""
        return replace(self, index=replace(self.index, table=self.index.table.schema.empty_table()))

    @property
    def variant_name(self) -> str:
        """The variant in a word or two."""
        given = self.recipe.variant
        return given if isinstance(given, str) else " + ".join(t.name for t in given.towers)

    @property
    def lines(self) -> list[str]:
        """Index and variant, in a few lines."""
        meta = self.index.meta
        towers = "; ".join(
            f"{tower.name}: {tower.backbone} on {', '.join(tower.bands)}"
            for tower in self.variant.towers
        )
        height, width = meta.tile_shape
        stored = sum(self.index.table.column("bytes").to_pylist())
        lines = [
            f"index: {self.train_tiles:,} train and {self.val_tiles:,} validation tiles, "
            f"{height} x {width} px, {len(meta.bands)} bands {meta.dtype}, {meta.task}, "
            f"{len(meta.classes)} classes, {stored / 1e6:,.0f} MB stored",
            f"variant: {towers}; pooling {self.variant.pooling}",
        ]
        if self.radiometry.name != "stored":
            shown = ", ".join(
                f"{band} {mean:.4g} ({std:.4g})"
                for band, mean, std in zip(self.bands, self.mean, self.std, strict=True)
            )
            lines.append(f"values: {self.radiometry.name}; mean (deviation) {shown}")
        return lines


def set_up(recipe: TrainRecipe, storage: Storage, index: TileIndex | None = None) -> Setup:
    """Resolve a recipe against its index.

    Args:
        recipe: what to train.
        storage: how URIs are reached.
        index: the recipe's; None: it is read.

    Raises:
        InputError: no such index, split or band, a batch that does not fit, keys that contradict
            each other.
    """
    index = read_index(recipe.index, storage) if index is None else index
    meta, counts = index.meta, index.split_counts
    variant = resolve(recipe.variant, recipe.pooling)
    check_bands(variant, meta.bands)
    weights = sources_of(recipe.weights, variant)
    given = recipe.weights
    wanted = dict.fromkeys(weights, given) if isinstance(given, str) else given
    loss_name(recipe.loss, meta.task)
    best = best_metric(recipe.best, meta.task)
    labels, val_labels = index.part("train").labels, index.part("val").labels
    values = _radiometry(recipe, input_bands(variant), meta)
    mean, std = _normalisation(recipe, variant, weights, values, meta, storage)
    setup = Setup(
        recipe=recipe,
        index=index,
        variant=variant,
        weights=weights,
        bands=values.reads(input_bands(variant)),
        radiometry=values,
        mean=mean,
        std=std,
        plan=plan_training(recipe, counts["train"], recipe.resources.workers),
        train_tiles=counts["train"],
        val_tiles=counts["val"],
        best=best,
    )
    untaught = (
        f"tower {tower.name}: nobody has published weights of {tower.backbone}; it trains from "
        "scratch (weights=none says so too)"
        for tower in variant.towers
        if weights[tower.name] == "none" and wanted.get(tower.name) == "pretrained"
    )
    constant = label_notes(labels, val_labels, meta.classes, best)
    return replace(setup, notes=(*constant, *untaught, *idle_keys(recipe)))


def read(recipe: TrainRecipe, storage: Storage) -> Setup:
    """Resolve a recipe against its index, with the digests of index and weights.

    Published weights are fetched here, once: the driver's first look at them.

    Raises:
        InputError: see `set_up`; or weights that are not there, or cannot be fetched.
    """
    index = read_index(recipe.index, storage)
    refuse_unreachable(recipe.weights, resolve(recipe.variant, recipe.pooling))
    setup = set_up(recipe, storage, index)
    return with_digests(setup, lambda wanted: weights_digest(wanted, storage))


def with_digests(setup: Setup, digest_of: Callable[[Wanted], str]) -> Setup:
    """The same with the digests of its index and of each tower's weights."""
    found = {"index": setup.index.digest}
    for tower, wanted in weights_wanted(setup.variant, setup.weights).items():
        found[f"weights.{tower}"] = digest_of(wanted)
    return replace(setup, digests=found)


def early(_: TrainRecipe, setup: Setup, run: Run) -> None:
    """Before Ray is started: refuse an archive that is not the one that was indexed."""
    for line in unchanged(setup, run.storage):
        run.say(line)


def unchanged(setup: Setup, storage: Storage) -> list[str]:
    """What `check_unchanged` says of a training's index; raises InputError."""
    recipe = setup.recipe
    return check_unchanged(setup.index, recipe.index, storage, recipe.error_budget)


def best_metric(best: str, task: str) -> str:
    """The validation metric that picks the bundle; `loss` is the one where less is better."""
    usual = "accuracy" if task == "multiclass" else "map"
    return usual if best == "auto" else best


def weights_wanted(variant: VariantOptions, weights: Mapping[str, str]) -> dict[str, Wanted]:
    """The weights of each tower that has any."""
    return {
        tower.name: (weights[tower.name], tower.backbone if is_word(weights[tower.name]) else "")
        for tower in variant.towers
        if weights[tower.name] != "none"
    }


def weights_digest(wanted: Wanted, storage: Storage) -> str:
    """SHA-256 of a file of weights, fetched where it is published."""
    source, backbone = wanted
    return digest_file(storage, str(fetch(backbone, source)) if backbone else source)


def _radiometry(recipe: TrainRecipe, bands: tuple[str, ...], meta: IndexMeta) -> Radiometry:
    """How stored pixels of the variant's bands become values.

    Raises:
        InputError: `percentile` where the index has none of a band; `pil_compat` where tiles are
            not 16-bit of four bands, nir last: PIL takes the fourth of such a file for alpha.
    """
    name = recipe.input.radiometry
    if name == "percentile":
        found = {band.name: band.percentiles for band in meta.statistics}
        for band in bands:
            if not all(math.isfinite(found[band].get(each, math.nan)) for each in (LOW, HIGH)):
                raise InputError(
                    f"input.radiometry=percentile: the index has no {LOW}nd and {HIGH}th "
                    f"percentile of band {band}; run prepare again"
                )
        low, high = (tuple(found[band][percent] for band in bands) for percent in (LOW, HIGH))
        return Radiometry("percentile", low, high)
    like_planet = meta.dtype == "uint16" and len(meta.bands) == 4 and meta.bands[3] == "nir"
    if name == "pil_compat" and not like_planet:
        raise InputError(
            f"input.radiometry=pil_compat: found {meta.dtype} tiles of {', '.join(meta.bands)}; "
            "accepted: uint16 tiles of four bands, nir last (what PIL takes for alpha); take "
            "percentile or stored"
        )
    return Radiometry(name)


def _normalisation(
    recipe: TrainRecipe,
    variant: VariantOptions,
    weights: Mapping[str, str],
    values: Radiometry,
    meta: IndexMeta,
    storage: Storage,
) -> tuple[Numbers, Numbers]:
    """Mean and standard deviation of each band read, of values after the radiometry.

    `auto` is `imagenet` where pixels are stored 8-bit red, green and blue and every tower starts
    from published weights (by name, or a file that is not of a satray bundle), else `statistics`.
    `statistics` are the index's, of `percentile` those of the stretched values (`_stretched`).

    Raises:
        InputError: numbers that are not one a band, or none for `pil_compat`, of whose values no
            index knows anything; `imagenet` where values are not those of 8-bit red, green and
            blue (or of `percentile`), or where the towers' weights want different ones.
    """
    bands, way, stored = input_bands(variant), recipe.input.normalize, values.name == "stored"
    if isinstance(way, NormalizeOptions):
        for name, numbers in (("mean", way.mean), ("std", way.std)):
            if len(numbers) != len(bands):
                raise InputError(
                    f"input.normalize.{name}: found {len(numbers)} numbers, accepted: "
                    f"{len(bands)}, one each of {', '.join(bands)}"
                )
        # Bands that only the radiometry looks at stay as they are.
        more = len(values.reads(bands)) - len(bands)
        return (*way.mean, *[0.0] * more), (*way.std, *[1.0] * more)
    colours = set(bands) <= set(RGB)
    eight_bit_rgb = stored and meta.dtype == "uint8" and colours
    if way == "auto":
        # A bundle's weights were trained on what its own model.json says.
        other = not eight_bit_rgb or any(
            source == "none" or storage.exists(join(parent(source), SPEC))
            for source in weights.values()
            if not is_word(source)
        )
        way = "statistics" if other else "imagenet"
    if way == "imagenet":
        if not eight_bit_rgb and not (values.name == "percentile" and colours):
            raise InputError(
                f"input.normalize=imagenet: found {meta.dtype} {', '.join(bands)} "
                f"({values.name}); accepted for uint8 red, green and blue, or with "
                "input.radiometry=percentile for red, green and blue; take statistics"
            )
        mean, std = _imagenet(variant, weights)
        full = 255 if stored else 1
        places = [RGB.index(band) for band in bands]
        return tuple(full * mean[i] for i in places), tuple(full * std[i] for i in places)
    if values.name == "pil_compat":
        raise InputError(
            f"input.normalize={way}: the index knows nothing of the values of "
            "input.radiometry=pil_compat; accepted: {mean, std}, numbers of such values, one each "
            f"of {', '.join(bands)}, as jobs/recipes/planet_double4_paper.yaml has them"
        )
    found = {band.name: band for band in meta.statistics}
    known = [found[band] for band in bands]
    if stored:
        return tuple(band.mean for band in known), tuple(band.std for band in known)
    mean, std = zip(*map(_stretched, known), strict=True)
    return mean, std


def _stretched(band: BandStatistics) -> tuple[float, float]:
    """Mean and deviation of a band's `percentile` values, 0 to 1.

    From the index's percentiles, between which values are taken to lie evenly: the mean and
    deviation of all stored values are of little use, since a few far ones rule them that are
    clipped here.
    """
    low, high = band.percentiles[LOW], band.percentiles[HIGH]
    places = sorted((float(percent), value) for percent, value in band.percentiles.items())
    share_P, stored_P = np.array(places).T
    within_P = (share_P >= float(LOW)) & (share_P <= float(HIGH))
    share_P, x_P = share_P[within_P] / 100, (stored_P[within_P] - low) / ((high - low) or 1.0)
    step_P, left_P, right_P = np.diff(share_P), x_P[:-1], x_P[1:]
    above = 1 - share_P[-1]  # which is clipped to 1, as what is below is to 0
    mean = step_P @ (left_P + right_P) / 2 + above
    square = step_P @ (left_P**2 + left_P * right_P + right_P**2) / 3 + above
    return float(mean), float(np.sqrt(square - mean**2))


def _imagenet(variant: VariantOptions, weights: Mapping[str, str]) -> tuple[Numbers, Numbers]:
    """What the towers' weights were trained with; of files, what the backbones' published were."""
    found: dict[tuple[Numbers, Numbers], str] = {}
    for tower in sorted(variant.towers, key=lambda tower: tower.backbone):
        source = weights[tower.name]
        entry = published(tower.backbone, source if is_word(source) else "pretrained")
        if entry is not None:
            found.setdefault((entry.mean, entry.std), tower.backbone)
    if len(found) > 1:
        one, other = list(found.values())[:2]
        raise InputError(
            f"input.normalize: the published weights of {one} and {other} want different means "
            "and standard deviations; take input.normalize=statistics, or one kind of tower"
        )
    return next(iter(found), (IMAGENET_MEAN, IMAGENET_STD))
