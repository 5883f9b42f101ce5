"""The identities of the design, on random networks."""

import pytest
import torch

from satray.config.train import TowerOptions, VariantOptions
from satray.models.network import Network, argmax_cam, dense_cam, shares

close = {"rtol": 1e-4, "atol": 1e-4}


def network(towers, pooling, backbone="simple_cnn"):
    options = tuple(
        TowerOptions(name=name, backbone=backbone, bands=("red", "green", "blue"))
        for name in ("a", "b")[:towers]
    )
    net = Network(VariantOptions(towers=options, pooling=pooling), 3).eval()
    torch.nn.init.normal_(net.head.weight)
    torch.nn.init.normal_(net.head.bias)
    return net


@pytest.mark.parametrize("backbone", ["simple_cnn", "resnet10t"])
@pytest.mark.parametrize("towers", [1, 2])
@pytest.mark.parametrize("pooling", ["avg", "max", "lse"])
def test_maps_add_up_to_shares_and_shares_with_the_bias_to_logits(towers, backbone, pooling):
    net = network(towers, pooling, backbone)
    with torch.inference_mode():
        features = net.features(torch.randn(2, 3, 64, 64))
        logits, weights = net.classify(features), net.cam_weights()
        parts = shares(features, weights, pooling)
    assert len(parts) == towers
    torch.testing.assert_close(sum(parts.values()) + net.head.bias, logits, **close)
    for tower, part in parts.items():
        mean = dense_cam(features[tower], weights[tower]).mean((2, 3))
        if pooling == "avg":
            torch.testing.assert_close(mean, part, **close)
        elif pooling == "max":
            most = argmax_cam(features[tower], weights[tower]).sum((2, 3))
            torch.testing.assert_close(most, part, **close)
            assert not torch.allclose(mean, part, **close)  # which is no decomposition


def test_identities_hold_in_half_precision_features():
    net = network(1, "avg")
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        features = net.features(torch.randn(2, 3, 64, 64))
        m = dense_cam(features["a"], net.cam_weights()["a"])
        logits = net.classify(features)
    assert features["a"].dtype == torch.bfloat16
    torch.testing.assert_close(m.float().mean((2, 3)) + net.head.bias, logits, **close)


def test_maps_by_hand():
    f = torch.zeros(1, 2, 2, 3)
    f[0, 0] = torch.tensor([[0.0, 5.0, 1.0], [5.0, 5.0, 0.0]])  # a tie of three: the first has it
    a = argmax_cam(f, torch.tensor([[2.0, 1.0]]))
    assert a.shape == (1, 1, 2, 3)
    assert a.flatten().tolist() == [0, 10, 0, 0, 0, 0]
    m = dense_cam(torch.arange(8.0).view(1, 2, 2, 2), torch.tensor([[1.0, -1.0], [0.0, 2.0]]))
    assert m[0, 0].tolist() == [[-4, -4], [-4, -4]]
    assert m[0, 1].tolist() == [[8, 10], [12, 14]]
