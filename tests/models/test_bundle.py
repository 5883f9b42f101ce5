"""A bundle scores as its network did, its description comes back, and what fits not is refused."""

import json
from dataclasses import replace

import pytest
import torch

from satray.config.train import TowerOptions, VariantOptions
from satray.errors import InputError
from satray.models.bundle import bundle_files, load_bundle, make_bundle
from satray.models.geometry import FeatureGrid
from satray.models.network import Network
from satray.models.radiometry import Radiometry
from satray.models.spec import BundleSpec, TrainedPixels, bundle_digest, bundle_digests, read_spec
from satray.models.variant import input_bands, resolve
from satray.storage import Storage

LATER = {"resolution_y", "trained_px", "dropout", "nodata", "radiometry", "provenance", "units"}
"""Keys that a bundle need not have."""


def spec(name="simple_cnn", **changes):
    variant = resolve(name)
    bands = input_bands(variant)
    values = {
        "variant": variant, "task": "multilabel", "classes": ("ship", "wolkig, trüb"),
        "bands": bands, "mean": tuple(100.0 + i for i in range(len(bands))),
        "std": (20.0,) * len(bands), "dtype": "uint8", "size": 32, "resize": None,
        "evaluate": "whole", "tile_shape": (40, 48), "resolution": 3.0, "thresholds": (0.5, 0.2),
        "temperature": 2.0, "dropout": 0.5,
        "grids": {tower.name: FeatureGrid(8.0, 4.0, None) for tower in variant.towers},
        "provenance": {"run_id": "r1", "metrics": {"map": 0.7}},
    }  # fmt: skip
    return BundleSpec(**(values | changes))


def paper():
    """Of a network of three bands, whose radiometry looks at near-infrared besides."""
    tower = TowerOptions(name="rgb", backbone="simple_cnn", bands=("blue", "green", "red"))
    return spec(
        variant=VariantOptions(towers=(tower,)), bands=("blue", "green", "red", "nir"),
        mean=(0.7, 0.6, 0.5, 0.0), std=(0.2, 0.2, 0.2, 1.0), dtype="uint16",
        radiometry=Radiometry("pil_compat"),
    )  # fmt: skip


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
    of = spec(name)
    net = network(of)
    write(tmp_path / "bundle", bundle_files(of, net.state_dict()))
    pixels = torch.randint(0, 255, (3, 3, 40, 48), dtype=torch.uint8)
    with torch.inference_mode():
        expected = net(of.preprocess()(pixels))
    for uri in (str(tmp_path), str(tmp_path / "bundle")):  # the train run's out, or the folder
        bundle = load_bundle(uri, Storage())
        assert read_spec(uri, Storage()) == bundle.spec == of
        assert torch.equal(bundle.logits(pixels), expected)
        assert torch.equal(bundle.network.classify(bundle.features(pixels)), expected)
        assert not bundle.network.training
        assert not any(p.requires_grad for p in bundle.network.parameters())
        digests = bundle_digests(uri, Storage())
        assert digests.keys() == {"model.json", "model.safetensors"}
        assert bundle_digest(digests)[:12] == bundle.model_id


def test_scores_take_the_temperature_and_loading_leaves_torchs_generator_alone(files):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    bundle = make_bundle(files, "b")
    assert torch.equal(torch.rand(3), expected)
    z = torch.tensor([[2.0, -4.0]])
    torch.testing.assert_close(bundle.scores(z), (z / 2).double().sigmoid())
    many = replace(bundle, spec=spec(task="multiclass"))
    torch.testing.assert_close(many.scores(z), (z / 2).double().softmax(1))


def test_the_same_weights_give_the_same_bytes_weights_first(files):
    assert list(files) == ["model.safetensors", "model.json"]
    shuffled = dict(reversed(list(network(spec()).state_dict().items())))
    assert bundle_files(spec(), shuffled) == files
    shuffled["head.bias"] += 1e-6
    assert bundle_files(spec(), shuffled)["model.safetensors"] != files["model.safetensors"]


def test_what_is_no_bundle_is_refused(tmp_path, files):
    (tmp_path / "run.json").write_text("{}")
    for uri in (tmp_path, tmp_path / "absent"):
        with pytest.raises(InputError, match=r"not a bundle: no model\.json in it"):
            load_bundle(str(uri), Storage())
    write(tmp_path, {"model.json": files["model.json"]})
    with pytest.raises(InputError, match=r"model\.safetensors"):
        load_bundle(str(tmp_path), Storage())
    other = spec(classes=("a", "b", "c"), thresholds=(0.5,) * 3)
    foreign = bundle_files(other, network(other).state_dict())["model.safetensors"]
    for data, said in (
        (b"", "not a safetensors"),
        (b"\x02\0\0\0\0\0\0\0{}", r"does not belong to its model\.json"),
        (files["model.safetensors"][:-100], "not a safetensors file"),
        (foreign, r"does not belong to its model\.json: .*head\.weight"),
    ):
        with pytest.raises(InputError, match=rf"^b/model\.safetensors.*{said}") as caught:
            make_bundle({**files, "model.safetensors": data}, "b")
        assert "\n" not in str(caught.value)


# model.json, strictly


def document(**changes):
    return {**json.loads(spec().to_json()), **changes}


def read(doc):
    data = doc if isinstance(doc, bytes) else json.dumps(doc).encode()
    return BundleSpec.from_json(data, "b/model.json")


PIXELS = TrainedPixels("EPSG:4326", 1e-4, 2e-4, (5.0, 11.0), (8.0, 11.5))


def test_json_comes_back_and_older_bundles_are_read():
    for of in (
        spec("single4"),
        spec("double4", resize=40, evaluate="centre", resolution=None),
        spec(resolution=7.0, resolution_y=11.2, trained_px=(PIXELS,), nodata=-9999.0),
        spec(units=((0.0001, -0.1, "reflectance"), None, (1.0, 0.0, "")), task="multiclass"),
        spec(radiometry=Radiometry("percentile", (1.0, 2.0, 3.0), (4.0, 5.0, 6.5))),
        paper(),
    ):
        again = BundleSpec.from_json(of.to_json(), "b")
        assert again == of
        assert again.to_json() == of.to_json()
        assert again.preprocess().radiometry == of.radiometry
    old = read({key: value for key, value in document().items() if key not in LATER})
    assert old == spec(dropout=0.0, provenance={})
    assert old.radiometry == Radiometry("stored")


def stretch(low, high):
    return {"name": "percentile", "low": low, "high": high}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"version": 2}, "version 2 of the bundle format; this satray reads 1"),
        ({"colour": "red"}, "colour: Unexpected keyword"),
        ({"mean": [1.0]}, r"mean: found \(1\.0,\), accepted: 3 numbers"),
        ({"mean": [1.0, 2.0, 10**400]}, r"mean\.2: "),
        ({"thresholds": [0.5]}, "thresholds: found .*, accepted: 2 numbers"),
        ({"bands": ["red", "green", "nir"]}, "bands: .*accepted: red, green, blue"),
        ({"classes": ["ship", "ship"]}, "classes: .*distinct"),
        ({"task": "binary"}, "one for a binary task"),
        ({"resize": 16}, "resize: found 16, accepted: 32 or up"),
        ({"grids": {}}, "grids: .*accepted: rgb"),
        ({"units": [None]}, "units: .*accepted: 3 or none"),
        ({"units": [None, None, [0, 0, "m"]]}, "units: .*scales not 0"),
        ({"radiometry": {"name": "pil_compat"}}, "bands: .*accepted: red, green, blue, nir"),
        ({"radiometry": stretch([1.0], [2.0])}, "accepted: 3 low, 3 high"),
        ({"radiometry": stretch([1, 2, 3], [2, 3, 2])}, "accepted: no low above its high"),
    ],
)
def test_values_that_do_not_fit_are_named(changes, said):
    with pytest.raises(InputError, match=rf"^b/model\.json: .*{said}") as caught:
        read(document(**changes))
    assert "\n" not in str(caught.value)


def test_what_is_no_model_json_lacks_a_key_or_holds_no_number():
    for data in (b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"format": "other"}'):
        with pytest.raises(InputError, match=r"^b/model\.json: not a bundle's model\.json") as told:
            read(data)
        assert "\n" not in str(told.value)
    for key in set(document()) - {"format", "version"} - LATER:
        doc = document()
        del doc[key]
        with pytest.raises(InputError, match=rf"^b/model\.json: {key}: Field required"):
            read(doc)
    for text in ("NaN", "1e999"):
        with pytest.raises(InputError, match=r"^b/model\.json: "):
            read(spec().to_json().replace(b'"temperature": 2.0', f'"temperature": {text}'.encode()))
    with pytest.raises(ValueError, match="JSON"):
        spec(provenance={"map": float("nan")}).to_json()
    doc = json.loads(paper().to_json())
    doc["radiometry"]["name"] = "stored"
    with pytest.raises(InputError, match="bands: found"):  # a band that nobody looks at
        read(doc)
