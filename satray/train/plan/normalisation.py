"""What the network's input is: radiometry, bands to read, mean and deviation. No Ray, no torch."""

import math
from collections.abc import Mapping
from typing import Literal

from satray.config.train import NormalizeOptions, TrainRecipe, VariantOptions
from satray.data.index import IndexMeta
from satray.errors import InputError
from satray.models.pretrained import is_word, published, sources_of
from satray.models.radiometry import Radiometry
from satray.models.variant import input_bands
from satray.storage import Storage, join, parent

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Of red, green and blue in 0..1, as torchvision's and most of timm's weights want them."""

LOW, HIGH = "2", "98"
"""Percentiles of the index between which `percentile` stretches."""

Numbers = tuple[float, ...]


def radiometry(
    name: Literal["stored", "pil_compat", "percentile"], bands: tuple[str, ...], meta: IndexMeta
) -> Radiometry:
    """The radiometry of a recipe on an index.

    Args:
        name: the recipe's `input.radiometry`.
        bands: input bands of the variant.
        meta: of the index.

    Raises:
        InputError: `percentile` where the index has none of a band; `pil_compat` where tiles are
            not 16-bit of four bands, nir last: PIL takes the fourth of such a file for alpha.
    """
    if name == "percentile":
        found = {band.name: band.percentiles for band in meta.statistics}
        for band in bands:
            bounds = [found.get(band, {}).get(percent, math.nan) for percent in (LOW, HIGH)]
            if not all(math.isfinite(bound) for bound in bounds):
                raise InputError(
                    f"input.radiometry=percentile: the index has no {LOW}nd and {HIGH}th "
                    f"percentile of band {band}; run prepare again"
                )
        low, high = (tuple(found[band][percent] for band in bands) for percent in (LOW, HIGH))
        return Radiometry("percentile", low, high)
    if name == "pil_compat" and (
        meta.dtype != "uint16" or len(meta.bands) != 4 or meta.bands[3] != "nir"
    ):
        raise InputError(
            f"input.radiometry=pil_compat: found {meta.dtype} tiles of {', '.join(meta.bands)}; "
            "accepted: uint16 tiles of four bands, nir last (what PIL takes for alpha); take "
            "percentile or stored"
        )
    return Radiometry(name)


def normalisation(
    recipe: TrainRecipe, variant: VariantOptions, meta: IndexMeta, storage: Storage
) -> tuple[Numbers, Numbers]:
    """Mean and standard deviation of each band read, of values after the radiometry.

    `auto` is `imagenet` where pixels are stored 8-bit red, green and blue and every tower starts
    from published weights (by name, or a file that is not of a satray bundle), else `statistics`.
    Of stored values, `statistics` are the index's; of others there are none yet, and both tuples
    come back empty: `satray.train.measure` measures them on a sample.

    Raises:
        InputError: numbers that are not one a band; `imagenet` where values are not those of 8-bit
            red, green and blue (or of `percentile`), or where the towers' weights want different
            ones; or the index has no statistics of a band.
    """
    bands, way = input_bands(variant), recipe.input.normalize
    sources = sources_of(recipe.weights, variant)
    stored = recipe.input.radiometry == "stored"
    if isinstance(way, NormalizeOptions):
        return _numbers(way, bands, radiometry(recipe.input.radiometry, bands, meta).reads(bands))
    colours = set(bands) <= {"red", "green", "blue"}
    eight_bit_rgb = stored and meta.dtype == "uint8" and colours
    if way == "auto":
        way = "imagenet" if eight_bit_rgb and _published(sources, storage) else "statistics"
    if way == "imagenet":
        stretched = recipe.input.radiometry == "percentile" and colours
        if not eight_bit_rgb and not stretched:
            raise InputError(
                f"input.normalize=imagenet: found {meta.dtype} {', '.join(bands)} "
                f"({recipe.input.radiometry}); accepted for uint8 red, green and blue, or with "
                "input.radiometry=percentile for red, green and blue; take statistics"
            )
        mean, std = _imagenet(variant, sources)
        full = 255 if stored else 1
        places = [("red", "green", "blue").index(band) for band in bands]
        return tuple(full * mean[i] for i in places), tuple(full * std[i] for i in places)
    if not stored:
        return (), ()
    found = {band.name: band for band in meta.statistics}
    absent = [band for band in bands if band not in found]
    if absent:
        raise InputError(f"index: no statistics of band {absent[0]}; run prepare again")
    return tuple(found[b].mean for b in bands), tuple(found[b].std for b in bands)


def _numbers(
    given: NormalizeOptions, bands: tuple[str, ...], read: tuple[str, ...]
) -> tuple[Numbers, Numbers]:
    """The recipe's numbers; bands that only the radiometry looks at stay as they are."""
    for name, numbers in (("mean", given.mean), ("std", given.std)):
        if len(numbers) != len(bands):
            raise InputError(
                f"input.normalize.{name}: found {len(numbers)} numbers, accepted: {len(bands)}, "
                f"one each of {', '.join(bands)}"
            )
    if min(given.std) <= 0:
        raise InputError(f"input.normalize.std: found {min(given.std):g}, accepted: above 0")
    others = len(read) - len(bands)
    return (*given.mean, *[0.0] * others), (*given.std, *[1.0] * others)


def _published(sources: Mapping[str, str], storage: Storage) -> bool:
    """Whether every tower has pretrained weights, none of them a satray bundle's."""
    if "none" in sources.values():
        return False
    # A bundle's weights were trained on what its own model.json says.
    files = {source for source in sources.values() if not is_word(source)}
    return not any(storage.exists(join(parent(file), "model.json")) for file in files)


def _imagenet(variant: VariantOptions, sources: Mapping[str, str]) -> tuple[Numbers, Numbers]:
    """What the towers' weights were trained with; of files, what the backbones' published were."""
    found: dict[tuple[Numbers, Numbers], str] = {}
    for tower in sorted(variant.towers, key=lambda tower: tower.backbone):
        source = sources[tower.name]
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
