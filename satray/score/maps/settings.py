"""What of a recipe shapes a scene's products; small, and travels to the actors."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from satray.config.score import ScoreRecipe
from satray.data.raster import PagesKey
from satray.data.values import as_units
from satray.errors import InputError
from satray.score.products.moment import time_pattern
from satray.score.results import CamKind, Wanted
from satray.score.scenes.grid import Gsd
from satray.score.scenes.open import Conversion, Names

if TYPE_CHECKING:  # it imports torch
    from satray.models.spec import BundleSpec


@dataclass(frozen=True)
class Settings:
    """How scenes are scored, and what is made of them."""

    mode: Literal["auto", "dense", "tiles"]
    """As asked for."""
    step: int
    """Net px from tile to tile."""
    window: int
    """Longest side of a window, net px."""
    min_valid: float
    """Share of a tile's px with data, below which it has no scores."""
    classes: tuple[int, ...]
    """Places of the classes whose maps are written."""
    kinds: tuple[CamKind, ...]
    """Maps that are written; none without classes."""
    detections: bool
    """Whether peaks are written."""
    sought: tuple[int, ...]
    """Places of the classes whose peaks are written, and of which the picture shows one."""
    within_tiles: bool
    """Whether peaks count only in tiles that are given the class."""
    distance: float
    """Least distance of two detections of a class, net px."""
    d4: bool
    """Whether all is averaged over the eight symmetries."""
    batch: int
    """Tiles a forward, where they are scored one by one."""
    gsd: Gsd
    """Ground that a stored px of the bundle has."""
    names: Names
    """What the recipe says of the scenes' bands."""
    pages: PagesKey
    """Which pages of a TIFF are bands."""
    conversion: Conversion
    """What makes other numbers the bundle's."""
    drift: Literal["off", "warn", "refuse"]
    """What is done about values unlike the training's."""
    drift_limit: float
    """From which drift on."""
    pattern: str | None
    """Regular expression of times in names."""

    def wanted(self, spec: "BundleSpec") -> Wanted:
        """What a scorer of a bundle is to give.

        Peaks are looked for in the dense maps of all classes, and a softmax at a cell is over all.
        """
        kinds, classes = self.kinds, self.classes
        if self.detections or (classes and spec.task == "multiclass"):
            classes = tuple(range(len(spec.classes)))
        if self.detections:
            kinds = ("dense", *(kind for kind in kinds if kind != "dense"))
        return Wanted(classes, kinds if classes else (), self.min_valid)


def settings_of(recipe: ScoreRecipe, spec: "BundleSpec") -> Settings:
    """Settings of a recipe for a bundle.

    Raises:
        InputError: maps that its network cannot give, a class that it lacks, a pattern that is no
            regular expression, a conversion that does not fit its bands.
    """
    if recipe.datetime is not None:
        time_pattern(recipe.datetime)
    scale, offset = (v if isinstance(v, tuple) else (v,) for v in (recipe.scale, recipe.offset))
    conversion = Conversion(recipe.convert, scale, offset, as_units(spec.units))
    conversion.check(spec.bands)
    if isinstance(recipe.bands, dict):
        strange = sorted(set(recipe.bands) - set(spec.bands))
        if strange:
            raise InputError(
                f"bands.{strange[0]}: the bundle has no such band; accepted: "
                f"{', '.join(spec.bands)}"
            )
    classes, kinds = _maps(recipe, spec)
    return Settings(
        mode=recipe.mode,
        step=max(1, round(recipe.stride * spec.size)),
        window=recipe.window,
        min_valid=recipe.min_valid,
        classes=classes,
        kinds=kinds,
        detections=recipe.detections.write and spec.variant.head == "linear",
        sought=_sought(recipe, spec, classes),
        within_tiles=_within_tiles(recipe, spec),
        distance=recipe.detections.distance * spec.size,
        d4=recipe.symmetries == "d4",
        batch=recipe.batch,
        gsd=recipe.gsd,
        names=recipe.bands,
        pages=recipe.pages,
        conversion=conversion,
        drift=recipe.drift,
        drift_limit=recipe.drift_limit,
        pattern=recipe.datetime,
    )


def _maps(recipe: ScoreRecipe, spec: "BundleSpec") -> tuple[tuple[int, ...], tuple[CamKind, ...]]:
    names, kind, pooling = recipe.cam.classes, recipe.cam.kind, spec.variant.pooling
    if spec.variant.head == "dense":
        if names:
            raise InputError(
                "cam.classes: this bundle's dense head mixes all cells before it decides, so it "
                "has no class activation maps; accepted: none, or a bundle with head=linear"
            )
        return (), ()
    if kind in ("argmax", "both") and pooling != "max":
        raise InputError(
            f"cam.kind={kind}: this bundle pools with {pooling}; accepted: dense (argmax shows "
            "what a maximum pooling used)"
        )
    if names is None or (names == ("all",) and "all" not in spec.classes):
        names = spec.classes
    places = _places(names, spec, "cam.classes")
    if not places:
        return (), ()
    if kind is None:
        kind = "both" if pooling == "max" else "dense"
    return places, ("dense", "argmax") if kind == "both" else (kind,)


def _within_tiles(recipe: ScoreRecipe, spec: "BundleSpec") -> bool:
    within = recipe.detections.within
    return spec.variant.pooling == "max" if within == "auto" else within == "tiles"


def _sought(recipe: ScoreRecipe, spec: "BundleSpec", mapped: tuple[int, ...]) -> tuple[int, ...]:
    names, every = recipe.detections.classes, tuple(range(len(spec.classes)))
    if names is None:
        return mapped or every
    if names == ("all",) and "all" not in spec.classes:
        return every
    return _places(names, spec, "detections.classes")


def _places(names: tuple[str, ...], spec: "BundleSpec", key: str) -> tuple[int, ...]:
    absent = [name for name in names if name not in spec.classes]
    if absent:
        raise InputError(
            f"{key}: no {', '.join(absent)} in the bundle; accepted: all, {', '.join(spec.classes)}"
        )
    return tuple(dict.fromkeys(spec.classes.index(name) for name in names))
