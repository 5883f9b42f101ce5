"""The identities of the design, on random networks."""

import pytest
import torch

from satray.config.train import TowerOptions, VariantOptions
from satray.models.cam import argmax_cam, dense_cam, shares
from satray.models.network import Network

K = 3


def network(towers, pooling, backbone="simple_cnn"):
    options = tuple(
        TowerOptions(name=name, backbone=backbone, bands=("red", "green", "blue"))
        for name in ("a", "b")[:towers]
    )
    net = Network(VariantOptions(towers=options, pooling=pooling), K).eval()
    torch.nn.init.normal_(net.head.weight)
    torch.nn.init.normal_(net.head.bias)
    return net


def look(net, side=64):
    with torch.inference_mode():
        logits, features = net(torch.randn(2, 3, side, side), return_features=True)
        return logits, features, net.cam_weights(), net.head.bias


BACKBONES = ["simple_cnn", "resnet10t"]
close = {"rtol": 1e-4, "atol": 1e-4}


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("towers", [1, 2])
def test_average_pooling_mean_of_dense_plus_bias_is_the_logit(towers, backbone):
    logits, features, weights, bias = look(network(towers, "avg", backbone))
    total = sum(dense_cam(features[t], weights[t]).mean((2, 3)) for t in weights)
    assert len(weights) == towers
    torch.testing.assert_close(total + bias, logits, **close)


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("towers", [1, 2])
def test_maximum_pooling_sum_of_argmax_plus_bias_is_the_logit(towers, backbone):
    logits, features, weights, bias = look(network(towers, "max", backbone))
    total = sum(argmax_cam(features[t], weights[t]).sum((2, 3)) for t in weights)
    torch.testing.assert_close(total + bias, logits, **close)
    # while the dense map of maximum pooling is no decomposition
    dense = sum(dense_cam(features[t], weights[t]).mean((2, 3)) for t in weights)
    assert not torch.allclose(dense + bias, logits, **close)


@pytest.mark.parametrize("pooling", ["avg", "max", "lse"])
@pytest.mark.parametrize("towers", [1, 2])
def test_shares_plus_bias_are_the_logit(towers, pooling):
    logits, features, weights, bias = look(network(towers, pooling))
    parts = shares(features, weights, pooling)
    assert all(part.shape == logits.shape for part in parts.values())
    torch.testing.assert_close(sum(parts.values()) + bias, logits, **close)


@pytest.mark.parametrize(
    ("pooling", "cam", "reduce"), [("avg", dense_cam, "mean"), ("max", argmax_cam, "sum")]
)
def test_each_towers_share_is_what_its_map_adds_up_to(pooling, cam, reduce):
    _, features, weights, _ = look(network(2, pooling))
    parts = shares(features, weights, pooling)
    for tower, part in parts.items():
        m = cam(features[tower], weights[tower])
        torch.testing.assert_close(getattr(m, reduce)((2, 3)), part, **close)


def test_identities_hold_in_half_precision_features():
    net = network(1, "avg")
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        logits, features = net(torch.randn(2, 3, 64, 64), return_features=True)
        m = dense_cam(features["a"], net.cam_weights()["a"])
    assert features["a"].dtype == torch.bfloat16
    torch.testing.assert_close(m.float().mean((2, 3)) + net.head.bias, logits, **close)


def test_ties_go_to_the_first_cell():
    f = torch.zeros(1, 2, 2, 3)
    f[0, 0] = torch.tensor([[0.0, 5.0, 1.0], [5.0, 5.0, 0.0]])  # a tie of three
    a = argmax_cam(f, torch.tensor([[2.0, 1.0]]))
    assert a.shape == (1, 1, 2, 3)
    assert a.flatten().tolist() == [0, 10, 0, 0, 0, 0]


def test_dense_by_hand():
    f = torch.arange(8.0).view(1, 2, 2, 2)
    m = dense_cam(f, torch.tensor([[1.0, -1.0], [0.0, 2.0]]))
    assert m[0, 0].tolist() == [[-4, -4], [-4, -4]]
    assert m[0, 1].tolist() == [[8, 10], [12, 14]]


def test_bound_for_non_negative_weights():
    f, w = torch.rand(2, 8, 5, 5), torch.rand(K, 8)
    bound = (f.amax((2, 3)) @ w.T)[..., None, None]
    assert (dense_cam(f, w) <= bound + 1e-5).all()
