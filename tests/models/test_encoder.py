"""A tower as the encoder of a U-Net: the same features, from a file, at strides 2 to 32."""

import json

import pytest
import scoring_material as material
import torch

from satray.errors import InputError
from satray.models.backbones import build
from satray.models.encoder import Encoder, encoder_file, find_levels, load_encoder
from satray.models.preprocess import normalize

SHAPES = {
    "simple_cnn": [(2, 24), (4, 48), (8, 128)],
    "resnet18": [(2, 64), (4, 64), (8, 128), (16, 256), (32, 512)],
    "mobilenetv2_100": [(2, 16), (4, 24), (8, 32), (16, 96), (32, 1280)],
    "legacy_xception": [(2, 64), (4, 128), (8, 256), (16, 728), (32, 2048)],
    "resnetv2_50": [(2, 64), (4, 256), (8, 512), (16, 1024), (32, 2048)],
    "inception_v3": [(2, 64), (4, 192), (8, 288), (16, 768), (32, 2048)],
    "convnext_atto": [(4, 40), (8, 80), (16, 160), (32, 320)],  # has no stride 2
}


@pytest.mark.parametrize("name", SHAPES)
def test_levels_of_a_backbone(name):
    backbone = build(name, 3).eval()
    levels = find_levels(backbone)
    assert [(level.stride, level.channels) for level in levels] == SHAPES[name]
    copies = {}
    for level in levels[:-1]:  # as they are when the module gives them
        backbone.block(level.module).register_forward_hook(
            lambda _m, _i, out, name=level.module: copies.__setitem__(name, out.clone())
        )
    x = torch.randn(1, 3, 96, 160)
    spec = material.bundle(material.one_tower()).spec
    with torch.inference_mode():
        pyramid = Encoder(backbone, spec, "rgb", levels)(x)
        assert torch.equal(pyramid[-1], backbone(x))
    for level, f in zip(levels, pyramid, strict=True):
        assert f.shape[:2] == (1, level.channels)
        if name != "inception_v3" and name != "legacy_xception":  # convolve without padding
            assert f.shape[2:] == (96 // level.stride, 160 // level.stride)
        if level.module:  # nothing later changed it in place
            assert torch.equal(f, copies[level.module])


@pytest.fixture
def bundle():
    return material.bundle(material.two_towers(), mean=(1.0, 2.0, 3.0, 4.0))


@pytest.fixture
def file(bundle, tmp_path):
    levels = find_levels(bundle.network.backbones()["nir"])
    path = tmp_path / "nir.safetensors"
    path.write_bytes(encoder_file(bundle, "nir", levels))
    return path


def test_a_loaded_encoder_gives_the_bundles_features(bundle, file):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    encoder = load_encoder(str(file))
    assert torch.equal(torch.rand(2), expected)
    assert (encoder.strides, encoder.channels) == ((2, 4, 8), (24, 48, 128))
    assert encoder.bands == ("nir", "nir", "nir")
    pixels = torch.from_numpy(material.pixels(0, side=32))[None]  # nothing to resize
    x = encoder.normalize(pixels)
    with torch.inference_mode():
        last = encoder(x)[-1]
    _, features = bundle.logits(pixels, return_features=True)
    assert torch.allclose(last, features["nir"], atol=1e-5)
    assert not encoder.training


def test_any_shape_is_normalised_and_neither_resized_nor_cropped(bundle, file):
    pixels = torch.from_numpy(material.pixels(1, side=40))[None, :, :24]
    encoder = load_encoder(str(file))
    expected = normalize(pixels, bundle.spec.mean, bundle.spec.std)[:, [3, 3, 3]]
    assert torch.equal(encoder.normalize(pixels), expected)
    assert [tuple(f.shape[2:]) for f in encoder(expected)] == [(12, 20), (6, 10), (3, 5)]


def test_an_encoder_can_be_trained_further(file):
    encoder = load_encoder(str(file)).train()
    sum(f.mean() for f in encoder(torch.randn(2, 3, 32, 32))).backward()
    assert all(p.grad is not None for p in encoder.parameters())


def test_the_same_bundle_gives_the_same_bytes(bundle, file):
    levels = find_levels(bundle.network.backbones()["nir"])
    assert {encoder_file(bundle, "nir", levels) for _ in range(5)} == {file.read_bytes()}


def test_what_is_no_encoder_is_refused(bundle, file, tmp_path):
    from safetensors.torch import save

    stranger = tmp_path / "other.safetensors"
    for data in (b"", b"\0" * 30, save({"a": torch.zeros(1)}), file.read_bytes()[:-8]):
        stranger.write_bytes(data)
        with pytest.raises(InputError, match=r"other\.safetensors: ") as caught:
            load_encoder(str(stranger))
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError):
        load_encoder(str(tmp_path / "absent.safetensors"))


def test_weights_of_another_backbone_are_refused(bundle, file, tmp_path):
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    about = json.loads(header["__metadata__"]["bundle"])
    about["variant"]["towers"][1]["backbone"] = "resnet18"
    header["__metadata__"]["bundle"] = json.dumps(about)
    text = json.dumps(header).encode()
    changed = tmp_path / "changed.safetensors"
    changed.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    with pytest.raises(InputError, match="weights do not fit resnet18"):
        load_encoder(str(changed))
