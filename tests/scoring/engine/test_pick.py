"""Choosing an engine: only what is equal, and what was asked for or nothing."""

import pytest
import scoring_material as material
import torch

from satray.config.train import TowerOptions, VariantOptions
from satray.errors import InputError
from satray.scoring.engine import make
from satray.scoring.engine import pick as picking
from satray.scoring.engine.make import build
from satray.scoring.engine.pick import pick
from satray.scoring.engine.trial import difference

SHAPE = (1, 64, 96)


def two_kinds():
    """One tower of each kind, bands in another order than the network's input."""
    towers = (
        TowerOptions(name="rgb", backbone="resnet18", bands=("red", "green", "blue")),
        TowerOptions(name="nir", backbone="simple_cnn", bands=("nir", "red")),
    )
    grids = {"rgb": material.FeatureGrid(32.0, 0.5, 7), "nir": material.GRID}
    return material.bundle(VariantOptions(towers=towers, pooling="max"), grids=grids)


@pytest.fixture
def no_onnx(monkeypatch):
    """Without the seconds of an export."""

    def refuse(*args):
        raise make.UnfitError("not here")

    monkeypatch.setattr(make, "OnnxTrunk", refuse)


def network_input(bundle, shape=(2, 64, 96)):
    return torch.randn(shape[0], len(bundle.spec.bands), *shape[1:])


def assert_equal(engine, bundle):
    x = network_input(bundle)
    with torch.inference_mode():
        wanted = bundle.network.features(x)
    given = engine(x)
    assert list(given) == list(wanted)
    assert all(difference(given[name], wanted[name]) <= 1e-4 for name in wanted)
    assert not any(f.requires_grad for f in given.values())


@pytest.mark.parametrize("wanted", ["auto", "eager", "fused"])
def test_equals_the_network(wanted, no_onnx, tmp_path):
    bundle = two_kinds()
    engine, choice = pick(bundle, SHAPE, wanted, folder=tmp_path)
    assert_equal(engine, bundle)
    assert_equal(build(bundle, choice.engines, folder=tmp_path), bundle)
    assert choice.tried == SHAPE
    assert choice.threads == torch.get_num_threads()
    assert list(choice.engines) == ["rgb", "nir"]
    if wanted != "auto":
        assert set(choice.engines.values()) == {wanted}


def test_onnx(tmp_path):
    bundle = material.bundle(material.one_tower())
    engine, choice = pick(bundle, SHAPE, "onnx", folder=tmp_path)
    assert_equal(engine, bundle)
    assert choice.engines == {"rgb": "onnx"}
    _, free = pick(bundle, SHAPE, folder=tmp_path, pixels=1)  # at hand: tried after all
    onnx = free.trials["rgb"][2]
    assert (onnx.engine, onnx.refused) == ("onnx", None)


def test_no_export_for_a_short_job(tmp_path):
    bundle = material.bundle(material.one_tower())
    _, choice = pick(bundle, SHAPE, folder=tmp_path, pixels=1e6)
    assert choice.engines["rgb"] in ("eager", "fused")
    assert choice.trials["rgb"][2].refused.startswith("no export for ")
    assert not list(tmp_path.iterdir())


def test_what_is_not_equal_is_not_taken(monkeypatch, no_onnx, tmp_path):
    real = make.FusedTrunk

    class Off:
        def __init__(self, backbone):
            self._right = real(backbone)

        def __call__(self, x):
            return self._right(x) * 1.01

    monkeypatch.setattr(make, "FusedTrunk", Off)
    monkeypatch.setattr(picking, "_shortest", lambda trunk, x: 1.0)
    bundle = material.bundle(material.one_tower())
    engine, choice = pick(bundle, SHAPE, folder=tmp_path)
    assert choice.engines == {"rgb": "eager"}
    assert "differ from eager torch's by 1.0e-02" in choice.trials["rgb"][1].refused
    assert choice.trials["rgb"][2].refused == "not here"
    assert_equal(engine, bundle)
    with pytest.raises(InputError, match=r"engine: fused cannot run tower rgb: its features dif"):
        pick(bundle, SHAPE, "fused", folder=tmp_path)
    with pytest.raises(InputError, match=r"engine: onnx .*: not here; accepted: auto, eager"):
        pick(bundle, SHAPE, "onnx", folder=tmp_path)
    with pytest.raises(InputError, match="engine: onnx cannot run tower rgb"):
        build(bundle, {"rgb": "onnx"}, folder=tmp_path)


def test_an_engine_that_breaks_is_not_taken(monkeypatch, no_onnx, tmp_path):
    class Broken:
        def __init__(self, backbone):
            raise ZeroDivisionError

    monkeypatch.setattr(make, "FusedTrunk", Broken)
    _, choice = pick(material.bundle(material.one_tower()), SHAPE, folder=tmp_path)
    assert choice.engines == {"rgb": "eager"}
    assert choice.trials["rgb"][1].refused == "ZeroDivisionError"


def test_towers_of_a_kind_are_timed_once_and_compared_each(monkeypatch, no_onnx, tmp_path):
    timed = []
    monkeypatch.setattr(picking, "_shortest", lambda trunk, x: timed.append(trunk) or 1.0)
    _, choice = pick(material.bundle(material.two_towers()), SHAPE, folder=tmp_path)
    assert len(timed) == 2  # eager and fused
    assert all(
        t.difference is not None for tower in ("rgb", "nir") for t in choice.trials[tower][:2]
    )


def test_features_of_eager_torch_that_are_no_numbers(no_onnx, tmp_path):
    bundle = material.bundle(material.one_tower())
    with torch.no_grad():
        next(bundle.network.parameters()).fill_(torch.nan)
    _, choice = pick(bundle, SHAPE, folder=tmp_path)
    assert choice.engines == {"rgb": "eager"}
