"""From a recipe and a tile index to everything that a training run is about. No Ray, no torch."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, cast

from satray.config.model import VariantOptions
from satray.config.train import TrainRecipe
from satray.errors import InputError
from satray.models.variant import check_bands, input_bands, resolve
from satray.storage import Storage, join, parent
from satray.tiles.index import IndexMeta, TileIndex, index_digest, read_index
from satray.training.stages import TrainingPlan, plan_training

if TYPE_CHECKING:
    from satray.models.network import Network
    from satray.models.preprocess import Preprocess

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Of red, green and blue in 0..1, as torchvision's and most of timm's weights want them."""

Task = Literal["binary", "multilabel", "multiclass"]


@dataclass(frozen=True)
class Setup:
    """A training run, resolved."""

    recipe: TrainRecipe
    """As given."""
    index: TileIndex
    """The whole index."""
    digest: str
    """SHA-256 of the index's files."""
    variant: VariantOptions
    """Towers, pooling, head."""
    bands: tuple[str, ...]
    """Input bands, in the network's order."""
    mean: tuple[float, ...]
    """Of each band, in stored units."""
    std: tuple[float, ...]
    """Of each band, in stored units."""
    plan: TrainingPlan
    """Steps, stages, evaluations."""
    train_tiles: int
    """Tiles in the train split."""
    val_tiles: int
    """Tiles in the validation split."""
    best: str
    """Validation metric that picks the bundle: map, accuracy, loss or auc."""

    @property
    def task(self) -> Task:
        """`binary`, `multilabel` or `multiclass`."""
        return cast(Task, self.index.meta.task)

    @property
    def input_size(self) -> int | None:
        """Side of the input in px where the network takes no other (dense heads)."""
        return self.recipe.input.size if self.variant.head == "dense" else None

    def preprocess(self) -> "Preprocess":
        """From stored pixels to the network's input."""
        from satray.models.preprocess import Preprocess

        wanted = self.recipe.input
        return Preprocess(
            self.bands, self.mean, self.std, wanted.size, wanted.resize, wanted.evaluate
        )

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


def set_up(recipe: TrainRecipe, storage: Storage) -> Setup:
    """Resolve a recipe against its index.

    Raises:
        InputError: no such index, split or band, a batch that does not fit, keys that contradict
            each other.
    """
    index = read_index(recipe.index, storage)
    variant = resolve(recipe.variant, recipe.pooling)
    check_bands(variant, index.meta.bands)
    bands = input_bands(variant)
    counts = index.split_counts
    for split in ("train", "val"):
        if split not in counts:
            index.part(split)  # says what splits there are
    if recipe.sync_batchnorm and recipe.resources.gpus == "no":
        raise InputError("sync_batchnorm=true: works on GPUs only; accepted: false on CPUs")
    mean, std = normalisation(recipe, variant, bands, index.meta, storage)
    return Setup(
        recipe=recipe,
        index=index,
        digest=index_digest(recipe.index, storage),
        variant=variant,
        bands=bands,
        mean=mean,
        std=std,
        plan=plan_training(recipe, counts["train"], recipe.resources.workers),
        train_tiles=counts["train"],
        val_tiles=counts["val"],
        best=best_metric(recipe.best, index.meta.task),
    )


def best_metric(best: str, task: str) -> str:
    """The validation metric that picks the bundle; `loss` is the one where less is better."""
    if best == "auto":
        return "accuracy" if task == "multiclass" else "map"
    return best


def weight_files(recipe: TrainRecipe) -> dict[str, str]:
    """The weights that are files, by tower name (`*` for all towers)."""
    given = recipe.weights if isinstance(recipe.weights, dict) else {"*": recipe.weights}
    return {tower: uri for tower, uri in given.items() if uri not in ("none", "imagenet")}


def normalisation(
    recipe: TrainRecipe,
    variant: VariantOptions,
    bands: tuple[str, ...],
    meta: IndexMeta,
    storage: Storage,
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each input band, in stored units.

    `auto` is `imagenet` where pixels are 8-bit red, green and blue and every tower starts from
    published weights (by name, or a file that is not of a satray bundle), else `statistics`.

    Raises:
        InputError: `imagenet` where pixels are not 8-bit red, green and blue, or where the towers'
            weights want different ones; or the index has no statistics of a band.
    """
    eight_bit_rgb = meta.dtype == "uint8" and set(bands) <= {"red", "green", "blue"}
    way = recipe.input.normalize
    if way == "auto":
        published = eight_bit_rgb and _published(recipe, variant, storage)
        way = "imagenet" if published else "statistics"
    if way == "imagenet":
        if not eight_bit_rgb:
            raise InputError(
                f"input.normalize=imagenet: found {meta.dtype} {', '.join(bands)}; accepted for "
                "uint8 red, green and blue only; take statistics"
            )
        mean, std = _imagenet(variant)
        places = [("red", "green", "blue").index(band) for band in bands]
        return tuple(255 * mean[i] for i in places), tuple(255 * std[i] for i in places)
    found = {band.name: band for band in meta.statistics}
    absent = [band for band in bands if band not in found]
    if absent:
        raise InputError(f"index: no statistics of band {absent[0]}; run prepare again")
    return tuple(found[b].mean for b in bands), tuple(found[b].std for b in bands)


def _published(recipe: TrainRecipe, variant: VariantOptions, storage: Storage) -> bool:
    """Whether every tower has pretrained weights, none of them a satray bundle's."""
    given = recipe.weights
    sources = {
        given.get(tower.name, "none") if isinstance(given, dict) else given
        for tower in variant.towers
    }
    if "none" in sources:
        return False
    # A bundle's weights were trained on what its own model.json says.
    return not any(storage.exists(join(parent(s), "model.json")) for s in sources - {"imagenet"})


def _imagenet(variant: VariantOptions) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """What the backbones' published weights were trained with."""
    names = {tower.backbone for tower in variant.towers} - {"simple_cnn"}
    if not names:
        return IMAGENET_MEAN, IMAGENET_STD
    import timm  # seconds: only where it is needed

    found: dict[tuple[tuple[float, ...], tuple[float, ...]], str] = {}
    for name in sorted(names):
        published = timm.models.get_pretrained_cfg(name, allow_unregistered=True)
        if published is not None:
            found.setdefault((tuple(published.mean), tuple(published.std)), name)
    if len(found) > 1:
        one, other = list(found.values())[:2]
        raise InputError(
            f"input.normalize: the published weights of {one} and {other} want different means "
            "and standard deviations; take input.normalize=statistics, or one kind of tower"
        )
    return next(iter(found), (IMAGENET_MEAN, IMAGENET_STD))
