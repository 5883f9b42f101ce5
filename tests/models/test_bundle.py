import json
from dataclasses import replace

import pytest
import torch

from satray.errors import InputError
from satray.models.bundle import (
    BundleSpec,
    bundle_digest,
    bundle_files,
    load_bundle,
    make_bundle,
)
from satray.models.geometry import FeatureGrid
from satray.models.network import Network
from satray.models.radiometry import Radiometry
from satray.models.resolution import TrainedPixels
from satray.models.variant import input_bands, resolve
from satray.storage import Storage


def spec(name="simple_cnn", **changes):
    variant = resolve(name)
    bands = input_bands(variant)
    values = BundleSpec(
        variant=variant,
        task="multilabel",
        classes=("ship", "wolkig, trüb"),
        bands=bands,
        mean=tuple(100.0 + i for i in range(len(bands))),
        std=(20.0,) * len(bands),
        dtype="uint8",
        size=32,
        resize=None,
        evaluate="whole",
        tile_shape=(40, 48),
        resolution=3.0,
        thresholds=(0.5, 0.2),
        temperature=2.0,
        grids={tower.name: FeatureGrid(8.0, 4.0, None) for tower in variant.towers},
        dropout=0.5,
        provenance={"run_id": "r1", "metrics": {"map": 0.7}},
    )
    return replace(values, **changes)


def network(of):
    torch.manual_seed(0)
    size = of.size if of.variant.head == "dense" else None
    return Network(of.variant, len(of.classes), bands=of.bands, size=size).eval()


def write(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)


@pytest.fixture
def files():
    return bundle_files(spec(), network(spec()).state_dict())


@pytest.mark.parametrize("name", ["simple_cnn", "simple_cnn_dense"])
def test_a_bundle_scores_as_its_network_did(tmp_path, name):
    of = spec(name, size=32)
    net = network(of)
    write(tmp_path / "bundle", bundle_files(of, net.state_dict()))
    for uri in (tmp_path, tmp_path / "bundle"):  # the train run's out, or the folder itself
        bundle = load_bundle(str(uri), Storage())
        assert bundle.spec == of
        pixels = torch.randint(0, 255, (3, 3, 40, 48), dtype=torch.uint8)
        x = of.preprocess()(pixels)
        with torch.inference_mode():
            assert torch.equal(bundle.logits(pixels), net(x))
            logits, features = bundle.logits(pixels, return_features=True)
        assert torch.equal(logits, net(x))
        assert features.keys() == {"rgb"}
        assert not bundle.network.training
        assert not any(p.requires_grad for p in bundle.network.parameters())
        assert bundle_digest(str(uri), Storage()).startswith(bundle.model_id)
    assert len(bundle.model_id) == 12


def test_scores_take_the_temperature():
    of = spec()
    bundle = make_bundle(bundle_files(of, network(of).state_dict()), "b")
    z = torch.tensor([[2.0, -4.0]])
    torch.testing.assert_close(bundle.scores(z), (z / 2).double().sigmoid())
    many = replace(bundle, spec=replace(of, task="multiclass"))
    torch.testing.assert_close(many.scores(z), (z / 2).double().softmax(1))


def test_the_same_weights_give_the_same_bytes(files):
    assert bundle_files(spec(), network(spec()).state_dict()) == files
    shuffled = dict(reversed(list(network(spec()).state_dict().items())))
    assert bundle_files(spec(), shuffled) == files
    moved = network(spec()).state_dict()
    moved["head.bias"] += 1e-6
    assert bundle_files(spec(), moved)["model.safetensors"] != files["model.safetensors"]


def test_loading_leaves_torchs_generator_alone(files):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    make_bundle(files, "b")
    assert torch.equal(torch.rand(3), expected)


def test_weights_are_written_before_the_spec(files):
    assert list(files) == ["model.safetensors", "model.json"]


def test_no_bundle_there(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    for uri in (tmp_path, tmp_path / "absent"):
        with pytest.raises(InputError, match=r"not a bundle: no model\.json in it"):
            load_bundle(str(uri), Storage())


def test_spec_without_weights(tmp_path, files):
    write(tmp_path, {"model.json": files["model.json"]})
    with pytest.raises(InputError, match=r"model\.safetensors"):
        load_bundle(str(tmp_path), Storage())


@pytest.mark.parametrize("data", [b"", b"\0" * 7, b"\xff" * 100, b"\x02\0\0\0\0\0\0\0{}"])
def test_broken_weights(files, data):
    with pytest.raises(InputError, match=r"b/model\.safetensors: ") as caught:
        make_bundle({**files, "model.safetensors": data}, "b")
    assert "\n" not in str(caught.value)


def test_truncated_weights(files):
    cut = files["model.safetensors"][:-100]
    with pytest.raises(InputError, match="not a safetensors file"):
        make_bundle({**files, "model.safetensors": cut}, "b")


def test_weights_of_another_variant(files):
    other = spec("simple_cnn", classes=("a", "b", "c"), thresholds=(0.5,) * 3)
    foreign = bundle_files(other, network(other).state_dict())["model.safetensors"]
    with pytest.raises(InputError, match=r"does not belong to its model\.json: 2 tensors"):
        make_bundle({**files, "model.safetensors": foreign}, "b")


# -- model.json, strictly


def document(**changes):
    return {**json.loads(spec().to_json()), **changes}


def read(doc):
    data = doc if isinstance(doc, bytes) else json.dumps(doc).encode()
    return BundleSpec.from_json(data, "b/model.json")


@pytest.mark.parametrize("name", ["single4", "double4", "simple_cnn"])
def test_json_round_trip(name):
    of = spec(name, resize=40, evaluate="centre", resolution=None)
    assert BundleSpec.from_json(of.to_json(), "b") == of
    assert BundleSpec.from_json(of.to_json(), "b").to_json() == of.to_json()


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b"null", b"3", b"\xff\xfe", b"[" * 100_000, b'{"format": "other"}', b"{}"],
)
def test_what_is_no_model_json(data):
    with pytest.raises(InputError, match=r"^b/model\.json: not a bundle's model\.json") as caught:
        read(data)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("version", [0, 2, "1", 1.0, True, None, [1]])
def test_unknown_version(version):
    with pytest.raises(InputError, match=r"version .* of the bundle format; this satray reads 1"):
        read(document(version=version))


LATER = {
    "radiometry": Radiometry("stored", (), ()),
    "nodata": None,
    "resolution_y": None,
    "trained_px": (),
    "units": (),
}
"""Keys that bundles did not always have, and what their absence means."""


@pytest.mark.parametrize("key", sorted(set(document()) - {"format", *LATER}))
def test_every_key_is_needed(key):
    doc = document()
    del doc[key]
    with pytest.raises(InputError, match=key):
        read(doc)


def test_older_bundles_are_read():
    doc = {key: value for key, value in document().items() if key not in LATER}
    assert read(doc) == replace(spec(), **LATER)


def test_pixels_that_it_was_trained_on_come_back():
    pixels = TrainedPixels("EPSG:4326", 1e-4, 2e-4, (5.0, 11.0), (8.0, 11.5))
    of = spec(resolution=7.0, resolution_y=11.2, trained_px=(pixels,))
    assert BundleSpec.from_json(of.to_json(), "b") == of


def test_unknown_key():
    with pytest.raises(InputError, match=r"unknown 'colour'"):
        read(document(colour="red"))


HOSTILE = [None, True, 3, -1, 1.5, 10**400, "", "x", [], {}, [None], [[]], [{}], ["a"], {"a": 1}]
NULLABLE = {"resize", "resolution", "resolution_y", "nodata"}


@pytest.mark.parametrize("key", sorted(set(document()) - {"format", "version", "provenance"}))
def test_hostile_types_never_pass_nor_crash(key):
    good = document()[key]
    for value in HOSTILE:
        if type(value) is type(good) or (value is None and key in NULLABLE):
            continue
        if isinstance(good, float) and isinstance(value, int) and value in (3, -1):
            continue
        if key == "resize" and value == 3:
            continue
        if key.startswith("resolution") and isinstance(value, int | float) and value in (3, 1.5):
            continue
        if key == "nodata" and type(value) in (int, float) and value in (3, -1, 1.5):
            continue
        with pytest.raises(InputError) as caught:
            read(document(**{key: value}))
        assert "\n" not in str(caught.value), value


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("mean", [1.0], "mean: found 1 numbers, accepted: 3"),
        ("std", [1.0, -1.0, 1.0], "std: "),
        ("thresholds", [0.5], "thresholds: found 1 numbers, accepted: 2"),
        ("bands", ["red", "green", "nir"], "bands: "),
        ("classes", ["ship", "ship"], "classes: "),
        ("task", "binary", "one for a binary task"),
        ("task", "regression", "task: .* binary, multilabel, multiclass"),
        ("size", 0, "size: "),
        ("resize", 16, "resize >= size"),
        ("tile_shape", [1, 2, 3], "tile_shape: "),
        ("tile_shape", [0, 2], "tile_shape: "),
        ("temperature", 0, "temperature: "),
        ("resolution", -1.0, "resolution: "),
        ("dropout", 1.0, "dropout: "),
        ("grids", {}, "grids: .*one a tower: rgb"),
        ("grids", {"rgb": {"stride": 8}}, "grids.rgb: "),
        ("grids", {"rgb": {"stride": "8", "centre": 4, "halo": None}}, "grids.rgb.stride: "),
        ("grids", {"rgb": {"stride": 0, "centre": 4, "halo": None}}, "positive strides"),
        ("grids", {"rgb": {"stride": 8, "centre": 4, "halo": 1.5}}, "grids.rgb.halo: "),
        ("variant", {"towers": []}, r"variant\.towers: "),
        ("variant", {"towers": [{"name": "A"}]}, r"variant\.towers\.0\."),
        ("variant", {"towers": [], "evil": 1}, r"variant\."),
    ],
)
def test_values_that_do_not_fit_are_named(key, value, said):
    with pytest.raises(InputError, match=said) as caught:
        read(document(**{key: value}))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["NaN", "Infinity", "1e999"])
def test_numbers_that_are_not_finite(text):
    data = spec().to_json().replace(b'"temperature": 2.0', f'"temperature": {text}'.encode())
    with pytest.raises(InputError):
        read(data)


def test_what_is_not_finite_is_not_written():
    with pytest.raises(ValueError, match="JSON"):
        spec(provenance={"map": float("nan")}).to_json()
