"""The fused engine: the same features, whatever the backbone does with its maps."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from satray.models.backbones import Backbone
from satray.models.variant import BUILT_IN
from satray.scoring.engine import fused
from satray.scoring.engine.fused import Activation, FusedConv, FusedTrunk
from satray.scoring.engine.graph import folded
from satray.scoring.engine.trial import TOLERANCE, difference
from satray.scoring.engine.trunk import EagerTrunk, UnfitError

BUILT_IN_BACKBONES = sorted({t.backbone for v in BUILT_IN.values() for t in v.towers})
FREE_OF_NORMS = ("resnet18", "mobilenetv2_100", "legacy_xception", "inception_v3")


@torch.inference_mode()
def gap(backbone, x, **more):
    return difference(FusedTrunk(backbone, **more)(x), backbone(x))


@pytest.mark.parametrize("name", BUILT_IN_BACKBONES)
def test_equals_eager(name, trained):
    backbone = trained(name)
    trunk, eager = FusedTrunk(backbone), EagerTrunk(backbone)
    with torch.inference_mode():
        for shape in ((2, 3, 96, 128), (1, 3, 101, 133)):  # any size does
            x = torch.randn(shape)
            kept, wanted = x.clone(), backbone(x)
            assert difference(trunk(x), wanted) <= TOLERANCE
            assert difference(eager(x), wanted) <= TOLERANCE
            assert torch.equal(x, kept)
    assert wanted.std() > 1e-3  # not the equality of constants


@pytest.mark.parametrize("name", ["resnet18", "resnetv2_50"])
def test_the_bundle_stays_as_it_is(name, trained):
    backbone = trained(name)
    state = {key: value.clone() for key, value in backbone.state_dict().items()}
    modules = [(key, type(module)) for key, module in backbone.named_modules()]
    trunk = FusedTrunk(backbone)
    with torch.inference_mode():
        trunk(torch.randn(1, 3, 64, 64))
    assert [(key, type(module)) for key, module in backbone.named_modules()] == modules
    assert all(torch.equal(value, state[key]) for key, value in backbone.state_dict().items())


@pytest.mark.parametrize("name", FREE_OF_NORMS)
def test_no_normalisation_is_left(name, trained):
    kinds = [type(module) for module in folded(trained(name)).modules()]
    assert nn.Conv2d in kinds
    assert not any(issubclass(kind, nn.BatchNorm2d) for kind in kinds)


def test_a_resnet_is_convolutions_alone(trained):
    graph = FusedTrunk(trained("resnet18"))._graph
    convs = [module for module in graph.modules() if isinstance(module, FusedConv)]
    calls = [node for node in graph.graph.nodes if node.op.startswith("call")]
    assert len(convs) == 20
    assert len(calls) == 21  # and one maximum pool: sums and activations are in them


@settings(max_examples=10)
@given(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5))
def test_any_multiple_of_the_stride(trained, batch, h, w):
    assert gap(trained("mobilenetv2_100"), torch.randn(batch, 3, 32 * h, 32 * w)) <= TOLERANCE


@pytest.mark.parametrize("name", ["mobilenetv2_100", "legacy_xception"])
def test_sizes_in_turn(name, trained):
    backbone = trained(name)
    trunk = FusedTrunk(backbone)
    convs = [module for module in trunk._graph.modules() if isinstance(module, FusedConv)]
    laid_out = []
    for shape in [(1, 64, 96), (2, 64, 96), (1, 160, 32), (1, 64, 96), (1, 64, 96)]:
        batch, height, width = shape
        x = torch.randn(batch, 3, height, width)
        with torch.inference_mode():
            assert difference(trunk(x), backbone(x)) <= TOLERANCE, shape
        laid_out.append([conv._packed for conv in convs])
    assert all(one is two for one, two in zip(*laid_out[-2:], strict=True))  # once a shape
    assert all(one is not two for one, two in zip(*laid_out[1:3], strict=True))


@pytest.mark.parametrize("fast", [True, False])
def test_without_onednn(trained, monkeypatch, fast):
    monkeypatch.setattr(fused, "_has_fused_ops", lambda: fast)
    assert gap(trained("mobilenetv2_100"), torch.randn(2, 3, 64, 96)) <= TOLERANCE


class Made(nn.Module):
    """A body out of a function of its parts."""

    def __init__(self, forward, **parts):
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self.run = forward

    def forward_features(self, x):
        return self.run(self, x)


def conv(*args, **more):
    return nn.Conv2d(3, 3, 3, padding=1, **more) if not args else nn.Conv2d(*args, **more)


def backbone_of(forward, dim=3, **parts):
    return Backbone("made", Made(forward, **parts), dim, None).eval().requires_grad_(False)


def norm():
    made = nn.BatchNorm2d(3).eval()
    made.running_mean.normal_()
    made.running_var.uniform_(0.5, 2)
    return made


F = torch.nn.functional
BODIES = {
    "relu": (lambda b, x: F.relu(b.a(x)), {"a": conv()}),
    "method": (lambda b, x: b.a(x).relu(), {"a": conv()}),
    "relu6": (lambda b, x: b.act(b.a(9 * x)), {"a": conv(), "act": nn.ReLU6()}),
    "clamp": (lambda b, x: b.act(b.a(x)), {"a": conv(), "act": nn.Hardtanh(-0.3, 0.4)}),
    "silu": (lambda b, x: b.act(b.a(x)), {"a": conv(), "act": nn.SiLU()}),
    "hardswish": (lambda b, x: F.hardswish(b.a(4 * x)), {"a": conv()}),
    "gelu stays": (lambda b, x: F.gelu(b.a(x)), {"a": conv()}),
    "leaky stays": (lambda b, x: F.leaky_relu(b.a(x), 0.1), {"a": conv()}),
    "sum": (lambda b, x: b.a(x) + x, {"a": conv()}),
    "sum on the right": (lambda b, x: x + b.a(x), {"a": conv()}),
    "sum and relu": (lambda b, x: F.relu(x + b.a(x)), {"a": conv()}),
    "sum of two": (lambda b, x: b.a(x) + b.c(x), {"a": conv(), "c": conv()}),
    "sum of a relu": (lambda b, x: F.relu(b.a(x)) + x, {"a": conv()}),
    "in place": (lambda b, x: b.a(x).add_(x), {"a": conv()}),
    "twice itself": (lambda b, x: (lambda y: y + y)(b.a(x)), {"a": conv()}),
    "and a number": (lambda b, x: b.a(x) + 1.5, {"a": conv()}),
    "scaled sum": (lambda b, x: torch.add(b.a(x), x, alpha=2), {"a": conv()}),
    "read twice": (lambda b, x: (lambda y: F.relu(y) + y)(b.a(x)), {"a": conv()}),
    "called twice": (lambda b, x: F.relu(b.a(F.relu(b.a(x)))) + b.a(x), {"a": conv()}),
    "norm": (lambda b, x: b.n(b.a(x)), {"a": conv(bias=False), "n": norm()}),
    "norm read twice": (lambda b, x: (lambda y: b.n(y) + y)(b.a(x)), {"a": conv(), "n": norm()}),
    "norm called twice": (
        lambda b, x: b.n(b.c(b.n(b.a(x)))),
        {"a": conv(), "c": conv(), "n": norm()},
    ),
    "conv under two norms": (
        lambda b, x: b.m(b.a(b.n(b.a(x)))),
        {"a": conv(), "n": norm(), "m": norm()},
    ),
    "norm first": (lambda b, x: b.a(F.relu(b.n(x))), {"a": conv(), "n": norm()}),
    "no statistics": (
        lambda b, x: b.n(b.a(x)),
        {"a": conv(), "n": nn.BatchNorm2d(3, track_running_stats=False)},
    ),
    "idle": (
        lambda b, x: F.relu(b.i(b.d(b.a(x)))),
        {"a": conv(), "d": nn.Dropout(0.5), "i": nn.Identity()},
    ),
    "same stays": (
        lambda b, x: F.relu(b.a(b.c(x))),
        {"a": conv(3, 3, 3, padding="same"), "c": conv()},
    ),
    "reflected stays": (
        lambda b, x: F.relu(b.a(b.c(x))),
        {"a": conv(3, 3, 3, padding=1, padding_mode="reflect"), "c": conv()},
    ),
    "grouped, strided, dilated": (
        lambda b, x: F.relu(b.a(x)),
        {"a": conv(3, 3, 3, stride=2, dilation=2, padding=2, groups=3)},
    ),
    "kernels of two sides": (
        lambda b, x: F.relu(b.a(x)),
        {"a": conv(3, 3, (1, 5), padding=(0, 2), stride=(1, 2))},
    ),
    "an activation in place, later": (
        lambda b, x: (lambda y, z: z + F.relu(y, inplace=True))(b.a(x), b.c(x)),
        {"a": conv(), "c": conv()},
    ),
}


@pytest.mark.parametrize("body", BODIES)
def test_whatever_a_body_does(body):
    forward, parts = BODIES[body]
    backbone = backbone_of(forward, **parts)
    x = torch.randn(2, 3, 12, 10)
    with torch.inference_mode():
        assert torch.allclose(FusedTrunk(backbone)(x.clone()), backbone(x.clone()), atol=1e-5)


def test_what_is_taken_in():
    forward, parts = BODIES["sum and relu"]
    graph = FusedTrunk(backbone_of(forward, **parts))._graph
    (conv_module,) = (m for m in graph.modules() if isinstance(m, FusedConv))
    assert conv_module.activation == Activation("relu")
    assert [node.op for node in graph.graph.nodes] == ["placeholder", "call_module", "output"]


def test_what_it_cannot_do():
    with pytest.raises(UnfitError, match=r"torch\.fx cannot trace made"):
        FusedTrunk(backbone_of(lambda b, x: b.a(x) if x.sum() > 0 else x, a=conv()))
    with pytest.raises(UnfitError, match="no plain convolution"):
        FusedTrunk(backbone_of(lambda b, x: b.a(x), a=nn.Conv2d(3, 3, 1, padding_mode="circular")))
    tokens = FusedTrunk(backbone_of(lambda b, x: b.a(x).flatten(2), a=conv()))
    with pytest.raises(UnfitError, match=r"come as \(1, 3, 64\)"):
        tokens(torch.zeros(1, 3, 8, 8))
