"""Weights of files: what is read, which network of a file is meant, how bands meet its stem."""

import functools
import math
import pickle
import re

import pytest
import scoring_material as material
import timm
import torch
import torchvision
from safetensors.torch import save_file
from timm.models import adapt_input_conv

from satray.config.train import TowerOptions, VariantOptions
from satray.errors import InputError
from satray.models.backbones import build
from satray.models.bundle import bundle_files
from satray.models.network import Network
from satray.models.pretrained import sources_of
from satray.models.variant import resolve
from satray.models.weights import (
    SENTINEL2,
    Stored,
    adapt_first_conv,
    load_network_weights,
    load_weights,
    read_weights,
)
from satray.storage import Storage

RGB = ("red", "green", "blue")
RGBN = (*RGB, "nir")


@functools.cache
def weights_of(name):
    """A state dict of three bands; not to be written to."""
    return build(name, 3).body.state_dict()


def load(state, name="simple_cnn", bands=RGB, source="w", **options):
    """Load a state dict into a new backbone; the backbone and what is said."""
    backbone = build(name, len(bands)).eval()
    return backbone, load_weights(Stored(source, state), backbone, bands, **options)


def same(backbone, source):
    found = backbone.body.state_dict()
    return all(torch.equal(found[name], value) for name, value in source.items())


def randomised(module):
    """Random batch norms too, so that a swap of two of them shows."""
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if name.endswith("running_var") or (value.ndim == 1 and name.endswith("weight")):
                value.uniform_(0.5, 1.5)
            elif name.endswith(("running_mean", "bias")):
                value.normal_(0, 0.1)
    return module.eval()


# -- files


class Code:
    def __reduce__(self):
        return (print, ("this ran",))


def read(path):
    found = read_weights({"rgb": str(path)}, resolve("simple_cnn"), Storage())
    return found["rgb"].tensors


def test_formats_are_told_by_content(tmp_path):
    state = {"a.weight": torch.randn(2, 3), "b": torch.arange(3)}
    save_file(state, tmp_path / "w.safetensors")
    save_file(state, tmp_path / "w.bin")
    torch.save(state, tmp_path / "pickle.safetensors")
    for wrapper in ("state_dict", "model", "network", "teacher"):  # the only dict of tensors
        torch.save(
            {wrapper: state, "optimizer": {"lr": 1}, "epoch": 3}, tmp_path / f"{wrapper}.pth"
        )
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    for path in tmp_path.iterdir():
        found = read(path)
        assert found.keys() == state.keys()
        assert all(torch.equal(found[key], state[key]) for key in state)


def pickled(path):
    path.write_bytes(pickle.dumps({"state_dict": {}, "hook": Code()}))


def truncated(path):
    torch.save({"a": torch.randn(1000)}, path)
    path.write_bytes(path.read_bytes()[:2000])


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize(
    ("write", "said"),
    [
        (pickled, r"more than tensors in it.*torch\.save\(model\.state_dict\(\), FILE\)"),
        (lambda p: torch.save({"a": torch.zeros(1), "hook": Code()}, p), "more than tensors in it"),
        (lambda p: torch.save(torch.nn.Linear(1, 1), p), "more than tensors in it"),
        (lambda p: torch.jit.script(torch.nn.Linear(2, 2)).save(p), "more than tensors in it"),
        (lambda p: torch.save([torch.zeros(1)], p), "holds no tensors by name"),
        (
            lambda p: torch.save({n: {"a": torch.zeros(1)} for n in ("student", "teacher")}, p),
            "holds no tensors by name",  # which of them?
        ),
        (truncated, "not a PyTorch file"),
        (lambda p: p.write_bytes(b"PK\3\4" + b"0" * 99), "not a PyTorch file"),
        (lambda p: p.write_bytes(b"<!DOCTYPE html>" * 9), "not a PyTorch file: it begins b"),
        (lambda p: p.write_bytes(b""), "not a PyTorch file: it is empty"),
        (lambda p: None, "does not exist"),
        (lambda p: p.write_bytes(b"\0" * 8 + b'{"' + b"\0" * 40), "not a safetensors file"),
    ],
)
def test_what_is_no_file_of_weights_is_refused_and_does_not_run(tmp_path, capfd, write, said):
    write(tmp_path / "w.pth")
    with pytest.raises(InputError, match=said) as caught:
        read(tmp_path / "w.pth")
    assert "\n" not in str(caught.value)
    assert "this ran" not in capfd.readouterr().out


# -- which tensors are meant


@pytest.mark.parametrize(
    ("theirs", "ours", "options", "prefix"),
    [
        ("resnet18", "resnet18", {}, "module."),
        ("mobilenet_v2", "mobilenetv2_100", {}, ""),
        ("mobilenet_v2", "mobilenetv2_100", {}, "module."),
        ("inception_v3", "inception_v3", {"aux_logits": True, "init_weights": False}, ""),
        ("regnet_x_400mf", "regnetx_004_tv", {}, ""),
    ],
)
def test_torchvision_weights_give_equal_features(theirs, ours, options, prefix):
    network = randomised(getattr(torchvision.models, theirs)(weights=None, **options))
    state = {prefix + name: value for name, value in network.state_dict().items()}
    last = {
        "resnet18": "layer4",
        "mobilenet_v2": "features",
        "inception_v3": "Mixed_7c",
        "regnet_x_400mf": "trunk_output",
    }[theirs]
    found = {}
    module = network.get_submodule(last)
    module.register_forward_hook(lambda m, i, o: found.update(f=o))
    backbone, line = load(state, ours)
    assert "left out" not in line
    x = torch.randn(2, 3, 107, 107)
    with torch.inference_mode():
        network(x)
        torch.testing.assert_close(backbone(x), found["f"], rtol=1e-4, atol=1e-5)


CONVNEXT = (  # Facebook's names, and timm's
    (r"stem\.", "downsample_layers.0."),
    (r"stages\.(\d)\.downsample", r"downsample_layers.\1"),
    (r"stages\.(\d)\.blocks", r"stages.\1"),
    (r"conv_dw", "dwconv"),
    (r"mlp\.fc", "pwconv"),
)


def test_names_of_another_repository_are_converted_as_timm_does():
    source = weights_of("convnext_atto")
    state = {"norm.weight": torch.ones(320), "norm.bias": torch.zeros(320)}
    for name, value in source.items():
        for ours, theirs in CONVNEXT:
            name = re.sub(ours, theirs, name)
        state[name] = value
    assert not state.keys() & {"stem.0.weight"}
    assert same(load(state, "convnext_atto")[0], source)


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("eva02_tiny_patch14_224", ()),  # normalises the mean of the tokens
        ("deit_tiny_distilled_patch16_224", ()),  # two heads
        ("efficientvit_b0", ()),  # does not let go of its pooling
        ("vit_tiny_patch16_224", ("attn_pool.latent",)),  # as SigLIP's
    ],
)
def test_what_timm_publishes_of_a_backbone_fits_it(name, more):
    state = timm.create_model(name).state_dict() | {each: torch.ones(1, 2) for each in more}
    state |= {n: torch.full_like(v, 0.5) for n, v in state.items() if n.startswith("fc_norm")}
    backbone, _ = load(state, name)
    found = backbone.body.state_dict()
    renamed = {n.removeprefix("fc_"): v for n, v in state.items()}
    assert all(torch.equal(found[n], renamed[n]) for n in found)
    assert backbone(torch.randn(1, 3, 224, 224)).shape[1] == backbone.dim


@pytest.mark.parametrize("prefix", ["", "module.", "module.model.backbone."])
def test_prefixes(prefix):
    source = weights_of("simple_cnn")
    state = {prefix + name: value for name, value in source.items()}
    state[prefix + "fc.weight"] = torch.zeros(3)
    others = {"decoder.weight": torch.zeros(3)} if prefix else {}
    backbone, line = load(state | others)
    assert same(backbone, source)
    left = f", its part {prefix}* (1 others left out)" if others else ""
    assert line == f"weights of tower simple_cnn: {len(source)} tensors from w{left}"


@pytest.mark.parametrize(
    ("taken", "left", "said"),
    [
        ("model.encoder.", "model.decoder.block._", ""),
        ("", "teacher.head._", r"15 unexpected \(teacher\.head\._block1"),
        ("module.encoder_q.", "module.encoder_k.", r"holds 2 networks that fit"),  # MoCo
        ("model.", "model_ema.module.", r"holds 2 networks that fit"),
        ("student.", "teacher.", r"^w: holds 2 networks that fit \(student\.\*, teacher"),
    ],
)
def test_the_network_of_a_file_is_taken_and_named_where_there_is_one(taken, left, said):
    source = weights_of("simple_cnn")
    state = {taken + name: value for name, value in source.items()}
    state |= {left + name: value * 0 + 7 for name, value in source.items()}
    if said:
        with pytest.raises(InputError, match=said):
            load(state)
        return
    backbone, line = load(state)
    assert same(backbone, source)
    assert line.endswith(f"w, its part {taken}* (15 others left out)")


def test_what_does_not_fit_is_listed_and_nothing_is_loaded():
    state = dict(weights_of("resnet10t"))
    state.pop("layer4.0.conv1.weight")
    state["layer3.0.conv2.weight"] = torch.zeros(1, 2, 3, 3)
    state |= {f"extra{n}.weight": torch.zeros(2) for n in range(5)} | {"fc.weight": torch.zeros(2)}
    backbone = build("resnet10t", 3)
    before = {name: value.clone() for name, value in backbone.body.state_dict().items()}
    with pytest.raises(InputError) as caught:
        load_weights(Stored("w.pth", state), backbone, RGB)
    for said in (
        "1 of its 70 tensors missing (layer4.0.conv1.weight)",
        "5 unexpected (extra0.weight",
        "and 2 more)",
        "1 of another shape (layer3.0.conv2.weight (1x2x3x3 for 256x256x3x3))",
    ):
        assert said in str(caught.value)
    assert same(backbone, before)


@pytest.mark.parametrize(
    ("stored", "wanted", "told"),
    [
        ("resnet34", "resnet18", "80 unexpected (layer1.2"),
        ("resnet10t", "resnet18", "tensors missing (conv1.weight"),
        ("resnet26", "resnet18", "of another shape (layer1.0.conv1.weight (64x64x1x1 for 64x64x3"),
        ("tf_efficientnet_lite1", "tf_efficientnet_lite0", "unexpected (blocks."),
        ("vit_tiny_patch16_224", "resnet18", "missing"),
    ],
)
def test_another_architectures_weights_are_refused(stored, wanted, told):
    with pytest.raises(InputError) as caught:
        load(weights_of(stored), wanted)
    assert str(caught.value).startswith(f"w: does not fit {wanted}: ")
    assert told in str(caught.value)


def test_numbers_that_are_no_weights_are_refused():
    source = weights_of("resnet10t")
    inner = source["layer1.0.conv1.weight"]
    for name, value in (
        ("conv1.0.weight", source["conv1.0.weight"].to(torch.complex64)),
        ("layer1.0.conv1.weight", inner.to(torch.int8)),
        ("layer1.0.conv1.weight", inner * torch.nan),
    ):
        with pytest.raises(InputError, match=f"^w: {name} .*holds no finite numbers"):
            load(source | {name: value}, "resnet10t")


# -- towers


def test_one_file_serves_both_towers_of_double4(tmp_path):
    source = weights_of("resnet18")
    torch.save(source, tmp_path / "w.pth")
    path, variant = str(tmp_path / "w.pth"), resolve("double4")
    found = read_weights(sources_of(path, variant), variant, Storage())
    assert found["rgb"] is found["nir"]  # read once
    network = Network(variant, 17)
    assert [line[:20] for line in load_network_weights(network, found)] == [
        "weights of tower rgb",
        "weights of tower nir",
    ]
    for backbone in network.backbones().values():  # NIR thrice takes the RGB weights as they are
        assert torch.equal(backbone.body.conv1.weight, source["conv1.weight"])
    for given in ({"rgb": path, "nir": "none"}, {"rgb": path}):
        assert list(read_weights(sources_of(given, variant), variant, Storage())) == ["rgb"]
    assert read_weights(sources_of("none", variant), variant, Storage()) == {}
    with pytest.raises(InputError, match="no tower sar; accepted: rgb, nir"):
        sources_of({"sar": "none"}, variant)


def test_a_bundles_weights_find_their_tower_and_their_bands(tmp_path):
    """By name: the earlier network's bands stood in another order."""
    options = {"backbone": "simple_cnn"}
    towers = (
        TowerOptions(name="all", bands=("blue", "green", "red", "nir"), **options),
        TowerOptions(name="other", bands=("nir", "red", "nir", "nir"), **options),
    )
    variant = VariantOptions(towers=towers)
    spec = material.spec(variant, task="binary", classes=("ship",))
    first = Network(variant, 1)
    for name, data in bundle_files(spec, first.state_dict()).items():
        (tmp_path / name).write_bytes(data)
    wanted = VariantOptions(
        towers=(TowerOptions(name="all", bands=(*RGBN, "swir16"), **options), towers[1])
    )
    sources = sources_of(str(tmp_path / "model.safetensors"), wanted)
    second = Network(wanted, 1)
    load_network_weights(second, read_weights(sources, wanted, Storage()), "zero")
    old, new = (network.backbones()["all"].body.block1[0].weight for network in (first, second))
    assert torch.equal(new[:, :4], old[:, [2, 1, 0, 3]])
    assert not new[:, 4].any()
    assert same(second.backbones()["other"], first.backbones()["other"].body.state_dict())


# -- the first convolution


def stem(bands=3):
    return torch.randn(64, bands, 7, 7)


@pytest.mark.parametrize("how", ["kaiming", "zero"])
@pytest.mark.parametrize(
    ("bands", "stored", "channels"),
    [
        (RGBN, 3, (0, 1, 2, None)),
        (("nir", "blue", "green", "red"), 3, (None, 2, 1, 0)),
        (("blue", "green", "red"), 3, (2, 1, 0)),
        (("nir",) * 3, 3, (0, 1, 2)),  # as many, of other names: as they are
        (("red",) * 3, 3, (0, 1, 2)),
        (("nir", "red", "green"), 3, (None, 0, 1)),
        (RGBN, 4, (0, 1, 2, 3)),
        (SENTINEL2[::-1], 13, range(12, -1, -1)),
        (tuple(f"b{n}" for n in range(13)), 13, range(13)),
        (RGBN, 13, (3, 2, 1, 7)),
        (("swir16", "vv"), 13, (11, None)),
    ],
)
def test_weights_are_kept_bit_for_bit_by_name_and_what_they_lack_is_filled(
    bands, stored, channels, how
):
    w = stem(stored)
    adapted = adapt_first_conv(w, bands, how)
    for place, channel in enumerate(channels):
        if channel is not None:
            assert torch.equal(adapted[:, place], w[:, channel])
        elif how == "zero":
            assert not adapted[:, place].any()
        else:  # the report's: fan-in of the NIR part alone
            assert adapted[:, place].std() == pytest.approx(math.sqrt(2 / 49), rel=0.05)


def test_copy_is_timms_mean_keeps_the_sum_over_channels_and_names_decide():
    w = stem()
    for n in (1, 2, 4, 5, 8):
        bands = (*RGBN, "swir16", "swir22", "pan", "coastal")[:n]
        torch.testing.assert_close(adapt_first_conv(w, bands, "copy"), adapt_input_conv(n, w))
    adapted = adapt_first_conv(w, RGBN, "mean")
    torch.testing.assert_close(adapted[:, 3], w.mean(1) * 0.75)
    torch.testing.assert_close(adapted[:, :3], w * 0.75)
    torch.testing.assert_close(adapt_first_conv(w, ("pan",), "mean")[:, 0], w.sum(1))
    wide = stem(13)
    adapted = adapt_first_conv(wide, ("red", "vv"), "mean")
    torch.testing.assert_close(adapted[:, 0], wide[:, 3] * 6.5)
    torch.testing.assert_close(adapted[:, 1], wide.mean(1) * 6.5)
    assert torch.equal(adapt_first_conv(wide, RGBN, "in_place"), wide[:, :4])
    assert torch.equal(adapt_first_conv(w, ("nir", "red", "green"), "in_place"), w)
    four = stem(4)
    swapped = adapt_first_conv(four, RGBN, "mean", stored_bands=("nir", *RGB))
    assert torch.equal(swapped, four[:, [1, 2, 3, 0]])


def test_what_cannot_be_adapted():
    with pytest.raises(InputError, match=r"takes 2 bands, the tower 4 .*accepted: as many, 3 "):
        adapt_first_conv(stem(2), RGBN, "mean")
    with pytest.raises(InputError, match="would blind a tower of vv, vh"):
        adapt_first_conv(stem(), ("vv", "vh"), "zero")
    with pytest.raises(InputError, match=r"^w: weights: the first convolution takes 4 bands"):
        load(build("resnet10t", 4).body.state_dict(), "resnet10t")
