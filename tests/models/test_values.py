"""Radiometry: what it computes, what it refuses, and how a bundle keeps it."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models.test_bundle import document, read, spec

from satray.config.train import TowerOptions, VariantOptions
from satray.errors import InputError
from satray.models.geometry import FeatureGrid
from satray.models.preprocess import Preprocess
from satray.models.radiometry import Radiometry
from satray.models.spec import BundleSpec
from satray.models.values import to_values

STRETCH = Radiometry("percentile", (100.0, 7.0), (300.0, 7.0))


def column(*values, dtype=np.uint16):
    """A batch of one tile with two equal bands."""
    x_W = np.array(values, dtype)
    return torch.from_numpy(np.stack([x_W, x_W])[None, :, None])


def test_stored_values_pass_as_they_are():
    x = column(1, 2, 65_535)
    assert to_values(x, Radiometry(), ("a", "b")) is x


def test_percentiles_become_0_and_1_and_what_lies_beyond_is_clipped():
    found = to_values(column(0, 100, 150, 300, 65_535), STRETCH, ("a", "b"))
    assert found.dtype == torch.float32
    assert found[0, 0, 0].tolist() == [0, 0, 0.25, 1, 1]


def test_a_band_whose_percentiles_are_one_value_is_split_there():
    assert to_values(column(6, 7, 8), STRETCH, ("a", "b"))[0, 1, 0].tolist() == [0, 0, 1]


def test_what_is_not_finite_becomes_the_mean_of_the_values():
    x = column(np.nan, np.inf, -np.inf, 200, dtype=np.float32)
    assert to_values(x, STRETCH, ("a", "b"))[0, 0, 0].isnan().tolist() == [True] * 3 + [False]
    p = Preprocess(("a", "b"), (0.3, 0.3), (0.1, 0.1), 4, None, "whole", STRETCH)
    assert p.values(x)[0, 0, 0].tolist() == pytest.approx([0.3, 0.3, 0.3, 0.5])


@given(st.lists(st.integers(0, 65_535), min_size=1, max_size=20))
def test_stretched_values_keep_their_order(values):
    found = to_values(column(*values), STRETCH, ("a", "b"))[0, 0, 0]
    order = np.argsort(values, kind="stable")
    assert (found[order].diff() >= 0).all()
    assert found.min() >= 0
    assert found.max() <= 1


# -- in a bundle


def paper(**changes):
    tower = TowerOptions(name="rgb", backbone="simple_cnn", bands=("blue", "green", "red"))
    values = {
        "variant": VariantOptions(towers=(tower,)),
        "bands": ("blue", "green", "red", "nir"),
        "mean": (0.7, 0.6, 0.5, 0.0),
        "std": (0.2, 0.2, 0.2, 1.0),
        "dtype": "uint16",
        "grids": {"rgb": FeatureGrid(8.0, 4.0, None)},
        "radiometry": Radiometry("pil_compat"),
    }
    return spec(**(values | changes))


def test_json_keeps_it():
    stretch = Radiometry("percentile", (1.0, 2.0, 3.0), (4.0, 5.0, 6.5))
    for of in (paper(), spec(radiometry=stretch)):
        again = BundleSpec.from_json(of.to_json(), "b")
        assert again == of
        assert again.preprocess().radiometry == of.radiometry


def test_a_bundle_from_before_takes_values_as_they_are_stored():
    doc = document()
    del doc["radiometry"]
    assert read(doc).radiometry == Radiometry()


def test_a_network_of_three_bands_reads_near_infrared_too():
    from satray.models.network import Network

    of = paper()
    torch.manual_seed(0)
    network = Network(of.variant, 2, bands=of.bands).eval()
    pixels = torch.randint(2_000, 9_000, (2, 4, 40, 40), dtype=torch.int32).to(torch.uint16)
    other = pixels.clone()
    other[:, 3] = pixels[:, 3] * 2  # the network sees near-infrared by what it divides alone
    with torch.inference_mode():
        first, second = (network(of.preprocess()(x)) for x in (pixels, other))
        x_BCHW = of.preprocess()(pixels)
        x_BCHW[:, 3] += 1
        assert torch.equal(network(x_BCHW), first)
    assert not torch.allclose(first, second)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"name": "dn16", "low": [], "high": []}, r"radiometry\.name: found 'dn16', accepted: sto"),
        ({"name": ["stored"], "low": [], "high": []}, r"radiometry\.name"),
        ({"name": "stored", "low": []}, "radiometry: found"),
        ({"name": "percentile", "low": [1.0], "high": [2.0]}, "accepted: 3 each"),
        ({"name": "percentile", "low": [1, 2, 3], "high": [2, 3, 2]}, "low is above"),
        ({"name": "percentile", "low": [1, 2, 10**400], "high": [2, 3, 2]}, "a list of numbers"),
        ({"name": "percentile", "low": "123", "high": [2, 3, 2]}, "a list of numbers"),
        ({"name": "stored", "low": [1.0], "high": [2.0]}, "accepted: 0 each"),
        ({"name": "pil_compat", "low": [], "high": []}, "bands: .*red, green, blue, nir"),
    ],
)
def test_what_does_not_fit_is_named(value, said):
    with pytest.raises(InputError, match=said) as caught:
        read(document(radiometry=value))
    assert "\n" not in str(caught.value)


def test_a_band_that_nobody_looks_at_is_refused():
    doc = json.loads(paper(radiometry=Radiometry("pil_compat")).to_json())
    doc["radiometry"]["name"] = "stored"
    with pytest.raises(InputError, match="bands: found"):
        read(doc)
