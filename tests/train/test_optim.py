import pytest
import torch
from timm.optim import param_groups_weight_decay

from satray.config.train import OptimizerOptions, TowerOptions, VariantOptions
from satray.errors import InputError
from satray.models.network import Network
from satray.train.optim import make_optimizer, parameter_groups, set_rate

PLAIN = {
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.1, fused=False),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1, fused=False),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.8, weight_decay=0.1, fused=False),
}


def decaying(net):
    """Biases apart: they do not decay."""
    return [{"params": [net.weight]}, {"params": [net.bias], "weight_decay": 0.0}]


@pytest.mark.parametrize("name", PLAIN)
def test_fused_and_channels_last_is_the_plain_optimiser(name):
    def conv():
        torch.manual_seed(0)
        return torch.nn.Conv2d(3, 8, 3)

    ours, theirs = conv().to(memory_format=torch.channels_last), conv()
    options = OptimizerOptions(name=name, weight_decay=0.1, momentum=0.8)
    mine = make_optimizer(options, parameter_groups(ours, 1.0))
    plain = PLAIN[name](decaying(theirs))
    for group in mine.param_groups:
        group["lr"] = 0.01
    for step in range(4):
        torch.manual_seed(step)
        x = torch.randn(4, 3, 6, 6)
        for net, optimizer in ((ours, mine), (theirs, plain)):
            optimizer.zero_grad()
            net(x).square().mean().backward()
            optimizer.step()
    torch.testing.assert_close(ours.weight, theirs.weight, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.bias, theirs.bias, rtol=1e-4, atol=1e-5)


def test_frozen_weights_are_not_its_business():
    net = torch.nn.Conv2d(3, 8, 3)
    net.weight.requires_grad_(False)
    (group,) = make_optimizer(OptimizerOptions(), parameter_groups(net, 1.0)).param_groups
    assert [p.shape for p in group["params"]] == [net.bias.shape]


def two_towers():
    """A small ResNet and our small network, side by side."""
    towers = (
        TowerOptions(name="rgb", backbone="resnet10t", bands=("red", "green", "blue")),
        TowerOptions(name="nir", backbone="simple_cnn", bands=("nir",)),
    )
    return Network(VariantOptions(towers=towers), 3)


# By hand: bn1 belongs to conv1, which it normalises.
RGB = {"conv1": 5, "bn1": 5, "layer1": 4, "layer2": 3, "layer3": 2, "layer4": 1}
DEPTHS = {"rgb": RGB, "nir": {f"block{n}": 6 - n for n in range(1, 6)}}


def shares(network, decay):
    """Share of each trainable parameter by name; each is in one group only."""
    found = {}
    for group in parameter_groups(network, decay):
        for name, weight in network.named_parameters():
            if any(weight is each for each in group["params"]):
                assert name not in found
                found[name] = group["share"]
    assert set(found) == {n for n, p in network.named_parameters() if p.requires_grad}
    return found


def test_shares_fall_with_depth_in_each_tower():
    network = two_towers()
    found = shares(network, 0.5)
    assert found["head.weight"] == found["head.bias"] == 1.0
    for name, backbone in network.backbones().items():
        for block in backbone.blocks:
            inside = [s for n, s in found.items() if n.startswith(f"towers.{name}.body.{block}.")]
            assert set(inside) == {0.5 ** DEPTHS[name][block]}
    assert found["towers.rgb.body.layer4.0.conv1.weight"] == 0.5
    assert found["towers.nir.body.block4.0.weight"] == 0.25


def test_shares_do_not_depend_on_where_training_starts():
    network = two_towers()
    whole = shares(network, 0.7)
    network.set_trainable("rgb.layer3")
    part = shares(network, 0.7)
    assert len(part) < len(whole)
    assert part == {name: whole[name] for name in part}


def test_weights_outside_blocks_go_with_the_first():
    tower = TowerOptions(name="rgb", backbone="vit_tiny_patch16_224", bands=("a", "b", "c"))
    network = Network(VariantOptions(towers=(tower,)), 3)
    found = shares(network, 0.9)
    assert found["towers.rgb.body.cls_token"] == found["towers.rgb.body.patch_embed.proj.weight"]
    assert found["towers.rgb.body.pos_embed"] == min(found.values()) < 0.9**12


def test_without_layer_decay_all_parts_share_a_rate():
    assert {group["share"] for group in parameter_groups(two_towers(), 1.0)} == {1.0}


@pytest.mark.parametrize("layer_decay", [1.0, 0.7])
@pytest.mark.parametrize("backbone", ["resnet10t", "simple_cnn", "vit_tiny_patch16_224"])
def test_weight_decay_leaves_alone_what_timm_leaves_alone(backbone, layer_decay):
    tower = TowerOptions(name="rgb", backbone=backbone, bands=("a", "b", "c"))
    network = Network(VariantOptions(towers=(tower,)), 3)
    body = network.backbones()["rgb"].body
    named = body.no_weight_decay() if hasattr(body, "no_weight_decay") else ()
    timms = param_groups_weight_decay(
        network, 0.1, no_weight_decay_list=[f"towers.rgb.body.{name}" for name in named]
    )
    groups = parameter_groups(network, layer_decay)
    ours = make_optimizer(OptimizerOptions(weight_decay=0.1), groups).param_groups
    decays, theirs = (
        {weight: group["weight_decay"] for group in each for weight in group["params"]}
        for each in (ours, timms)
    )
    assert decays == theirs
    assert {weight.ndim for weight, decay in decays.items() if decay} <= {2, 4}
    assert decays[network.head.weight] == 0.1
    assert decays[network.head.bias] == 0.0


@pytest.mark.parametrize("name", PLAIN)
def test_without_gradients_only_kernels_shrink(name):
    """A step on gradients of zero moves what decays, and nothing else."""
    network = two_towers()
    optimizer = make_optimizer(
        OptimizerOptions(name=name, weight_decay=0.1), parameter_groups(network, 1.0)
    )
    before = {weight: weight.detach().clone() for weight in network.parameters()}
    for weight in network.parameters():
        weight.grad = torch.zeros_like(weight)
    set_rate(optimizer, 0.1)
    optimizer.step()
    for weight, was in before.items():
        moved = not torch.equal(weight.detach(), was)
        assert moved == (weight.ndim > 1)


def test_each_group_learns_at_its_share():
    """SGD moves a weight by rate x share x gradient."""
    network = two_towers()
    optimizer = make_optimizer(
        OptimizerOptions(name="sgd", weight_decay=0), parameter_groups(network, 0.5)
    )
    before = {name: weight.detach().clone() for name, weight in network.named_parameters()}
    for weight in network.parameters():
        weight.grad = torch.ones_like(weight)
    set_rate(optimizer, 0.1)
    optimizer.step()
    expected = shares(network, 0.5)
    for name, weight in network.named_parameters():
        moved = before[name] - weight.detach()
        torch.testing.assert_close(
            moved, torch.full_like(moved, 0.1 * expected[name]), atol=1e-6, rtol=0
        )


@pytest.mark.parametrize("name", PLAIN)
def test_momentum_is_set_where_it_is_cycled(name):
    options = OptimizerOptions(name=name, momentum=0.7)
    optimizer = make_optimizer(options, parameter_groups(torch.nn.Linear(2, 1), 1.0))
    group, _ = optimizer.param_groups
    set_rate(optimizer, 0.1)
    assert (group["momentum"] if name == "sgd" else group["betas"]) == (
        0.7 if name == "sgd" else (0.9, 0.999)
    )
    set_rate(optimizer, 0.2, 0.85)
    assert group["lr"] == 0.2
    assert (group["momentum"] if name == "sgd" else group["betas"]) == (
        0.85 if name == "sgd" else (0.85, 0.999)
    )


def test_a_stage_that_trains_nothing_lists_what_could():
    network = two_towers().requires_grad_(False)
    with pytest.raises(InputError, match=r"trains nothing; accepted: head, all or a block"):
        parameter_groups(network, 1.0)
