"""Optimisers against torch's and timm's: what decays, and at what share of the rate each learns."""

import pytest
import torch
from timm.optim import param_groups_weight_decay

from satray.config.train import OptimizerOptions, TowerOptions, VariantOptions
from satray.errors import InputError
from satray.models.network import Network
from satray.train.optim import make_optimizer, parameter_groups, set_rate


def network(*towers):
    options = (TowerOptions(name=n, backbone=b, bands=tuple("abc"[:k])) for n, b, k in towers)
    return Network(VariantOptions(towers=tuple(options)), 3)


def two_towers():
    """A small ResNet and our small network, side by side."""
    return network(("rgb", "resnet10t", 3), ("nir", "simple_cnn", 1))


@pytest.mark.parametrize(
    ("name", "plain", "key", "cycled"),
    [
        ("adam", torch.optim.Adam, "betas", (0.85, 0.999)),
        ("adamw", torch.optim.AdamW, "betas", (0.85, 0.999)),
        ("sgd", torch.optim.SGD, "momentum", 0.85),
    ],
)
def test_fused_and_channels_last_is_the_plain_optimiser(name, plain, key, cycled):
    def conv():
        torch.manual_seed(0)
        return torch.nn.Conv2d(3, 8, 3)

    ours, theirs = conv().to(memory_format=torch.channels_last), conv()
    options = OptimizerOptions(name=name, weight_decay=0.1, momentum=0.8)
    mine = make_optimizer(options, parameter_groups(ours, 1.0))
    # Biases apart: they do not decay.
    groups = [{"params": [theirs.weight]}, {"params": [theirs.bias], "weight_decay": 0}]
    keys = {"momentum": 0.8} if name == "sgd" else {}
    other = plain(groups, lr=0.01, weight_decay=0.1, fused=False, **keys)
    for step in range(4):
        torch.manual_seed(step)
        x = torch.randn(4, 3, 6, 6)
        set_rate(mine, 0.01)
        for net, optimizer in ((ours, mine), (theirs, other)):
            optimizer.zero_grad()
            net(x).square().mean().backward()
            optimizer.step()
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-4, atol=1e-5)
    set_rate(mine, 0.2, 0.85)  # where momentum is cycled
    assert [(group["lr"], group[key]) for group in mine.param_groups] == [(0.2, cycled)] * 2


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
        optimizer = make_optimizer(options, parameter_groups(net, 0.5))
        before = {name: weight.detach().clone() for name, weight in net.named_parameters()}
        for weight in net.parameters():
            weight.grad = torch.ones_like(weight)
        set_rate(optimizer, 0.1)
        optimizer.step()
        for name, weight in net.named_parameters():
            (share,) = (s for prefix, s in shares.items() if name.startswith(f"{prefix}."))
            share *= trained is None or any(part in name for part in trained)
            moved = before[name] - weight.detach()
            wanted = torch.full_like(moved, 0.1 * share)
            torch.testing.assert_close(moved, wanted, atol=1e-6, rtol=0)
    net.set_trainable("all")
    assert {group["share"] for group in parameter_groups(net, 1.0)} == {1.0}
    with pytest.raises(InputError, match=r"trains nothing; accepted: head, all or a block"):
        parameter_groups(net.requires_grad_(False), 1.0)


@pytest.mark.parametrize("layer_decay", [1.0, 0.7])
@pytest.mark.parametrize("backbone", ["resnet10t", "simple_cnn", "vit_tiny_patch16_224"])
def test_weight_decay_leaves_alone_what_timm_leaves_alone(backbone, layer_decay):
    net = network(("rgb", backbone, 3))
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
    if "vit" in backbone and layer_decay < 1:  # weights outside blocks go with the first
        share = {weight: group["share"] for group in groups for weight in group["params"]}
        assert share[body.cls_token] == share[body.patch_embed.proj.weight]
        assert share[body.pos_embed] == min(share.values()) < layer_decay**12
