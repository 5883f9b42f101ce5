"""Optimisers against torch's and timm's: what decays, and at what share of the rate each learns."""

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


def network(*towers):
    return Network(
        VariantOptions(
            towers=tuple(TowerOptions(name=n, backbone=b, bands=bands) for n, b, bands in towers)
        ),
        3,
    )


def two_towers():
    """A small ResNet and our small network, side by side."""
    return network(("rgb", "resnet10t", ("red", "green", "blue")), ("nir", "simple_cnn", ("nir",)))


def stepped(net, options, layer_decay, rate, gradient):
    """How far each weight moves in a step on gradients that are alike."""
    optimizer = make_optimizer(options, parameter_groups(net, layer_decay))
    before = {name: weight.detach().clone() for name, weight in net.named_parameters()}
    for weight in net.parameters():
        weight.grad = torch.full_like(weight, gradient)
    set_rate(optimizer, rate)
    optimizer.step()
    return {name: before[name] - weight.detach() for name, weight in net.named_parameters()}


@pytest.mark.parametrize("name", PLAIN)
def test_fused_and_channels_last_is_the_plain_optimiser(name):
    def conv():
        torch.manual_seed(0)
        return torch.nn.Conv2d(3, 8, 3)

    ours, theirs = conv().to(memory_format=torch.channels_last), conv()
    options = OptimizerOptions(name=name, weight_decay=0.1, momentum=0.8)
    mine = make_optimizer(options, parameter_groups(ours, 1.0))
    # Biases apart: they do not decay.
    plain = PLAIN[name]([{"params": [theirs.weight]}, {"params": [theirs.bias], "weight_decay": 0}])
    for step in range(4):
        torch.manual_seed(step)
        x = torch.randn(4, 3, 6, 6)
        set_rate(mine, 0.01)
        for net, optimizer in ((ours, mine), (theirs, plain)):
            optimizer.zero_grad()
            net(x).square().mean().backward()
            optimizer.step()
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-4, atol=1e-5)


# By hand: bn1 belongs to conv1, which it normalises.
RGB = {"conv1": 5, "bn1": 5, "layer1": 4, "layer2": 3, "layer3": 2, "layer4": 1}
DEPTHS = {"rgb": RGB, "nir": {f"block{n}": 6 - n for n in range(1, 6)}}


def test_each_block_learns_at_its_share_wherever_training_starts():
    """SGD moves a weight by rate x share x gradient."""
    net, options = two_towers(), OptimizerOptions(name="sgd", weight_decay=0)
    shares = {"head": 1.0} | {
        f"towers.{tower}.body.{block}": 0.5**depth
        for tower, depths in DEPTHS.items()
        for block, depth in depths.items()
    }
    for start, trained in (("all", None), ("rgb.layer3", ("head", "layer3", "layer4"))):
        net.set_trainable(start)
        for name, moved in stepped(net, options, 0.5, 0.1, 1.0).items():
            (share,) = (s for prefix, s in shares.items() if name.startswith(f"{prefix}."))
            share *= trained is None or any(part in name for part in trained)
            wanted = torch.full_like(moved, 0.1 * share)
            torch.testing.assert_close(moved, wanted, atol=1e-6, rtol=0)
    net.set_trainable("all")
    assert {group["share"] for group in parameter_groups(net, 1.0)} == {1.0}


def test_weights_outside_blocks_go_with_the_first():
    net = network(("rgb", "vit_tiny_patch16_224", ("a", "b", "c")))
    found = {
        name: group["share"]
        for group in parameter_groups(net, 0.9)
        for name, weight in net.named_parameters()
        if any(weight is each for each in group["params"])
    }
    assert len(found) == len(list(net.parameters()))
    assert found["towers.rgb.body.cls_token"] == found["towers.rgb.body.patch_embed.proj.weight"]
    assert found["towers.rgb.body.pos_embed"] == min(found.values()) < 0.9**12


@pytest.mark.parametrize("layer_decay", [1.0, 0.7])
@pytest.mark.parametrize("backbone", ["resnet10t", "simple_cnn", "vit_tiny_patch16_224"])
def test_weight_decay_leaves_alone_what_timm_leaves_alone(backbone, layer_decay):
    net = network(("rgb", backbone, ("a", "b", "c")))
    body = net.backbones()["rgb"].body
    named = body.no_weight_decay() if hasattr(body, "no_weight_decay") else ()
    timms = param_groups_weight_decay(
        net, 0.1, no_weight_decay_list=[f"towers.rgb.body.{name}" for name in named]
    )
    groups = parameter_groups(net, layer_decay)
    ours = make_optimizer(OptimizerOptions(weight_decay=0.1), groups).param_groups
    decays, theirs = (
        {weight: group["weight_decay"] for group in each for weight in group["params"]}
        for each in (ours, timms)
    )
    assert decays == theirs
    assert (decays[net.head.weight], decays[net.head.bias]) == (0.1, 0.0)


@pytest.mark.parametrize(
    ("name", "key", "plain", "cycled"),
    [
        ("sgd", "momentum", 0.7, 0.85),
        ("adam", "betas", (0.9, 0.999), (0.85, 0.999)),
        ("adamw", "betas", (0.9, 0.999), (0.85, 0.999)),
    ],
)
def test_momentum_is_set_where_it_is_cycled(name, key, plain, cycled):
    options = OptimizerOptions(name=name, momentum=0.7)
    optimizer = make_optimizer(options, parameter_groups(torch.nn.Linear(2, 1), 1.0))
    set_rate(optimizer, 0.1)
    assert optimizer.param_groups[0][key] == plain
    set_rate(optimizer, 0.2, 0.85)
    assert [(group["lr"], group[key]) for group in optimizer.param_groups] == [(0.2, cycled)] * 2


def test_a_stage_that_trains_nothing_is_refused():
    with pytest.raises(InputError, match=r"trains nothing; accepted: head, all or a block"):
        parameter_groups(two_towers().requires_grad_(False), 1.0)
