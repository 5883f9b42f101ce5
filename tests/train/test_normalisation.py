"""Radiometry of a recipe on an index, and where mean and deviation come from."""

import pytest
from train.tiny_training import recipe

from satray.config.train import TowerOptions, VariantOptions
from satray.data.index import BandStatistics, IndexMeta
from satray.errors import InputError
from satray.models.radiometry import Radiometry
from satray.storage import Storage
from satray.train.setup import normalisation, radiometry

PLANET = ("blue", "green", "red", "nir")
RGB = ("red", "green", "blue")


def meta(bands=PLANET, dtype="uint16", percentiles=("2", "98")):
    places = dict(zip(percentiles, (200.0, 800.0), strict=False))
    statistics = tuple(BandStatistics(b, 500.0, 90.0, 0.0, 999.0, places, 1) for b in bands)
    return IndexMeta("binary", ("ship",), bands, dtype, (8, 8), statistics, {})


def numbers(of=None, bands=RGB, **wanted):
    variant = VariantOptions(towers=(TowerOptions(name="rgb", backbone="resnet18", bands=bands),))
    given = recipe(input={"size": 8, **wanted})
    return normalisation(given, variant, of or meta(), Storage())


def test_percentiles_are_the_indexs():
    found = radiometry("percentile", ("red", "nir"), meta())
    assert found == Radiometry("percentile", (200.0, 200.0), (800.0, 800.0))
    assert found.reads(("red", "nir")) == ("red", "nir")


@pytest.mark.parametrize("percentiles", [(), ("2",), ("5", "95")])
def test_an_index_without_percentiles_is_refused(percentiles):
    with pytest.raises(InputError, match="2nd and 98th percentile of band red; run prepare again"):
        radiometry("percentile", ("red", "nir"), meta(percentiles=percentiles))


def test_pil_compat_reads_near_infrared_once():
    found = radiometry("pil_compat", RGB, meta())
    assert found.reads(RGB) == (*RGB, "nir")
    assert found.reads(PLANET) == PLANET


@pytest.mark.parametrize(
    "of",
    [meta(dtype="uint8"), meta(RGB), meta(("nir", *RGB)), meta(("coastal", *PLANET))],
)
def test_pil_compat_needs_the_files_that_pil_takes_so(of):
    with pytest.raises(InputError, match="accepted: uint16 tiles of four bands, nir last"):
        radiometry("pil_compat", RGB, of)


def test_numbers_of_a_recipe_are_taken():
    three = {"mean": [0.7, 0.6, 0.5], "std": [0.1, 0.2, 0.3]}
    assert numbers(normalize=three) == ((0.7, 0.6, 0.5), (0.1, 0.2, 0.3))
    # near-infrared only divides: it is read, and stays as it is
    found = numbers(normalize=three, radiometry="pil_compat")
    assert found == ((0.7, 0.6, 0.5, 0.0), (0.1, 0.2, 0.3, 1.0))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"mean": [1, 2], "std": [1, 1, 1]}, r"mean: found 2 numbers, accepted: 3.*red, green"),
        ({"mean": [1, 2, 3], "std": [1, 1, 1, 1]}, r"std: found 4 numbers, accepted: 3"),
        ({"mean": [1, 2, 3], "std": [1, 0, 1]}, r"std: found 0, accepted: above 0"),
    ],
)
def test_numbers_that_do_not_fit_are_named(given, said):
    with pytest.raises(InputError, match=said):
        numbers(normalize=given)


@pytest.mark.parametrize("way", ["auto", "statistics"])
@pytest.mark.parametrize("name", ["percentile", "pil_compat"])
def test_values_that_the_index_does_not_know_are_to_be_measured(name, way):
    assert numbers(radiometry=name, normalize=way) == ((), ())
    assert numbers(normalize=way) == ((500.0,) * 3, (90.0,) * 3)


def test_imagenet_meets_stretched_colours():
    mean, std = numbers(radiometry="percentile", normalize="imagenet", bands=RGB[::-1])
    assert mean == pytest.approx((0.406, 0.456, 0.485))
    assert std == pytest.approx((0.225, 0.224, 0.229))
    for bands, name in ((PLANET, "percentile"), (RGB, "pil_compat"), (RGB, "stored")):
        with pytest.raises(InputError, match="normalize=imagenet: found uint16"):
            numbers(radiometry=name, normalize="imagenet", bands=bands)
