"""Engines: features equal to eager torch's, in the precision that was asked for."""

import numpy as np
import pytest
import scoring_material as material
import torch

from satray.config.train import TowerOptions, VariantOptions
from satray.errors import InputError
from satray.models.variant import BUILT_IN
from satray.score.engines import (
    difference,
    load_engine,
    openvino_features,
)
from satray.score.forward import Scorer
from satray.score.results import MapRequest
from satray.storage import Storage


def two_kinds(backbone="resnet18"):
    """One tower of each kind, bands in another order than the network's input."""
    towers = (
        TowerOptions(name="rgb", backbone=backbone, bands=("red", "green", "blue")),
        TowerOptions(name="nir", backbone="simple_cnn", bands=("nir", "red")),
    )
    grids = {"rgb": material.FeatureGrid(32.0, 0.5, 7), "nir": material.GRID}
    return material.bundle(VariantOptions(towers=towers, pooling="max"), grids=grids)


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenetv2_100"])
def test_features_are_the_networks_for_any_batch_height_and_width(backbone):
    bundle = two_kinds(backbone)
    fast, precision = openvino_features(bundle)
    assert precision == "fp32"
    for shape in ((1, 64, 96), (3, 128, 64), (2, 224, 160)):
        x = torch.randn(shape[0], len(bundle.spec.bands), *shape[1:])
        with torch.inference_mode():
            wanted = bundle.network.features(x)
        found = fast(x)
        assert list(found) == list(wanted)
        assert all(difference(found[name], wanted[name]) <= 1e-4 for name in wanted)


def test_where_openvino_cannot_run_a_tower_all_stay_eager_and_say_why(tmp_path):
    towers = (
        TowerOptions(name="nir", backbone="resnet10t", bands=("nir",)),
        TowerOptions(name="vit", backbone="vit_tiny_patch16_224", bands=("red", "green", "blue")),
    )
    grids = {"nir": material.FeatureGrid(32.0, 0.5, 7), "vit": material.FeatureGrid(16.0, 8.0)}
    made = material.save_bundle(
        tmp_path / "bundle", VariantOptions(towers=towers), grids=grids, size=224
    )
    of = str(tmp_path / "bundle"), made.model_id, Storage(), False
    loaded = load_engine(*of, "auto", "fp32")
    assert loaded.engine.startswith("eager (openvino cannot run tower vit: ")
    assert loaded.features is None
    with pytest.raises(
        InputError, match=r"engine: openvino cannot run tower vit: .*accepted: auto"
    ):
        load_engine(*of, "openvino", "fp32")


@pytest.mark.parametrize(
    ("engine", "precision", "lines"),
    [
        ("eager", "auto", ["eager fp32"]),
        ("auto", "fp32", ["openvino fp32"]),
        ("eager", "bf16", ["eager bf16"]),
        ("openvino", "bf16", ["openvino bf16", "openvino fp32"]),  # as the processor computes
    ],
)
def test_a_bundle_computes_as_it_is_asked_to(tmp_path, engine, precision, lines):
    where, provenance = tmp_path / "bundle", {"precision": "auto"}
    made = material.save_bundle(where, BUILT_IN["single3"], provenance=provenance)
    loaded = load_engine(str(where), made.model_id, Storage(), False, engine, precision)
    assert loaded.engine in lines
    x = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        wanted = made.network.features(x)["rgb"]
        found = (loaded.features or loaded.bundle.network.features)(x)["rgb"]
    assert found.dtype == torch.float32
    gap = difference(found, wanted)
    assert 1e-4 < gap < 0.05 if loaded.engine.endswith("bf16") else gap <= 1e-4
    with pytest.raises(InputError, match="changed while the job was running"):
        load_engine(str(where), "another", Storage(), False, engine, precision)


def test_tiles_are_scored_by_it_alike():
    bundle, maps = material.bundle(material.two_towers("max")), MapRequest((0, 2), ("argmax",))
    tiles = np.stack([material.pixels(seed) for seed in range(5)])[:, [2, 1, 0, 3]]
    eager = Scorer(bundle, maps, 2, d4=True)(tiles)
    fast = Scorer(bundle, maps, 2, d4=True, features=openvino_features(bundle)[0])(tiles)
    np.testing.assert_allclose(fast.numbers.logits, eager.numbers.logits, rtol=1e-4, atol=1e-4)
    for name, made in eager.maps.items():
        np.testing.assert_allclose(fast.maps[name], made, rtol=1e-4, atol=1e-4)
