"""The built-in variants, each a few declared lines, and what bands a variant looks at."""

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Literal

from satray.config.train import Pooling, TowerOptions, VariantOptions
from satray.errors import InputError

RGB = ("red", "green", "blue")


def _one(
    backbone: str,
    bands: tuple[str, ...] = RGB,
    pooling: Pooling = "max",
    head: Literal["linear", "dense"] = "linear",
) -> VariantOptions:
    tower = TowerOptions(name="rgb" if bands == RGB else "all", backbone=backbone, bands=bands)
    return VariantOptions(towers=(tower,), pooling=pooling, head=head)


# Pooling: the Planet report averages (its ResNet-18s as they come); the ship post prefers maxima.
BUILT_IN: dict[str, VariantOptions] = {
    "single3": _one("resnet18", pooling="avg"),
    "single4": _one("resnet18", (*RGB, "nir"), pooling="avg"),
    "double4": VariantOptions(
        towers=(
            TowerOptions(name="rgb", backbone="resnet18", bands=RGB),
            TowerOptions(name="nir", backbone="resnet18", bands=("nir", "nir", "nir")),
        ),
        pooling="avg",
    ),
    "mobilenet_v2": _one("mobilenetv2_100"),
    "xception": _one("legacy_xception"),
    "resnet50_v2": _one("resnetv2_50"),
    "inception_v3": _one("inception_v3"),
    "simple_cnn": _one("simple_cnn"),
    "simple_cnn_dense": _one("simple_cnn", head="dense"),
}


def resolve(variant: str | VariantOptions, pooling: Pooling | None = None) -> VariantOptions:
    """The variant that a recipe means.

    Args:
        variant: a built-in name, or a declared variant.
        pooling: takes the place of the variant's own where given.

    Raises:
        InputError: the name is not known; the message names the nearest and all there are.
    """
    if isinstance(variant, str):
        found = BUILT_IN.get(variant)
        if found is None:
            near = get_close_matches(variant, BUILT_IN, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise InputError(
                f"variant={variant!r} is not known; {hint}accepted: {', '.join(BUILT_IN)}, "
                "or {towers, pooling, head}"
            )
        variant = found
    return variant if pooling is None else variant.model_copy(update={"pooling": pooling})


def input_bands(variant: VariantOptions) -> tuple[str, ...]:
    """The bands that the network takes as input channels: unique, in first-seen order."""
    return tuple(dict.fromkeys(band for tower in variant.towers for band in tower.bands))


def check_bands(variant: VariantOptions, have: Sequence[str]) -> None:
    """Refuse a variant that asks for bands which the tiles do not have.

    Raises:
        InputError: names the tower, the absent bands and what there is.
    """
    for tower in variant.towers:
        absent = [band for band in dict.fromkeys(tower.bands) if band not in have]
        if absent:
            raise InputError(
                f"variant: tower {tower.name} asks for {', '.join(absent)}, "
                f"but the tiles have {', '.join(have)}"
            )
