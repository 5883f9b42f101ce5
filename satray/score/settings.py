"""Which maps a recipe asks for, and which towers a logit divides into."""

from typing import TYPE_CHECKING

from satray.config.score import ScoreRecipe
from satray.errors import InputError
from satray.score.results import MapRequest

if TYPE_CHECKING:  # it imports torch
    from satray.models.spec import BundleSpec


D4_SAID = "symmetries: eight forward passes a tile, one for each flip and transpose"
"""What `--plan` tells of `symmetries: d4`."""


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
    places = class_places(names, spec, "cam.classes")
    if kind == "both" or (kind is None and scenes and pooling == "max"):
        return MapRequest(places, ("dense", "argmax"))
    return MapRequest(places, (kind or "dense",))


def towers_with_shares(spec: "BundleSpec") -> tuple[str, ...]:
    """Towers that a logit divides into; none under a dense head, which mixes them."""
    towers = tuple(tower.name for tower in spec.variant.towers)
    return towers if spec.variant.head == "linear" else ()


def class_places(names: tuple[str, ...], spec: "BundleSpec", key: str) -> tuple[int, ...]:
    """Places of classes in the bundle's list; of every one for `all`.

    Args:
        names: as the recipe gives them.
        spec: the bundle's.
        key: theirs in the recipe, for messages.

    Raises:
        InputError: a class that the bundle lacks.
    """
    if names == ("all",) and "all" not in spec.classes:
        names = spec.classes
    absent = [name for name in names if name not in spec.classes]
    if absent:
        raise InputError(
            f"{key}: no {', '.join(absent)} in the bundle; accepted: all, {', '.join(spec.classes)}"
        )
    return tuple(dict.fromkeys(spec.classes.index(name) for name in names))
