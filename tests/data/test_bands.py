import pytest

from satray.data.bands import band_names, select
from satray.errors import InputError

UNKNOWN = "undefined"


@pytest.mark.parametrize(
    ("descriptions", "colours", "names"),
    [
        ([None] * 3, ["red", "green", "blue"], ("red", "green", "blue")),
        ([None], ["gray"], ("gray",)),
        ([None] * 4, ["gray", UNKNOWN, UNKNOWN, UNKNOWN], ("b1", "b2", "b3", "b4")),
        ([None] * 4, ["red", "green", "blue", UNKNOWN], ("red", "green", "blue", "b4")),
        ([None] * 4, ["blue", "green", "red", "nir"], ("blue", "green", "red", "nir")),
        (["Blue", "NIR "], ["gray", UNKNOWN], ("blue", "nir")),
        (["band 1 reflectance", None], ["gray", UNKNOWN], ("band 1 reflectance", "b2")),
        (["same", "same"], ["red", "green"], ("red", "green")),
        (["", " "], ["gray", UNKNOWN], ("b1", "b2")),
        ([None] * 2, ["red", "red"], ("b1", "b2")),
    ],
)
def test_names_come_from_descriptions_then_colours_then_numbers(descriptions, colours, names):
    assert band_names(descriptions, colours, len(names)) == names


def test_alpha_is_not_named():
    assert band_names([None] * 2, ["gray", "alpha"], 1) == ("gray",)


def test_select_finds_positions_and_repeats():
    assert select(("blue", "green", "red", "nir"), ("nir", "nir", "red")) == (3, 3, 2)


def test_select_says_what_there_is():
    with pytest.raises(InputError, match=r"no nir, swir16 among .* red, green, blue"):
        select(("red", "green", "blue"), ("nir", "red", "swir16", "nir"))
