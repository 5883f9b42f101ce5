import pytest
import torch
import torchvision

from satray.config.model import TowerOptions, VariantOptions
from satray.errors import InputError
from satray.models.backbones import build
from satray.models.network import Network
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
    assert report.missing == report.unexpected == ()
    assert report.head


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
    assert report.missing == report.unexpected == ()
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
    assert report.missing == ()
    assert report.loaded == len(source)


def test_weights_of_an_earlier_bundle_find_their_tower():
    tower = {"backbone": "simple_cnn", "bands": RGB}
    towers = tuple(TowerOptions(name=name, **tower) for name in ("a", "b"))
    state = Network(VariantOptions(towers=towers), 2).state_dict()
    backbone = build("simple_cnn", 3)
    for name in ("a", "b"):
        load_weights(state, backbone, RGB, tower=name)
        key = "block1.0.weight"
        assert torch.equal(backbone.body.state_dict()[key], state[f"towers.{name}.body.{key}"])


def test_missing_and_unexpected_are_listed():
    state = dict(build("resnet10t", 3).body.state_dict())
    state.pop("layer4.0.conv1.weight")
    state["layer3.0.conv2.weight"] = torch.zeros(1, 2, 3, 3)  # of another shape
    state["extra.weight"] = torch.zeros(2)
    state["fc.weight"] = torch.zeros(2)
    report = load_weights(state, build("resnet10t", 3), RGB, tower="rgb", source="w.pth")
    assert report.missing == ("layer3.0.conv2.weight", "layer4.0.conv1.weight")
    assert report.unexpected == ("extra.weight",)
    assert report.head == ("fc.weight",)
    assert report.line() == (
        f"weights of tower rgb: {report.loaded} tensors from w.pth; 2 missing: "
        "layer3.0.conv2.weight, layer4.0.conv1.weight; 1 unexpected: extra.weight"
    )


@pytest.mark.parametrize("other", ["resnet50", "simple_cnn"])
def test_a_file_that_matches_almost_nothing_is_refused(other):
    backbone = build("resnet18", 3)
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    state = build(other, 3).body.state_dict()
    with pytest.raises(InputError, match=r"^w\.pth: does not fit resnet18: \d+ of its 1"):
        load_weights(state, backbone, RGB, source="w.pth")
    after = backbone.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)  # nothing half-loaded


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
    found = read_weights(str(tmp_path / "resnet18.pth"), variant, Storage())
    assert found["rgb"][1] is found["nir"][1]  # read once
    network = Network(variant, 17)
    reports = load_network_weights(network, found)
    assert [report.tower for report in reports] == ["rgb", "nir"]
    for backbone in network.backbones().values():  # NIR thrice takes the RGB weights as they are
        assert torch.equal(backbone.body.conv1.weight, source["conv1.weight"])


def test_weights_a_tower(tmp_path):
    torch.save(build("resnet18", 3).body.state_dict(), tmp_path / "w.pth")
    variant = resolve("double4")
    given = {"rgb": str(tmp_path / "w.pth"), "nir": "none"}
    assert list(read_weights(given, variant, Storage())) == ["rgb"]
    assert read_weights("none", variant, Storage()) == {}
    with pytest.raises(InputError, match="no tower sar; accepted: rgb, nir"):
        read_weights({"sar": "none"}, variant, Storage())
