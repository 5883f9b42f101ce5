import math

import pytest
import torch

from satray.training.losses import loss_for


def test_bce_at_known_logits():
    logits = torch.tensor([[0.0, 0.0], [20.0, 20.0], [-20.0, 20.0]])
    labels = torch.tensor([[0.0, 1.0], [1.0, 1.0], [1.0, 1.0]])
    loss = loss_for("multilabel")(logits, labels)
    assert loss.tolist() == pytest.approx([math.log(2), 0.0, 10.0], abs=1e-6)


def test_a_double_sigmoid_is_caught():
    loss = loss_for("binary")(torch.tensor([[20.0]]).sigmoid(), torch.ones(1, 1))
    assert loss.item() > 0.3  # a confident and right network would have almost none


def test_cross_entropy_is_torchs():
    torch.manual_seed(0)
    logits, kinds = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 3, 0])
    one_hot = torch.nn.functional.one_hot(kinds, 4).float()
    theirs = torch.nn.functional.cross_entropy(logits, kinds, reduction="none")
    torch.testing.assert_close(loss_for("multiclass")(logits, one_hot), theirs)
