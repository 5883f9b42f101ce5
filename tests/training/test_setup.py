"""How inputs are normalised: by the index's statistics, or as the weights want it."""

import sys
from types import SimpleNamespace

import pytest
from training.tiny_training import recipe

from satray.config.model import TowerOptions, VariantOptions
from satray.errors import InputError
from satray.storage import Storage
from satray.tiles.index import BandStatistics, IndexMeta
from satray.training.plan.normalisation import normalisation
from satray.training.plan.setup import best_metric

RGB = ("red", "green", "blue")
TWO = (("a", "resnet18"), ("b", "resnet18"))


def found(weights="none", towers=TWO, normalize="auto", dtype="uint8", bands=RGB):
    variant = VariantOptions(
        towers=tuple(TowerOptions(name=n, backbone=b, bands=bands) for n, b in towers)
    )
    statistics = tuple(BandStatistics(b, 100.0, 50.0, 0.0, 255.0, {}, 1) for b in bands)
    meta = IndexMeta("binary", ("ship",), bands, dtype, (8, 8), statistics, {})
    given = recipe(weights=weights, input={"size": 8, "normalize": normalize})
    mean, _ = normalisation(given, variant, meta, Storage())
    if mean == (100.0,) * len(bands):
        return "statistics"
    return [round(value / 255, 3) for value in mean]


IMAGENET = [0.485, 0.456, 0.406]


@pytest.mark.parametrize(
    ("weights", "way"),
    [
        ("none", "statistics"),
        ("imagenet", IMAGENET),
        ({"a": "imagenet", "b": "imagenet"}, IMAGENET),
        ({"a": "imagenet"}, "statistics"),
        ({"a": "imagenet", "b": "none"}, "statistics"),
        ({"a": "none", "b": "none"}, "statistics"),
    ],
)
def test_auto_needs_every_tower_pretrained(weights, way):
    assert found(weights) == way


def test_auto_needs_8_bit_rgb():
    assert found("imagenet", dtype="uint16") == "statistics"
    assert found("imagenet", bands=(*RGB, "nir")) == "statistics"
    with pytest.raises(InputError, match="uint16"):
        found("imagenet", dtype="uint16", normalize="imagenet")


def test_the_order_is_the_bands():
    assert found("imagenet", bands=RGB[::-1]) == IMAGENET[::-1]


def test_a_bundles_weights_are_not_imagenets(tmp_path):
    file = tmp_path / "model.safetensors"
    assert found(str(file)) == IMAGENET
    (tmp_path / "model.json").write_text("{}")
    assert found(str(file)) == "statistics"
    assert found({"a": "imagenet", "b": str(file)}) == "statistics"
    assert found(str(file), normalize="imagenet") == IMAGENET


def test_towers_whose_weights_disagree_are_refused(monkeypatch):
    published = {"resnet18": (0.485, 0.456, 0.406), "inception_v3": (0.5, 0.5, 0.5)}
    models = SimpleNamespace(
        get_pretrained_cfg=lambda name, allow_unregistered: SimpleNamespace(
            mean=published[name], std=(0.2, 0.2, 0.2)
        )
    )
    monkeypatch.setitem(sys.modules, "timm", SimpleNamespace(models=models))
    towers = (("a", "resnet18"), ("b", "inception_v3"))
    with pytest.raises(InputError, match=r"inception_v3 and resnet18.*normalize=statistics"):
        found("imagenet", towers)
    assert found("imagenet", towers, normalize="statistics") == "statistics"
    assert found("imagenet", (("a", "resnet18"), ("b", "simple_cnn"))) == IMAGENET


@pytest.mark.parametrize(
    ("asked", "task", "found"),
    [
        ("auto", "binary", "map"),
        ("auto", "multilabel", "map"),
        ("auto", "multiclass", "accuracy"),
        ("loss", "multilabel", "loss"),
        ("auc", "binary", "auc"),
    ],
)
def test_what_picks_the_bundle(asked, task, found):
    assert best_metric(asked, task) == found
