"""What of a recipe shapes maps and scenes' products; small, and travels to the actors."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from satray.config.score import ScoreRecipe
from satray.data.values import as_units
from satray.errors import InputError
from satray.score.products.catalogue import time_pattern
from satray.score.results import MapRequest
from satray.score.scenes.open import Conversion

if TYPE_CHECKING:  # it imports torch
    from satray.models.spec import BundleSpec


D4_SAID = "symmetries: eight forward passes a tile, one for each flip and transpose"
"""What `--plan` tells of `symmetries: d4`."""


@dataclass(frozen=True)
class Settings:
    """How scenes are scored, and what is made of them."""

    recipe: ScoreRecipe
    """As asked for."""
    step: int
    """Net px from tile to tile."""
    maps: MapRequest
    """Maps that are written."""
    detections: bool
    """Whether peaks are written."""
    sought: tuple[int, ...]
    """Places of the classes whose peaks are written, and of which the picture shows one."""
    within_tiles: bool
    """Whether peaks count only in tiles that are given the class."""
    distance: float
    """Least distance of two detections of a class, net px."""
    conversion: Conversion
    """What makes other numbers the bundle's."""

    @property
    def d4(self) -> bool:
        """Whether all is averaged over the eight symmetries."""
        return self.recipe.symmetries == "d4"

    def computed(self, spec: "BundleSpec") -> MapRequest:
        """Maps that the network is asked for.

        Peaks are looked for in the dense maps of all classes, and a softmax at a cell is over all.
        """
        classes, kinds = self.maps.classes, self.maps.kinds
        if self.detections or (classes and spec.task == "multiclass"):
            classes = tuple(range(len(spec.classes)))
        if self.detections:
            kinds = ("dense", *(kind for kind in kinds if kind != "dense"))
        return MapRequest(classes, kinds)


def settings_of(recipe: ScoreRecipe, spec: "BundleSpec") -> Settings:
    """Settings of a recipe for a bundle.

    Raises:
        InputError: as `maps_of`; a pattern that is no regular expression, a conversion that does
            not fit the bundle's bands.
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
    maps, found = maps_of(recipe, spec), recipe.detections
    sought = maps.classes or tuple(range(len(spec.classes)))
    if found.classes is not None:
        sought = _places(found.classes, spec, "detections.classes")
    within = "tiles" if spec.variant.pooling == "max" else "scene"
    return Settings(
        recipe,
        step=max(1, round(recipe.stride * spec.size)),
        maps=maps,
        detections=found.write and spec.variant.head == "linear",
        sought=sought,
        within_tiles=(within if found.within == "auto" else found.within) == "tiles",
        distance=found.distance * spec.size,
        conversion=conversion,
    )


def maps_of(recipe: ScoreRecipe, spec: "BundleSpec") -> MapRequest:
    """Maps that a recipe asks for.

    By default none of tiles; of scenes those of every class, of both kinds where the bundle pools
    by maximum.

    Raises:
        InputError: a class that the bundle lacks; a network with a dense head; argmax maps of a
            pooling that takes no maximum.
    """
    names, kind, pooling = recipe.cam.classes, recipe.cam.kind, spec.variant.pooling
    scenes = recipe.scenes is not None
    if spec.variant.head == "dense":
        if names:
            raise InputError(
                "cam.classes: this bundle's dense head mixes all cells before it decides, so it "
                "has no class activation maps; accepted: none, or a bundle with head=linear"
            )
        return MapRequest()
    if kind in ("argmax", "both") and pooling != "max":
        raise InputError(
            f"cam.kind={kind}: this bundle pools with {pooling}; accepted: dense (argmax shows "
            "what a maximum pooling used)"
        )
    if names is None:
        names = spec.classes if scenes else ()
    places = _places(names, spec, "cam.classes")
    if kind == "both" or (kind is None and scenes and pooling == "max"):
        return MapRequest(places, ("dense", "argmax"))
    return MapRequest(places, (kind or "dense",))


def towers_with_shares(spec: "BundleSpec") -> tuple[str, ...]:
    """Towers that a logit divides into; none under a dense head, which mixes them."""
    towers = tuple(tower.name for tower in spec.variant.towers)
    return towers if spec.variant.head == "linear" else ()


def _places(names: tuple[str, ...], spec: "BundleSpec", key: str) -> tuple[int, ...]:
    if names == ("all",) and "all" not in spec.classes:
        names = spec.classes
    absent = [name for name in names if name not in spec.classes]
    if absent:
        raise InputError(
            f"{key}: no {', '.join(absent)} in the bundle; accepted: all, {', '.join(spec.classes)}"
        )
    return tuple(dict.fromkeys(spec.classes.index(name) for name in names))
