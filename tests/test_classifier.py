"""`satray.load`: the bundle on arrays, with the numbers of the job `score`."""

import numpy as np
import pytest
import scoring_material as material
import torch

import satray
from satray.classifier import Classifier
from satray.data.decode import PixelSpec, read_pixels
from satray.errors import DecodeError, InputError
from satray.score.forward import Scorer
from satray.score.results import MapRequest


def tiles(n: int = 5, bands: int = 3) -> np.ndarray:
    return np.stack([material.pixels(seed, bands) for seed in range(n)])


def test_a_bundle_is_loaded_from_where_it_is(tmp_path, monkeypatch) -> None:
    bundle = material.save_bundle(tmp_path / "model" / "bundle", material.one_tower())
    monkeypatch.chdir(tmp_path)
    for uri in (str(tmp_path / "model"), "model", "model/bundle"):
        model = satray.load(uri)
        assert (model.bundle.model_id, model.classes) == (bundle.model_id, material.CLASSES)
        assert model.bands == ("red", "green", "blue")
    assert "simple_cnn; multilabel, 3 classes" in repr(model)
    with pytest.raises(InputError, match="not a bundle"):
        satray.load("elsewhere")


@pytest.mark.parametrize("task", ["multilabel", "multiclass"])
def test_predictions_are_those_of_scoring(task: str) -> None:
    bundle = material.bundle(material.one_tower(), task=task, thresholds=(0.3, 0.5, 0.7))
    found = Classifier(bundle, batch=2).predict(tiles())
    numbers = Scorer(bundle, batch=2)(tiles()).numbers
    for name in ("logits", "scores", "preds"):
        assert np.array_equal(getattr(found, name), getattr(numbers, name))
    for scores, preds, labels in zip(found.scores, found.preds, found.labels, strict=True):
        assert labels == tuple(np.array(material.CLASSES)[preds > 0])
        if task == "multiclass":  # one name, whatever its threshold
            assert labels == (material.CLASSES[scores.argmax()],)
    assert len(set(found.labels)) > 1
    # averaged over symmetries
    averaged = Classifier(bundle).predict(tiles(), d4=True).logits
    assert np.array_equal(averaged, Scorer(bundle, d4=True)(tiles()).numbers.logits)
    turned = Classifier(bundle).predict(tiles()[:, :, ::-1], d4=True).logits
    assert np.allclose(turned, averaged, atol=1e-4)


def test_tiles_of_another_size_and_gaps_are_as_the_job_has_them(tmp_path) -> None:
    bundle = material.bundle(material.one_tower(), evaluate="centre", size=32, resize=40)
    given = np.stack([material.pixels(seed, 3, 61)[:, :, :57] for seed in range(3)])
    read = []
    for i, tile in enumerate(given):
        material.write_tile(tmp_path / f"{i}.tif", tile, None)
        data = (tmp_path / f"{i}.tif").read_bytes()
        read.append(read_pixels(data, PixelSpec((0, 1, 2), *bundle.spec.tile_shape, "uint16")))
    expected = Scorer(bundle)(np.stack(read)).numbers.logits
    assert np.array_equal(Classifier(bundle).predict(given).logits, expected)
    assert not np.allclose(bundle.logits(torch.from_numpy(given)).numpy(), expected, atol=1e-3)
    model = Classifier(material.bundle(material.one_tower(), dtype="float32"))
    given = tiles().astype(np.float32)
    given[0, 1, :5] = np.nan
    found = model.predict(given).logits
    assert np.isfinite(found).all()
    assert np.isnan(given[0, 1, 0, 0])  # the caller's stay as they are
    whole = given[:1].copy()
    whole[0, 1, :5] = np.nanmean(given[0, 1])
    assert np.allclose(model.predict(whole).logits, found[:1], atol=1e-3)


def test_a_tile_without_data_has_no_numbers_as_score_fails_it(tmp_path) -> None:
    """And takes nothing from its neighbours; a band that nobody looks at has no say."""
    bundle = material.bundle(material.one_tower(), nodata=0.0, dtype="int16")
    model, given = Classifier(bundle), tiles().astype(np.int16)
    given[1], given[2, :, 5:] = 0, 0
    given[3, 0, :20] = -1
    found, valid = model.predict(given), given >= 0
    valid[4, 0, :30], valid[4, 1, 30:] = False, False
    for predicted, empty in ((found, [1]), (model.predict(given, valid=valid), [1, 4])):
        for numbers in (predicted.scores, predicted.logits):
            assert np.flatnonzero(np.isnan(numbers).all(axis=1)).tolist() == empty
            assert np.isnan(numbers).sum() == 3 * len(empty)
        assert not predicted.preds[empty].any()
        assert all(predicted.labels[n] == () for n in empty)
    for values in (*model.cam(given).values(), *model.features(given, pooled=True).values()):
        assert [bool(np.isnan(one).any()) for one in values] == [n == 1 for n in range(5)]
    material.write_tile(tmp_path / "0.tif", given[1], None, nodata=0)
    spec = PixelSpec((0, 1, 2), *bundle.spec.tile_shape, "int16")
    with pytest.raises(DecodeError, match="no valid pixels"):
        read_pixels((tmp_path / "0.tif").read_bytes(), spec)
    more = np.concatenate([given, np.zeros_like(given[:, :1])], axis=1)
    names = (*model.bands, "other")
    assert np.isfinite(model.predict(more[:1], names, valid=more[:1] > 0).logits).all()


@pytest.mark.parametrize(("pooling", "kind"), [("avg", "dense"), ("max", "argmax")])
def test_maps_are_the_scorers_and_pooled_features_what_its_head_takes(pooling: str, kind) -> None:
    bundle = material.bundle(material.two_towers(pooling))
    model, given = Classifier(bundle, batch=2), tiles(bands=4)
    head, logits = bundle.network.head, model.predict(given).logits
    pooled, features = model.features(given, pooled=True), model.features(given)
    maps = model.cam(given, ["été", "ship"], kind)
    every = Scorer(bundle, MapRequest((0, 1, 2), (kind,)))(given).maps
    assert [part.shape for part in pooled.values()] == [(5, 128), (5, 128)]
    with torch.no_grad():
        own = head(torch.from_numpy(np.concatenate(list(pooled.values()), axis=1)))
    assert np.allclose(own.numpy(), logits, atol=1e-4)
    if pooling == "avg":
        assert np.allclose(features["nir"].mean((2, 3)), pooled["nir"], atol=1e-5)
    for tower in ("rgb", "nir"):
        assert maps[tower].shape == (5, 2, 4, 4)
        assert np.allclose(maps[tower], every[tower][:, [2, 0]], atol=1e-4)


def test_bands_by_name_and_odd_arrays_are_taken() -> None:
    model, given = Classifier(material.bundle(material.two_towers())), tiles(bands=4)
    expected = model.predict(given).logits
    names = ("nir", "blue", "swir16", "red", "green")
    order = [model.bands.index(name) if name in model.bands else 0 for name in names]
    turned = given[:, order]
    turned[:, 2] = 7  # looked at by nobody
    assert np.array_equal(model.predict(turned, names).logits, expected)
    assert np.array_equal(model.features(turned, bands=names)["nir"], model.features(given)["nir"])
    frozen = given.copy()
    frozen.setflags(write=False)
    for odd in (frozen, given[::-1][::-1], np.asfortranarray(given), list(given)):
        assert np.array_equal(model.predict(odd).logits, expected)
    # one tile counts as a batch of one
    assert np.array_equal(model.predict(given[0]).logits, model.predict(given[:1]).logits)
    assert model.cam(given[0])["rgb"].shape == (1, 3, 4, 4)
    assert model.features(given[0])["rgb"].shape == (1, 128, 4, 4)


def test_other_arrays_and_wrong_requests_are_refused() -> None:
    model = Classifier(material.bundle(material.one_tower()))
    for shape, dtype in (
        ((48, 48), np.uint16), ((0, 3, 48, 48), np.uint16), ((2, 48, 48, 3), np.uint16),
        ((2, 3, 48, 48), np.uint8), ((2, 3, 48, 48), float),
    ):  # fmt: skip
        for method in (model.predict, model.cam, model.features):
            with pytest.raises(
                InputError, match=r"found \w+ of shape .*; accepted: uint16"
            ) as said:
                method(np.zeros(shape, dtype))
            assert str(shape) in str(said.value)
            assert "\n" not in str(said.value)
    with pytest.raises(InputError, match="classes: found boat; accepted: a list out of ship"):
        model.cam(tiles(), ["ship", "boat"])
    with pytest.raises(InputError, match="classes: found 'ship'; accepted: a list"):
        model.cam(tiles(), "ship")
    with pytest.raises(InputError, match="this bundle pools with avg"):
        model.cam(tiles(), kind="argmax")
    with pytest.raises(InputError, match="no red"):
        model.predict(tiles(), ["green", "blue", "nir"])
    for valid in (np.ones((5, 3), bool), tiles()[:, 0], tiles()[0, 0] > 0):
        with pytest.raises(InputError, match=r"valid: found .* accepted: bool of the tiles'"):
            model.predict(tiles(), valid=valid)
    dense = Classifier(material.bundle(material.one_tower(head="dense")))
    assert dense.features(tiles())["rgb"].shape == (5, 128, 4, 4)
    with pytest.raises(InputError, match="dense head"):
        dense.cam(tiles())
