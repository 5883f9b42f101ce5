"""From a recipe and a tile index to everything that a training run is about. No Ray, no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, cast

from satray.config.base import idle_keys
from satray.config.train import FROM_SCRATCH, Facts, TrainRecipe, VariantOptions
from satray.data.index import TileIndex, check_unchanged, read_index
from satray.errors import InputError
from satray.models.pretrained import fetch, is_word, refuse_unreachable, sources_of
from satray.models.radiometry import Radiometry
from satray.models.variant import check_bands, input_bands, resolve
from satray.runs.run import Run, digest_file
from satray.storage import Storage
from satray.train.plan.imbalance import check_loss, label_notes, repeat_notes
from satray.train.plan.normalisation import normalisation, radiometry
from satray.train.plan.stages import TrainingPlan, plan_training

if TYPE_CHECKING:
    from satray.models.network import Network
    from satray.models.preprocess import Preprocess

Task = Literal["binary", "multilabel", "multiclass"]


@dataclass(frozen=True)
class Setup:
    """A training run, resolved."""

    recipe: TrainRecipe
    """As given, with its stages."""
    index: TileIndex
    """The whole index."""
    digest: str
    """SHA-256 of the index's files."""
    variant: VariantOptions
    """Towers, pooling, head."""
    sources: dict[str, str]
    """What each tower starts from: `none`, a word for published weights, or a file."""
    bands: tuple[str, ...]
    """Bands read, in the network's order: the variant's, and what the radiometry needs besides."""
    radiometry: Radiometry
    """How stored pixels become values."""
    mean: tuple[float, ...]
    """Of each band's values; empty until `training.measure.complete` has measured them."""
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
    """What labels cannot teach or show, what a pass holds, keys without effect; one line each."""
    digests: dict[str, str] = field(default_factory=dict)
    """Digest of the index and of each tower's weights, where `read` looked them up."""

    @property
    def task(self) -> Task:
        """`binary`, `multilabel` or `multiclass`."""
        return cast(Task, self.index.meta.task)

    @property
    def input_size(self) -> int | None:
        """Side of the input in px where the network takes no other (dense heads)."""
        return self.recipe.input.size if self.variant.head == "dense" else None

    def preprocess(self) -> "Preprocess":
        """From stored pixels to the network's input.

        Raises:
            ValueError: mean and deviation are not measured yet.
        """
        from satray.models.preprocess import Preprocess

        wanted = self.recipe.input
        if not self.mean:
            raise ValueError("mean and deviation are not measured yet: training.measure.complete")
        size = (wanted.size, wanted.resize, wanted.evaluate)
        return Preprocess(self.bands, self.mean, self.std, *size, self.radiometry)

    def network(self) -> "Network":
        """A network with fresh random weights."""
        from satray.models.network import Network

        return Network(
            self.variant,
            len(self.index.meta.classes),
            bands=self.bands,
            dropout=self.recipe.dropout,
            size=self.input_size,
        )

    def without_table(self) -> "Setup":
        """The same without the index's rows, to travel to workers."""
        return replace(self, index=TileIndex(self.index.table.slice(0, 0), self.index.meta))


@dataclass(frozen=True)
class Tiles:
    """An index, read once for many set-ups."""

    index: TileIndex
    """The whole index."""
    digest: str
    """SHA-256 of its files."""


def read_tiles(uri: str, storage: Storage) -> Tiles:
    """Read an index; raises InputError where there is none."""
    index = read_index(uri, storage)
    return Tiles(index, index.digest)


def set_up(recipe: TrainRecipe, storage: Storage, tiles: Tiles | None = None) -> Setup:
    """Resolve a recipe against its index.

    Args:
        recipe: what to train.
        storage: how URIs are reached.
        tiles: the recipe's index; None: it is read.

    Raises:
        InputError: no such index, split or band, a batch that does not fit, keys that contradict
            each other.
    """
    tiles = tiles or read_tiles(recipe.index, storage)
    index = tiles.index
    variant = resolve(recipe.variant, recipe.pooling)
    check_bands(variant, index.meta.bands)
    sources = sources_of(recipe.weights, variant)
    taught = set(sources.values()) != {"none"}
    if not taught and "stages" not in recipe.model_fields_set:
        recipe = recipe.model_copy(update={"stages": FROM_SCRATCH})
    values = radiometry(recipe.input.radiometry, input_bands(variant), index.meta)
    counts = index.split_counts
    for split in ("train", "val"):
        if split not in counts:
            index.part(split)  # says what splits there are
    if recipe.average.snapshots == "ensemble" and variant.head != "linear":
        raise InputError(
            "average.snapshots=ensemble: needs a linear head, found head=dense; accepted: none, "
            "swa, or a variant with head=linear"
        )
    if recipe.sync_batchnorm and recipe.resources.gpus == "no":
        raise InputError("sync_batchnorm=true: works on GPUs only; accepted: false on CPUs")
    check_loss(recipe.loss, index.meta.task)
    best = best_metric(recipe.best, index.meta.task)
    labels, classes = index.part("train").labels, index.meta.classes
    notes = label_notes(labels, index.part("val").labels, classes, best)
    notes += repeat_notes(labels, classes, recipe.repeat)
    notes += untaught_notes(recipe, variant, sources)
    facts = Facts(recipe, index.meta.task, variant.head == "linear", taught)
    notes += idle_keys(recipe, facts)
    mean, std = normalisation(recipe, variant, index.meta, storage)
    return Setup(
        recipe=recipe,
        index=index,
        digest=tiles.digest,
        variant=variant,
        sources=sources,
        bands=values.reads(input_bands(variant)),
        radiometry=values,
        mean=mean,
        std=std,
        plan=plan_training(recipe, counts["train"], recipe.resources.workers),
        train_tiles=counts["train"],
        val_tiles=counts["val"],
        best=best,
        notes=notes,
    )


def read(recipe: TrainRecipe, storage: Storage) -> Setup:
    """Resolve a recipe against its index, with the digests of index and weights.

    Published weights are fetched here, once: the driver's first look at them.

    Raises:
        InputError: see `set_up`; or weights that are not there, or cannot be fetched.
    """
    tiles = read_tiles(recipe.index, storage)
    look_up(recipe)
    setup = set_up(recipe, storage, tiles)
    found = {"index": setup.digest}
    for tower, wanted in weights_wanted(setup.variant, setup.sources).items():
        found[f"weights.{tower}"] = weights_digest(wanted, storage)
    return replace(setup, digests=found)


def early(recipe: TrainRecipe, setup: Setup, run: Run) -> None:
    """Before Ray is started: refuse an archive that is not the one that was indexed."""
    del recipe
    for line in unchanged(setup, run.storage):
        run.say(line)


def unchanged(setup: Setup, storage: Storage) -> list[str]:
    """What `check_unchanged` says of a training's index; raises InputError."""
    recipe = setup.recipe
    return check_unchanged(setup.index, recipe.index, storage, recipe.error_budget)


def look_up(recipe: TrainRecipe) -> None:
    """Refuse published weights that cannot be had, before anything takes time.

    Raises:
        InputError: they are not cached, and the hub does not answer.
    """
    given = recipe.weights
    towers = resolve(recipe.variant, recipe.pooling).towers
    words = {t.backbone: given if isinstance(given, str) else given.get(t.name, "") for t in towers}
    refuse_unreachable({backbone: word for backbone, word in words.items() if is_word(word)})


def best_metric(best: str, task: str) -> str:
    """The validation metric that picks the bundle; `loss` is the one where less is better."""
    if best == "auto":
        return "accuracy" if task == "multiclass" else "map"
    return best


Wanted = tuple[str, str]
"""Weights: a file and nothing, or a word and the backbone that it is said of."""


def weights_wanted(variant: VariantOptions, sources: Mapping[str, str]) -> dict[str, Wanted]:
    """The weights of each tower that has any."""
    backbones = {tower.name: tower.backbone for tower in variant.towers}
    return {
        tower: (source, backbones[tower] if is_word(source) else "")
        for tower, source in sources.items()
        if source != "none"
    }


def weights_digest(wanted: Wanted, storage: Storage) -> str:
    """SHA-256 of a file of weights, fetched where it is published."""
    source, backbone = wanted
    return digest_file(storage, str(fetch(backbone, source)) if backbone else source)


def untaught_notes(
    recipe: TrainRecipe, variant: VariantOptions, sources: Mapping[str, str]
) -> tuple[str, ...]:
    """A line for each tower that starts from nothing though weights were asked for."""
    given = recipe.weights
    return tuple(
        f"tower {tower.name}: nobody has published weights of {tower.backbone}; it trains from "
        "scratch (weights=none says so too)"
        for tower in variant.towers
        if sources[tower.name] == "none"
        and (given if isinstance(given, str) else given.get(tower.name)) == "pretrained"
    )
