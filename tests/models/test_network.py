import pytest
import torch

from satray.config.train import TowerOptions, VariantOptions
from satray.errors import InputError
from satray.models.backbones import build
from satray.models.network import LSE_SHARPNESS, Network, pool
from satray.models.variant import resolve


def count(module, trainable=None):
    return sum(
        p.numel() for p in module.parameters() if trainable is None or p.requires_grad == trainable
    )


def buffers(module):
    return sum(b.numel() for n, b in module.named_buffers() if n.endswith(("_mean", "_var")))


# -- counts and shapes of method.md A and E


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("single3", 11_185_233), ("single4", 11_188_369), ("double4", 22_370_449)],
)
def test_parameters_at_17_classes(name, parameters):
    assert count(Network(resolve(name), 17)) == parameters


@pytest.mark.parametrize(
    ("name", "features", "running", "head"),
    [
        ("mobilenet_v2", 2_223_872, 34_112, 1_281),  # 2,257,984 in all
        ("xception", 20_806_952, 54_528, 2_049),  # 20,861,480 in all
        ("resnet50_v2", 23_500_352, 45_440, 2_049),  # 23,545,792 in all
        ("inception_v3", 21_785_568, 34_432, 2_049),
    ],
)
def test_frozen_backbone_trains_the_head_only(name, features, running, head):
    network = Network(resolve(name), 1)
    assert count(network.towers) == features
    assert buffers(network.towers) == running
    network.set_trainable("head")
    assert count(network, trainable=True) == head
    network.set_trainable("all")
    assert count(network, trainable=True) == features + head


@pytest.mark.parametrize(
    ("name", "side", "shape"),
    [
        ("legacy_xception", 299, (2048, 10, 10)),
        ("resnet18", 224, (512, 7, 7)),
        ("resnet18", 299, (512, 10, 10)),
        ("inception_v3", 299, (2048, 8, 8)),
        ("mobilenetv2_100", 512, (1280, 16, 16)),
        ("resnetv2_50", 299, (2048, 10, 10)),
        ("simple_cnn", 64, (128, 8, 8)),
        ("vit_tiny_patch16_224", 96, (192, 6, 6)),
        ("swin_tiny_patch4_window7_224", 128, (768, 4, 4)),
    ],
)
def test_feature_shapes(name, side, shape):
    backbone = build(name, 3).eval()
    with torch.inference_mode():
        f = backbone(torch.zeros(1, 3, side, side))
    assert f.shape[1:] == shape
    assert backbone.dim == shape[0]


def test_every_parameter_of_a_backbone_gets_a_gradient():
    # Else DistributedDataParallel waits for it. MobileNetV3 has a part after pooling.
    for name in ("simple_cnn", "mobilenetv3_small_050", "convnext_atto", "hrnet_w18_small"):
        backbone = build(name, 3)
        backbone(torch.randn(2, 3, 64, 64)).square().sum().backward()
        assert [n for n, p in backbone.named_parameters() if p.grad is None] == []


def test_unknown_backbone_names_the_nearest():
    with pytest.raises(InputError, match=r"nearest: .*resnet18"):
        build("resnett18", 3)


def test_backbone_without_a_map_is_refused():
    with pytest.raises(InputError, match="no feature map"):
        build("mixer_s32_224", 3)


# -- towers see their bands


def test_towers_take_their_bands_whatever_the_input_order():
    network = Network(resolve("double4"), 3).eval()
    mirrored = Network(resolve("double4"), 3, bands=("nir", "blue", "green", "red")).eval()
    mirrored.load_state_dict(network.state_dict())
    x = torch.randn(1, 4, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(mirrored(x[:, [3, 2, 1, 0]]), network(x))


def test_zeroing_half_of_the_head_isolates_a_tower():
    network = Network(resolve("double4"), 3).eval()
    with torch.no_grad():
        network.cam_weights()["nir"].zero_()  # a view of the head
    x, other = torch.randn(1, 4, 64, 64), torch.randn(1, 4, 64, 64)
    other[:, :3] = x[:, :3]
    with torch.inference_mode():
        assert torch.equal(network(x), network(other))
        other[:, 0] += 1
        assert not torch.equal(network(x), network(other))


def test_reserved_tower_name_is_refused():
    tower = TowerOptions(name="keys", backbone="simple_cnn", bands=("red",))
    with pytest.raises(InputError, match="cannot be called keys"):
        Network(VariantOptions(towers=(tower,)), 1)


# -- freezing


def small_resnet():
    tower = TowerOptions(name="rgb", backbone="resnet10t", bands=("red", "green", "blue"))
    return Network(VariantOptions(towers=(tower,)), 2, dropout=0.5)


def step(network):
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        network.train()
        optimizer.zero_grad()
        network(torch.randn(4, 3, 64, 64)).square().sum().backward()
        optimizer.step()


def moved(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


def state(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


def test_head_only_leaves_weights_and_buffers_bit_equal():
    network = small_resnet()
    network.set_trainable("head")
    before = state(network)
    step(network)
    assert moved(before, network.state_dict()) == {"head.weight", "head.bias"}
    assert network.dropout.training


def test_from_a_block_on():
    network = small_resnet()
    network.set_trainable("layer3")
    before = state(network)
    step(network)
    changed = moved(before, network.state_dict())
    prefixes = ("towers.rgb.body.layer3.", "towers.rgb.body.layer4.", "head.")
    assert changed
    assert all(name.startswith(prefixes) for name in changed)
    assert any("running_mean" in name for name in changed)
    # and every parameter behind the block moved
    assert {n for n, _ in network.named_parameters() if n.startswith(prefixes)} <= changed


def test_all_after_head_trains_everything():
    network = small_resnet()
    network.set_trainable("head")
    network.train()
    network.set_trainable("all")
    assert all(p.requires_grad for p in network.parameters())
    assert all(module.training for module in network.modules())


def test_eval_stays_eval_when_stages_change():
    network = small_resnet().eval()
    network.set_trainable("layer3")
    assert not any(module.training for module in network.modules())


def test_one_tower_alone():
    tower = {"backbone": "simple_cnn", "bands": ("red",)}
    towers = (TowerOptions(name="a", **tower), TowerOptions(name="b", **tower))
    network = Network(VariantOptions(towers=towers), 2)
    network.set_trainable("b.block4")
    names = {n for n, p in network.named_parameters() if p.requires_grad}
    assert {n.split(".body.")[0] for n in names if "body" in n} == {"towers.b"}
    assert {n.split(".")[3] for n in names if "body" in n} == {"block4", "block5"}


def test_unknown_block_lists_the_names():
    network = Network(resolve("mobilenet_v2"), 1)
    with pytest.raises(InputError, match=r"head, all, conv_stem, bn1, blocks\.0, .*conv_head, bn2"):
        network.set_trainable("block9")
    assert all(p.requires_grad for p in network.parameters())


# -- pooling, precision, dense head


def test_log_sum_exp_lies_between_mean_and_maximum():
    f = torch.randn(2, 5, 4, 4)
    lse = pool(f, "lse")
    assert (pool(f, "avg") <= lse).all()
    assert (lse <= pool(f, "max")).all()
    one = torch.full((1, 1, 3, 3), 2.5)
    torch.testing.assert_close(pool(one, "lse"), torch.tensor([[2.5]]))
    assert LSE_SHARPNESS > 0


@pytest.mark.parametrize("pooling", ["avg", "max", "lse"])
def test_logits_are_float32_under_autocast(pooling):
    network = Network(resolve("simple_cnn", pooling), 2).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        logits, features = network(x, return_features=True)
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
    with pytest.raises(InputError, match=r"needs a fixed input size; give input\.size"):
        Network(resolve("simple_cnn_dense"), 2)


def test_simple_cnn_does_not_look_across_the_batch():
    network = Network(resolve("simple_cnn"), 2).train()
    x = torch.randn(4, 3, 64, 64)
    torch.testing.assert_close(network(x)[:1], network(x[:1]))
    assert not list(network.named_buffers()) or all("take" in n for n, _ in network.named_buffers())


@pytest.mark.parametrize("name", ["simple_cnn", "simple_cnn_dense"])
def test_simple_cnn_overfits_a_batch(name):
    network = Network(resolve(name), 1, size=32 if name.endswith("dense") else None).train()
    x, y = torch.randn(8, 3, 32, 32), torch.arange(8).remainder(2)[:, None].float()
    x[1::2, :, 10:14, 12:20] += 3  # a ship
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    loss = torch.tensor(1.0)
    for _ in range(80):
        if loss < 0.01:
            break
        loss = torch.nn.functional.binary_cross_entropy_with_logits(network(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.01
    assert ((network(x) > 0) == (y > 0)).all()


# -- drop-path and the way of the bands


@pytest.mark.parametrize("backbone", ["resnet18", "vit_tiny_patch16_224", "convnext_atto"])
def test_drop_path_skips_branches_in_training_alone(backbone):
    tower = TowerOptions(name="rgb", backbone=backbone, bands=("red", "green", "blue"))
    network = Network(VariantOptions(towers=(tower,)), 2, drop_path=0.9)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.ones_(module.weight)  # timm starts the last of each block at zero
    rates = [m.drop_prob for m in network.modules() if type(m).__name__ == "DropPath"]
    assert rates == sorted(rates)
    assert rates[-1] == pytest.approx(0.9)
    x = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        network.eval()
        assert torch.equal(network(x), network(x))
        for module in network.train().modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval()
        assert not torch.equal(network(x), network(x))
        network.set_trainable("head")  # frozen parts drop nothing
        assert torch.equal(network(x), network(x))


@pytest.mark.parametrize("variant", ["simple_cnn", "xception", "inception_v3"])
def test_drop_path_of_a_network_without_branches_is_refused(variant):
    with pytest.raises(InputError, match=r"^drop_path=0\.1: .* accepted: 0$"):
        Network(resolve(variant), 2, drop_path=0.1)
    Network(resolve(variant), 2, drop_path=0.0)
