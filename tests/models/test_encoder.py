"""A tower as the encoder of a U-Net: timm's own pyramid, from a file that timm alone can read."""

import json

import pytest
import scoring_material as material
import timm
import torch
from safetensors.torch import load, save

from satray.config.train import TowerOptions, VariantOptions
from satray.errors import InputError
from satray.models.bundle import bundle_files, make_bundle
from satray.models.encoder import encoder_file, load_encoder
from satray.models.network import Network
from satray.models.preprocess import normalize


def spec_of(backbone):
    """Of one tower that looks at four bands."""
    tower = TowerOptions(name="all", backbone=backbone, bands=material.BANDS)
    about = {"task": "binary", "classes": ("ship",), "grids": {"all": material.GRID}}
    return material.spec(VariantOptions(towers=(tower,)), tile_shape=(32, 32), **about)


@pytest.mark.parametrize(
    "name",
    ["resnet10t", "mobilenetv2_050", "convnext_atto", "vit_tiny_patch16_224",
     "swin_tiny_patch4_window7_224"],
)  # fmt: skip
def test_timm_alone_reads_the_file(name, tmp_path):
    spec = spec_of(name)
    bundle = make_bundle(bundle_files(spec, Network(spec.variant, 1).state_dict()), "here")
    path = tmp_path / "all.safetensors"
    path.write_bytes(encoder_file(bundle, "all"))
    given = {"dynamic_img_size": True} if name.startswith(("vit", "swin")) else {}
    plain = timm.create_model(name, features_only=True, in_chans=4, **given).eval()
    plain.load_state_dict(load(path.read_bytes()))
    x = torch.randn(1, 4, 96, 160)
    with torch.inference_mode():
        pyramid, theirs = load_encoder(str(path))(x), plain(x)
        if name.startswith("swin"):  # it gives its channels last
            theirs = [f.permute(0, 3, 1, 2) for f in theirs]
        assert all(torch.equal(f, other) for f, other in zip(pyramid, theirs, strict=True))
        if name == "resnet10t":  # the others go on after the last level
            torch.testing.assert_close(pyramid[-1], bundle.network.backbones()["all"](x))


@pytest.fixture
def bundle():
    return material.bundle(material.two_towers(), mean=(1.0, 2.0, 3.0, 4.0))


@pytest.fixture
def file(bundle, tmp_path):
    path = tmp_path / "nir.safetensors"
    path.write_bytes(encoder_file(bundle, "nir"))
    assert encoder_file(bundle, "nir") == path.read_bytes()
    return path


def test_a_loaded_encoder_gives_the_bundles_features_and_can_be_trained(bundle, file):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    encoder = load_encoder(str(file))
    assert torch.equal(torch.rand(2), expected)
    assert (encoder.bands, encoder.training) == (("nir", "nir", "nir"), False)
    pixels = torch.from_numpy(material.pixels(0, side=32))[None]  # nothing to resize
    features = bundle.features(pixels)
    torch.testing.assert_close(encoder(encoder.normalize(pixels))[-1], features["nir"])
    # any shape is normalised, and neither resized nor cropped
    pixels = torch.from_numpy(material.pixels(1, side=40))[None, :, :24]
    x = normalize(pixels, bundle.spec.mean, bundle.spec.std)[:, [3, 3, 3]]
    assert torch.equal(encoder.normalize(pixels), x)
    assert [tuple(f.shape[2:]) for f in encoder(x)] == [(12, 20), (6, 10), (3, 5)]
    sum(f.mean() for f in encoder.train()(torch.randn(2, 3, 32, 32))).backward()
    assert all(p.grad is not None for p in encoder.parameters())


def test_what_is_no_encoder_is_refused(file, tmp_path):
    data, stranger = file.read_bytes(), tmp_path / "other.safetensors"
    about = json.loads(json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])[
        "__metadata__"]["satray"])  # fmt: skip
    about["bundle"]["variant"]["towers"][1]["backbone"] = "resnet10t"
    foreign = save(load(data), metadata={"satray": json.dumps(about)})
    for broken, said in (
        (b"", "no encoder"),
        (save({"a": torch.zeros(1)}), "no encoder that the job export wrote"),
        (data[:-8], "no encoder"),
        (foreign, "no encoder .*loading state_dict"),
    ):
        stranger.write_bytes(broken)
        with pytest.raises(InputError, match=rf"other\.safetensors: {said}") as caught:
            load_encoder(str(stranger))
        assert "\n" not in str(caught.value)
