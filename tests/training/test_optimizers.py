import pytest
import torch

from satray.config.train import OptimizerOptions
from satray.training.optimizers import make_optimizer

PLAIN = {
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.1, fused=False),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1, fused=False),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.8, weight_decay=0.1, fused=False),
}


@pytest.mark.parametrize("name", PLAIN)
def test_fused_and_channels_last_is_the_plain_optimiser(name):
    def conv():
        torch.manual_seed(0)
        return torch.nn.Conv2d(3, 8, 3)

    ours, theirs = conv().to(memory_format=torch.channels_last), conv()
    options = OptimizerOptions(name=name, weight_decay=0.1, momentum=0.8)
    mine, plain = make_optimizer(options, ours.parameters()), PLAIN[name](theirs.parameters())
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
    (group,) = make_optimizer(OptimizerOptions(), net.parameters()).param_groups
    assert [p.shape for p in group["params"]] == [net.bias.shape]
