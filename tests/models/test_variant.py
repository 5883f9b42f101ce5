import pytest

from satray.config.train import TowerOptions, VariantOptions
from satray.errors import InputError
from satray.models.variant import BUILT_IN, check_bands, input_bands, resolve


def test_unknown_name_gets_the_nearest():
    with pytest.raises(InputError, match=r"did you mean double4\?.*simple_cnn_dense") as caught:
        resolve("doubel4")
    assert "\n" not in str(caught.value)


def test_pooling_takes_the_place_of_the_variants_own():
    assert resolve("single3").pooling == "avg"
    assert resolve("single3", "max").pooling == "max"
    assert BUILT_IN["single3"].pooling == "avg"  # the built-in one is not changed


def test_documents_poolings():
    assert {n for n, v in BUILT_IN.items() if v.pooling == "avg"} == {
        "single3",
        "single4",
        "double4",
    }


def test_own_variant_passes():
    tower = TowerOptions(name="sar", backbone="resnet18", bands=("vv", "vh", "vv"))
    variant = VariantOptions(towers=(tower,), pooling="lse")
    assert resolve(variant) == variant
    assert input_bands(variant) == ("vv", "vh")


def test_bands_of_double4_are_unique_in_first_seen_order():
    assert input_bands(BUILT_IN["double4"]) == ("red", "green", "blue", "nir")


def test_absent_band_says_what_there_is():
    check_bands(BUILT_IN["double4"], ("blue", "green", "red", "nir"))
    with pytest.raises(InputError, match=r"tower nir asks for nir, .* red, green, blue$"):
        check_bands(BUILT_IN["double4"], ("red", "green", "blue"))
