"""Several networks as one bundle: logits are the mean, maps add up, names never clash."""

import numpy as np
import pytest
import scoring_material as material
import torch

from satray.errors import InputError
from satray.models.bundle import bundle_files, make_bundle
from satray.models.ensemble import ensemble, tower_names
from satray.models.network import Network
from satray.scoring.forward import MapRequest, Scorer


def members(variant, count=3):
    """Bundles of one variant with different random weights."""
    spec = material.bundle(variant).spec
    found = []
    for seed in range(count):
        torch.manual_seed(seed)
        network = Network(variant, len(spec.classes), bands=spec.bands)
        with torch.no_grad():
            network.head.weight.mul_(20)
            network.head.bias.normal_()
        found.append(make_bundle(bundle_files(spec, network.state_dict()), f"member {seed}"))
    return found


def tiles(bands):
    return np.stack([material.pixels(seed, bands) for seed in range(4)])


@pytest.mark.parametrize("pooling", ["avg", "max", "lse"])
@pytest.mark.parametrize("variant", [material.one_tower, material.two_towers])
def test_logits_are_the_mean_of_the_members(variant, pooling):
    bundles = members(variant(pooling))
    spec = bundles[0].spec
    wider, state = ensemble(spec, [b.network.state_dict() for b in bundles])
    whole = make_bundle(bundle_files(wider, state), "whole")
    given = tiles(len(spec.bands))
    each = [Scorer(b)(given).numbers.logits for b in bundles]
    assert np.abs(each[0] - each[1]).max() > 0.1
    found = Scorer(whole)(given).numbers
    np.testing.assert_allclose(found.logits, np.mean(each, axis=0), atol=1e-5)
    shares = sum(found.shares.values()) + whole.network.head.bias.numpy()
    np.testing.assert_allclose(shares, found.logits, atol=1e-4)


def test_maps_of_the_towers_add_up():
    bundles = members(material.two_towers())
    wider, state = ensemble(bundles[0].spec, [b.network.state_dict() for b in bundles])
    whole = make_bundle(bundle_files(wider, state), "whole")
    result = Scorer(whole, MapRequest((0, 1, 2)))(tiles(4))
    assert list(result.maps) == ["rgb1", "nir1", "rgb2", "nir2", "rgb3", "nir3"]
    total = sum(maps.mean((2, 3)) for maps in result.maps.values())
    bias = whole.network.head.bias.numpy()
    np.testing.assert_allclose(total + bias, result.numbers.logits, atol=1e-4)
    alone = Scorer(bundles[1], MapRequest((0, 1, 2)))(tiles(4)).maps["nir"]
    np.testing.assert_allclose(result.maps["nir2"] * 3, alone, atol=1e-4)


def test_one_member_is_the_member():
    (bundle,) = members(material.one_tower(), 1)
    wider, state = ensemble(bundle.spec, [bundle.network.state_dict()])
    whole = make_bundle(bundle_files(wider, state), "whole")
    given = tiles(3)
    assert np.array_equal(Scorer(whole)(given).numbers.logits, Scorer(bundle)(given).numbers.logits)


def test_the_spec_is_otherwise_the_members():
    (bundle,) = members(material.one_tower(), 1)
    wider, _ = ensemble(bundle.spec, [bundle.network.state_dict()] * 2)
    assert list(wider.grids) == ["rgb1", "rgb2"]
    assert (wider.classes, wider.bands, wider.temperature) == (
        bundle.spec.classes,
        bundle.spec.bands,
        bundle.spec.temperature,
    )


def test_a_dense_head_is_refused():
    bundle = material.bundle(material.one_tower(head="dense"))
    with pytest.raises(InputError, match="needs a linear head"):
        ensemble(bundle.spec, [bundle.network.state_dict()] * 2)


def test_names_never_clash():
    assert tower_names(["rgb", "nir"], 2) == [
        {"rgb": "rgb1", "nir": "nir1"},
        {"rgb": "rgb2", "nir": "nir2"},
    ]
    found = tower_names(["a", "a1"], 11)
    assert len({name for named in found for name in named.values()}) == 22
