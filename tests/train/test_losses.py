import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from satray.config.train import LossOptions
from satray.errors import InputError
from satray.train.losses import asymmetric, focal, loss_for, make_loss, softmax_focal

NAMES = ["bce", "focal", "asymmetric"]
SHARP = {
    "focal": {"gamma": 0},
    "asymmetric": dict.fromkeys(("gamma_negative", "gamma_positive"), 0),
}


def loss(task="multilabel", positive_weight=None, **options):
    return make_loss(LossOptions(**options), task, positive_weight)


def material(seed=0, rows=12, classes=5):
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.normal(0, 3, (rows, classes)))
    return logits, torch.from_numpy(rng.integers(0, 2, (rows, classes)).astype(float))


def one_hot(kinds, classes):
    return F.one_hot(torch.tensor(kinds), classes).double()


def test_bce_at_known_logits():
    logits = torch.tensor([[0.0, 0.0], [20.0, 20.0], [-20.0, 20.0]])
    labels = torch.tensor([[0.0, 1.0], [1.0, 1.0], [1.0, 1.0]])
    found = loss_for("multilabel")(logits, labels)
    assert found.tolist() == pytest.approx([math.log(2), 0.0, 10.0], abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_sure_and_right_costs_nothing_but_a_double_sigmoid_is_caught(name):
    right = torch.tensor([[20.0]])
    found = loss(name=name)
    assert found(right, torch.ones(1, 1)).item() < 1e-6
    assert found(-right, torch.zeros(1, 1)).item() < 1e-6
    if name == "bce":
        # A confident and right network would have almost none.
        assert found(right.sigmoid(), torch.ones(1, 1)).item() > 0.3


def test_cross_entropy_is_torchs():
    torch.manual_seed(0)
    logits, kinds = torch.randn(6, 4), [0, 1, 2, 3, 3, 0]
    theirs = F.cross_entropy(logits, torch.tensor(kinds), reduction="none")
    torch.testing.assert_close(loss_for("multiclass")(logits, one_hot(kinds, 4).float()), theirs)


@pytest.mark.parametrize("smoothing", [0.1, 0.4])
def test_smoothed_cross_entropy_is_torchs(smoothing):
    logits, _ = material(classes=4, rows=6)
    kinds = [0, 1, 2, 3, 3, 0]
    theirs = F.cross_entropy(
        logits, torch.tensor(kinds), reduction="none", label_smoothing=smoothing
    )
    ours = loss("multiclass", smoothing=smoothing)(logits, one_hot(kinds, 4))
    torch.testing.assert_close(ours, theirs)


def test_smoothed_bce_by_hand():
    found = loss(smoothing=0.2)(torch.tensor([[2.0]]), torch.ones(1, 1))
    p = 1 / (1 + math.exp(-2))
    assert found.item() == pytest.approx(-0.9 * math.log(p) - 0.1 * math.log(1 - p))


def test_positive_weights_weigh_positives_only():
    logits, labels = material()
    weight = (3.0, 1.0, 100.0, 0.5, 7.0)
    ours = loss(positive_weight=weight, name="bce")(logits, labels)
    p = logits.sigmoid()
    each = -(torch.tensor(weight) * labels * p.log() + (1 - labels) * (1 - p).log())
    torch.testing.assert_close(ours, each.mean(dim=1))


def test_focal_by_the_papers_formula():
    logits, labels = material()
    p = logits.sigmoid()
    p_t = torch.where(labels == 1, p, 1 - p)
    for gamma in (0.5, 2.0, 5.0):
        torch.testing.assert_close(
            focal(logits, labels, gamma), (-((1 - p_t) ** gamma) * p_t.log()).mean(dim=1)
        )
    # Lin et al., section 3: with gamma 2 a tile at p_t = 0.9 counts a hundredth of its bce.
    easy = torch.tensor([[math.log(9.0)]])
    ratio = focal(easy, torch.ones(1, 1), 2.0) / focal(easy, torch.ones(1, 1), 0.0)
    assert ratio.item() == pytest.approx(0.01)


def test_softmax_focal_by_formula():
    logits, _ = material(classes=4, rows=6)
    kinds = [0, 1, 2, 3, 3, 0]
    p = logits.softmax(dim=1)[torch.arange(6), kinds]
    found = loss("multiclass", name="focal", gamma=2)(logits, one_hot(kinds, 4))
    torch.testing.assert_close(found, -((1 - p) ** 2) * p.log())


def reference_asymmetric(logits, labels, negative, positive, margin):
    """The authors' published code, in double precision, before its sum over classes."""
    p = logits.sigmoid()
    not_p = (1 - p + margin).clamp(max=1)
    each = labels * p.clamp(min=1e-8).log() + (1 - labels) * not_p.clamp(min=1e-8).log()
    right = p * labels + not_p * (1 - labels)
    return -(each * (1 - right) ** (positive * labels + negative * (1 - labels))).mean(dim=1)


@pytest.mark.parametrize("numbers", [(4.0, 1.0, 0.05), (4.0, 0.0, 0.05), (2.0, 2.0, 0.0)])
def test_asymmetric_is_its_authors(numbers):
    logits, labels = material()
    theirs = reference_asymmetric(logits, labels, *numbers)
    torch.testing.assert_close(asymmetric(logits, labels, *numbers), theirs)


def test_the_margin_lets_easy_negatives_off():
    p = torch.tensor([[0.04, 0.049]])
    found = asymmetric(torch.logit(p), torch.zeros(1, 2), 1.0, 1.0, 0.05)
    assert found.item() == pytest.approx(0, abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), gamma=st.floats(0, 5))
def test_identities(seed, gamma):
    logits, labels = material(seed)
    soft = labels * 0.7 + 0.1
    plain = loss_for("multilabel")(logits, soft)
    torch.testing.assert_close(focal(logits, soft, 0.0), plain)
    torch.testing.assert_close(asymmetric(logits, soft, 0.0, 0.0, 0.0), plain)
    torch.testing.assert_close(
        asymmetric(logits, soft, gamma, gamma, 0.0), focal(logits, soft, gamma)
    )
    hot = one_hot((np.arange(12) % 5).tolist(), 5)
    torch.testing.assert_close(softmax_focal(logits, hot, 0.0), loss_for("multiclass")(logits, hot))
    weights = loss(positive_weight=(1.0,) * 5, name="bce")
    torch.testing.assert_close(weights(logits, soft), plain)
    for name in ("focal", "asymmetric"):
        options = {"name": name, "smoothing": 0.2, **SHARP[name]}
        options |= {"margin": 0} if name == "asymmetric" else {}
        torch.testing.assert_close(
            loss(**options)(logits, labels), loss(smoothing=0.2)(logits, labels)
        )


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0, 4.0])
@pytest.mark.parametrize("margin", [0.0, 1e-9, 0.05])
def test_gradients_are_finite_at_any_logit(gamma, margin):
    extremes = torch.tensor([[-1e4, -120.0, -20.0, -3.0, 0.0, 3.0, 20.0, 120.0, 1e4]])
    for labels in (torch.zeros(1, 9), torch.ones(1, 9), torch.full((1, 9), 0.3)):
        for task, form in (
            ("multilabel", lambda z, y: focal(z, y, gamma)),
            ("multilabel", lambda z, y: asymmetric(z, y, gamma, gamma, margin)),
            ("multiclass", lambda z, y: softmax_focal(z, y / 9, gamma)),
        ):
            logits = extremes.clone().requires_grad_()
            value = form(logits, labels).sum()
            value.backward()
            assert math.isfinite(value.item()), task
            assert torch.isfinite(logits.grad).all(), task


@pytest.mark.parametrize(
    ("options", "task", "message"),
    [
        ({"name": "cross_entropy"}, "multilabel", "loss.name=cross_entropy: .* multilabel"),
        ({"name": "bce"}, "multiclass", "loss.name=bce: .* multiclass task; accepted: auto, cross"),
        ({"name": "asymmetric"}, "multiclass", "loss.name=asymmetric"),
        ({"positive_weight": 3.0}, "multiclass", "loss.positive_weight=3.0: .*cross_entropy"),
        ({"positive_weight": "balanced", "name": "focal"}, "binary", "loss.positive_weight=bal"),
    ],
)
def test_what_makes_no_sense_is_refused(options, task, message):
    with pytest.raises(InputError, match=message):
        make_loss(LossOptions(**options), task)
