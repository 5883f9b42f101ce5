"""Variants and their networks: the documents' counts, bands, freezing, pooling, heads."""

import pytest
import torch

from satray.config.train import TowerOptions, VariantOptions
from satray.errors import InputError
from satray.models.backbones import build
from satray.models.network import Network, pool
from satray.models.variant import BUILT_IN, check_bands, input_bands, resolve

RGB = ("red", "green", "blue")


def count(module):
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def one_tower(backbone, **more):
    tower = TowerOptions(name="rgb", backbone=backbone, bands=RGB)
    return Network(VariantOptions(towers=(tower,)), 2, **more)


# Variants


def test_what_a_recipe_calls_a_variant():
    assert {n for n, v in BUILT_IN.items() if v.pooling == "avg"} == {
        "single3", "single4", "double4"
    }  # fmt: skip
    assert (resolve("single3", "max").pooling, BUILT_IN["single3"].pooling) == ("max", "avg")
    tower = TowerOptions(name="sar", backbone="resnet18", bands=("vv", "vh", "vv"))
    own = VariantOptions(towers=(tower,), pooling="lse")
    assert resolve(own) == own
    assert input_bands(own) == ("vv", "vh")
    assert input_bands(BUILT_IN["double4"]) == (*RGB, "nir")
    check_bands(BUILT_IN["double4"], ("blue", "green", "red", "nir"))
    with pytest.raises(InputError, match=r"tower nir asks for nir, .* red, green, blue$"):
        check_bands(BUILT_IN["double4"], RGB)
    with pytest.raises(InputError, match=r"^variant='doubel4'.*did you mean double4\?"):
        resolve("doubel4")


# Counts and shapes of the two documents


@pytest.mark.parametrize(
    ("name", "classes", "features", "running", "head"),
    [
        ("single3", 17, 11_176_512, 9_600, 8_721),  # 11,185,233 in all
        ("single4", 17, 11_179_648, 9_600, 8_721),  # 11,188,369
        ("double4", 17, 22_353_024, 19_200, 17_425),  # 22,370,449
        ("mobilenet_v2", 1, 2_223_872, 34_112, 1_281),  # 2,257,984 with the running statistics
        ("xception", 1, 20_806_952, 54_528, 2_049),  # 20,861,480
        ("resnet50_v2", 1, 23_500_352, 45_440, 2_049),  # 23,545,792
        ("inception_v3", 1, 21_785_568, 34_432, 2_049),
    ],
)
def test_parameters_and_a_frozen_backbone(name, classes, features, running, head):
    network = Network(resolve(name), classes)
    assert (count(network.towers), count(network)) == (features, features + head)
    statistics = [b for n, b in network.named_buffers() if n.endswith(("_mean", "_var"))]
    assert sum(b.numel() for b in statistics) == running
    network.set_trainable("head")
    assert count(network) == head
    network.set_trainable("all")
    assert count(network) == features + head


def test_every_parameter_of_a_backbone_gets_a_gradient():
    # Else DistributedDataParallel waits for it. MobileNetV3 has a part after pooling.
    for name in ("simple_cnn", "mobilenetv3_small_050", "convnext_atto", "hrnet_w18_small"):
        backbone = build(name, 3)
        backbone(torch.randn(2, 3, 64, 64)).square().sum().backward()
        assert [n for n, p in backbone.named_parameters() if p.grad is None] == []


def test_what_cannot_be_built_is_refused():
    keys = TowerOptions(name="keys", backbone="simple_cnn", bands=("red",))
    for make, said in (
        (lambda: build("resnett18", 3), r"nearest: .*resnet18"),
        (lambda: build("mixer_s32_224", 3), "no feature map"),
        (lambda: Network(VariantOptions(towers=(keys,)), 1), "cannot be called keys"),
        (lambda: Network(resolve("simple_cnn_dense"), 2), r"fixed input size; give input\.size"),
        *(
            (lambda name=name: Network(resolve(name), 2, drop_path=0.1),
             r"^drop_path=0\.1: .* accepted: 0$")
            for name in ("simple_cnn", "xception", "inception_v3")
        ),
    ):  # fmt: skip
        with pytest.raises(InputError, match=said):
            make()


# Towers see their bands


def test_towers_take_their_bands_whatever_the_input_order():
    network = Network(resolve("double4"), 3).eval()
    mirrored = Network(resolve("double4"), 3, bands=("nir", "blue", "green", "red")).eval()
    mirrored.load_state_dict(network.state_dict())
    x, other = torch.randn(1, 4, 64, 64), torch.randn(1, 4, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(mirrored(x[:, [3, 2, 1, 0]]), network(x))
        network.cam_weights()["nir"].zero_()  # a view of the head: this tower counts no more
        other[:, :3] = x[:, :3]
        assert torch.equal(network(x), network(other))
        other[:, 0] += 1
        assert not torch.equal(network(x), network(other))


# Freezing


def trained(network):
    """Names of what two steps change."""
    before = {name: value.clone() for name, value in network.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        network.train()
        optimizer.zero_grad()
        network(torch.randn(4, 3, 64, 64)).square().sum().backward()
        optimizer.step()
    after = network.state_dict()
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_frozen_parts_stay_bit_equal_with_their_buffers():
    network = one_tower("resnet10t", dropout=0.5)
    network.set_trainable("head")
    assert trained(network) == {"head.weight", "head.bias"}
    assert network.dropout.training
    network.set_trainable("layer3")
    changed = trained(network)
    prefixes = ("towers.rgb.body.layer3.", "towers.rgb.body.layer4.", "head.")
    assert all(name.startswith(prefixes) for name in changed)
    assert any("running_mean" in name for name in changed)
    # and every parameter behind the block moved
    assert {n for n, _ in network.named_parameters() if n.startswith(prefixes)} <= changed
    network.set_trainable("all")
    assert all(p.requires_grad for p in network.parameters())
    assert all(module.training for module in network.modules())
    network.eval().set_trainable("layer3")
    assert not any(module.training for module in network.modules())


def test_a_tower_alone_and_no_block_of_that_name():
    tower = {"backbone": "simple_cnn", "bands": ("red",)}
    towers = (TowerOptions(name="a", **tower), TowerOptions(name="b", **tower))
    network = Network(VariantOptions(towers=towers), 2)
    network.set_trainable("b.block4")
    names = {n for n, p in network.named_parameters() if p.requires_grad and "body" in n}
    assert {tuple(n.split(".")[1:4:2]) for n in names} == {("b", "block4"), ("b", "block5")}
    network = Network(resolve("mobilenet_v2"), 1)
    with pytest.raises(InputError, match=r"head, all, conv_stem, bn1, blocks\.0, .*conv_head, bn2"):
        network.set_trainable("block9")
    assert all(p.requires_grad for p in network.parameters())


def test_frozen_parts_drop_no_path():
    network, x = one_tower("vit_tiny_patch16_224", drop_path=0.9).train(), torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert not torch.equal(network(x), network(x))
        network.set_trainable("head")
        assert torch.equal(network(x), network(x))


# Pooling, precision, dense head


def test_log_sum_exp_lies_between_mean_and_maximum():
    f = torch.randn(2, 5, 4, 4)
    assert (pool(f, "avg") <= pool(f, "lse")).all()
    assert (pool(f, "lse") <= pool(f, "max")).all()
    one = torch.full((1, 1, 3, 3), 2.5)
    torch.testing.assert_close(pool(one, "lse"), torch.tensor([[2.5]]))


@pytest.mark.parametrize("pooling", ["avg", "max", "lse"])
def test_logits_are_float32_under_autocast(pooling):
    network = Network(resolve("simple_cnn", pooling), 2).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        logits, features = network(x), network.features(x)
    assert features["rgb"].dtype == torch.bfloat16
    assert logits.dtype == torch.float32
    # the head itself was computed in float32, from these features
    expected = pool(features["rgb"], pooling) @ network.head.weight.T + network.head.bias
    torch.testing.assert_close(logits, expected)


def test_dense_head_takes_one_size_and_no_cam():
    network = Network(resolve("simple_cnn_dense"), 2, size=32)
    assert network(torch.randn(2, 3, 32, 32)).shape == (2, 2)
    with pytest.raises(InputError, match="takes 32 x 32 px only, found 64 x 64"):
        network(torch.randn(2, 3, 64, 64))
    with pytest.raises(InputError, match="dense head mixes all cells"):
        network.cam_weights()
