import re

import pytest
import torch
import torchvision

from satray.config.train import TowerOptions, VariantOptions
from satray.errors import InputError
from satray.models.backbones import build
from satray.models.network import Network
from satray.models.pretrained import sources_of
from satray.models.variant import resolve
from satray.models.weights import load_network_weights, load_weights, read_weights
from satray.storage import Storage

RGB = ("red", "green", "blue")


def randomised(module):
    """Random batch norms too, so that a swap of two of them shows."""
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if name.endswith("running_var") or (value.ndim == 1 and name.endswith("weight")):
                value.uniform_(0.5, 1.5)
            elif name.endswith(("running_mean", "bias")):
                value.normal_(0, 0.1)
    return module.eval()


def torchvision_features(name, network, x):
    if name == "resnet18":
        trunk = torch.nn.Sequential(*list(network.children())[:-2])
        return trunk(x)
    if name == "mobilenet_v2":
        return network.features(x)
    found = {}
    handle = network.Mixed_7c.register_forward_hook(lambda m, i, o: found.update(f=o))
    network(x)
    handle.remove()
    return found["f"]


@pytest.mark.parametrize(
    ("theirs", "ours", "options"),
    [
        ("resnet18", "resnet18", {}),
        ("mobilenet_v2", "mobilenetv2_100", {}),
        ("inception_v3", "inception_v3", {"aux_logits": True, "init_weights": False}),
    ],
)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_torchvision_weights_give_equal_features(theirs, ours, options, prefix):
    network = randomised(getattr(torchvision.models, theirs)(weights=None, **options))
    state = {prefix + name: value for name, value in network.state_dict().items()}
    backbone = build(ours, 3).eval()
    report = load_weights({"state_dict": state}, backbone, RGB)
    x = torch.randn(2, 3, 107, 107)
    with torch.inference_mode():
        torch.testing.assert_close(
            backbone(x), torchvision_features(theirs, network, x), rtol=1e-4, atol=1e-5
        )
    assert report.head
    assert not report.others


def test_cadene_xception_with_flat_pointwise_weights():
    source = randomised(build("legacy_xception", 3))
    state = {}
    for name, value in source.body.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue  # from before PyTorch 0.4.1
        state[name] = value[:, :, 0, 0] if "pointwise" in name else value
    state |= {"last_linear.weight": torch.zeros(1000, 2048), "last_linear.bias": torch.zeros(1000)}
    backbone = build("legacy_xception", 3).eval()
    report = load_weights(state, backbone, RGB)
    assert report.head == ("last_linear.weight", "last_linear.bias")
    x = torch.randn(1, 3, 96, 96)
    with torch.inference_mode():
        assert torch.equal(backbone(x), source(x))


@pytest.mark.parametrize(
    "prefix", ["module.", "model.", "backbone.", "encoder.", "module.model.backbone.", "model.net."]
)
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
def test_prefixes_and_wrappers(prefix, wrapper):
    source = build("simple_cnn", 3).body.state_dict()
    state = {prefix + name: value for name, value in source.items()}
    state |= {"decoder.weight": torch.zeros(3), prefix + "fc.weight": torch.zeros(3)}
    backbone = build("simple_cnn", 3)
    wrapped = {wrapper: state, "epoch": 3, "optimizer": {"lr": 1}} if wrapper else state
    report = load_weights(wrapped, backbone, RGB)
    assert all(torch.equal(v, source[n]) for n, v in backbone.body.state_dict().items())
    assert report.loaded == len(source)
    assert report.head == ("fc.weight",)
    assert (report.part, report.others) == (prefix, 1)


@pytest.mark.parametrize(
    ("taken", "left"),
    [
        ("module.encoder_q.", "module.encoder_k."),  # MoCo
        ("module.base_encoder.", "module.momentum_encoder."),  # MoCo v3
        ("online_network.", "target_network."),  # BYOL
        ("model.", "model_ema.module."),
        ("model.", "ema."),
        ("model.encoder.", "model.decoder.block."),
        ("", "teacher.head."),
    ],
)
def test_the_followed_network_of_a_file_is_taken_and_named(taken, left):
    source = build("simple_cnn", 3).body.state_dict()
    state = {taken + name: value for name, value in source.items()}
    others = {left + name: value * 0 + 7 for name, value in source.items()}
    if "decoder" in left or "teacher" in left:
        others = {name + "_": value for name, value in others.items()}
    backbone = build("simple_cnn", 3)
    if not taken:
        with pytest.raises(InputError, match=r"15 unexpected \(teacher\.head\.block1"):
            load_weights(state | others, backbone, RGB)
        return
    report = load_weights(state | others, backbone, RGB, source="w.ckpt")
    assert all(torch.equal(v, source[n]) for n, v in backbone.body.state_dict().items())
    assert report.line().endswith(f"w.ckpt, its part {taken}* (15 others left out)")


def test_of_two_networks_none_is_guessed():
    source = build("simple_cnn", 3).body.state_dict()
    state = {
        f"{side}.backbone.{n}": v for side in ("student", "teacher") for n, v in source.items()
    }
    with pytest.raises(
        InputError, match=r"^w\.pth: holds 2 networks that fit \(student\.backbone\.\*, teacher"
    ):
        load_weights(state, build("simple_cnn", 3), RGB, source="w.pth")


def test_names_that_timm_converts_are_converted():
    """A ConvNeXt as its authors name it, bare and behind a prefix."""
    source = randomised(build("convnext_atto", 3)).body
    state = {}
    for name, value in source.state_dict().items():
        name = re.sub(r"^stem\.", "downsample_layers.0.", name)
        name = re.sub(r"^stages\.(\d)\.downsample\.", r"downsample_layers.\1.", name)
        name = re.sub(r"\.blocks\.(\d+)\.", r".\1.", name).replace("conv_dw", "dwconv")
        name = name.replace("mlp.fc", "pwconv")
        state[name] = value
    state |= {"norm.weight": torch.ones(320), "norm.bias": torch.zeros(320)}
    state |= {"head.weight": torch.ones(5, 320), "head.bias": torch.zeros(5)}
    for prefix in ("", "module."):
        backbone = build("convnext_atto", 3)
        report = load_weights({prefix + n: v for n, v in state.items()}, backbone, RGB)
        assert all(
            torch.equal(v, source.state_dict()[n]) for n, v in backbone.body.state_dict().items()
        )
        assert {name.split(".")[0] for name in report.head} == {"head"}


def test_weights_of_an_earlier_bundle_find_their_tower():
    tower = {"backbone": "simple_cnn", "bands": RGB}
    towers = tuple(TowerOptions(name=name, **tower) for name in ("a", "b"))
    state = Network(VariantOptions(towers=towers), 2).state_dict()
    backbone = build("simple_cnn", 3)
    for name in ("a", "b"):
        load_weights(state, backbone, RGB, tower=name)
        key = "block1.0.weight"
        assert torch.equal(backbone.body.state_dict()[key], state[f"towers.{name}.body.{key}"])


def test_what_does_not_fit_is_listed_and_nothing_is_loaded():
    state = dict(build("resnet10t", 3).body.state_dict())
    state.pop("layer4.0.conv1.weight")
    state["layer3.0.conv2.weight"] = torch.zeros(1, 2, 3, 3)
    state |= {f"extra{n}.weight": torch.zeros(2) for n in range(5)} | {"fc.weight": torch.zeros(2)}
    backbone = build("resnet10t", 3)
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    with pytest.raises(InputError) as caught:
        load_weights(state, backbone, RGB, tower="rgb", source="w.pth")
    assert str(caught.value) == (
        "w.pth: does not fit resnet10t: 1 of its 70 tensors missing (layer4.0.conv1.weight); 5 "
        "unexpected (extra0.weight, extra1.weight, extra2.weight, ...); 1 of another shape "
        "(layer3.0.conv2.weight (1x2x3x3 for 256x256x3x3)); accepted: weights of this very "
        "architecture (its head apart), or another variant"
    )
    after = backbone.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    ("stored", "wanted", "told"),
    [
        ("resnet34", "resnet18", "80 unexpected (layer1.2"),
        ("resnet18", "resnet34", "80 of its 180 tensors missing (layer1.2"),
        (
            "resnet50",
            "resnet18",
            "of another shape (layer1.0.conv1.weight (64x64x1x1 for 64x64x3x3",
        ),
        ("resnet18d", "resnet18", "unexpected (conv1.0.weight"),
        ("wide_resnet50_2", "resnet50", "of another shape (layer1.0.conv1.weight"),
        ("mobilenetv2_140", "mobilenetv2_100", "of another shape (conv_stem"),
        ("tf_efficientnet_lite1", "tf_efficientnet_lite0", "unexpected (blocks."),
        ("simple_cnn", "resnet18", "100 of its 100 tensors missing"),
        ("vit_tiny_patch16_224", "resnet18", "missing"),
    ],
)
def test_another_architectures_weights_are_refused(stored, wanted, told):
    state = build(stored, 3).body.state_dict()
    with pytest.raises(InputError) as caught:
        load_weights(state, build(wanted, 3), RGB, source="w.pth")
    assert str(caught.value).startswith(f"w.pth: does not fit {wanted}: ")
    assert told in str(caught.value)


def test_a_stem_for_other_bands_is_refused():
    state = build("resnet10t", 4).body.state_dict()
    with pytest.raises(InputError, match=r"^w\.pth: weights: the first convolution takes 4 bands"):
        load_weights(state, build("resnet10t", 3), RGB, source="w.pth")
    load_weights(state, build("resnet10t", 4), (*RGB, "nir"))


def test_numbers_that_are_none_are_refused():
    state = build("simple_cnn", 3).body.state_dict()
    state["block3.0.weight"][0] = torch.nan
    with pytest.raises(InputError, match=r"w: block3\.0\.weight holds numbers that are not finite"):
        load_weights(state, build("simple_cnn", 3), RGB, source="w")


def test_half_precision_weights_are_widened():
    state = {n: v.half() for n, v in build("simple_cnn", 3).body.state_dict().items()}
    backbone = build("simple_cnn", 3)
    load_weights(state, backbone, RGB)
    assert all(p.dtype == torch.float32 for p in backbone.parameters())
    assert torch.equal(backbone.body.block2[0].weight, state["block2.0.weight"].float())


def test_one_file_serves_both_towers_of_double4(tmp_path):
    source = build("resnet18", 3).body.state_dict()
    torch.save(source, tmp_path / "resnet18.pth")
    variant = resolve("double4")
    sources = sources_of(str(tmp_path / "resnet18.pth"), variant)
    found = read_weights(sources, variant, Storage())
    assert found["rgb"][1] is found["nir"][1]  # read once
    network = Network(variant, 17)
    reports = load_network_weights(network, found)
    assert [report.tower for report in reports] == ["rgb", "nir"]
    for backbone in network.backbones().values():  # NIR thrice takes the RGB weights as they are
        assert torch.equal(backbone.body.conv1.weight, source["conv1.weight"])


def test_weights_a_tower(tmp_path):
    torch.save(build("resnet18", 3).body.state_dict(), tmp_path / "w.pth")
    variant = resolve("double4")
    for given in (
        {"rgb": str(tmp_path / "w.pth"), "nir": "none"},
        {"rgb": str(tmp_path / "w.pth")},
    ):
        found = read_weights(sources_of(given, variant), variant, Storage())
        assert list(found) == ["rgb"]
    assert read_weights(sources_of("none", variant), variant, Storage()) == {}
    with pytest.raises(InputError, match="no tower sar; accepted: rgb, nir"):
        sources_of({"sar": "none"}, variant)


def test_numbers_that_are_no_weights_are_refused():
    backbone = build("resnet18", 3)
    source = dict(backbone.body.state_dict())
    for name, value, found in (
        ("conv1.weight", source["conv1.weight"].to(torch.complex64), "is complex64"),
        ("layer1.0.conv1.weight", source["layer1.0.conv1.weight"].to(torch.int8), "is int8"),
        ("bn1.running_var", -source["bn1.running_var"], "variances below 0"),
    ):
        with pytest.raises(InputError, match=f"{name} .*{found}"):
            load_weights(source | {name: value}, backbone, RGB)
    stored = source | {"layer1.0.conv1.weight": source["layer1.0.conv1.weight"].to_sparse()}
    load_weights(stored, build("resnet18", 3), RGB)
