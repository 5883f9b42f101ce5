"""Losses against the papers' formulas and torch's, alike at soft labels, finite at any logit."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from satray.config.train import LossOptions
from satray.errors import InputError
from satray.train.losses import loss_for, make_loss

KINDS = [0, 1, 2, 3, 3, 0]


def loss(task="multilabel", positive_weight=None, **options):
    return make_loss(LossOptions(**options), task, positive_weight)


def asymmetric(negative, positive, margin):
    numbers = {"gamma_negative": negative, "gamma_positive": positive, "margin": margin}
    return loss(name="asymmetric", **numbers)


def material(seed=0, rows=12, classes=5):
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.normal(0, 3, (rows, classes)))
    return logits, torch.from_numpy(rng.integers(0, 2, (rows, classes)).astype(float))


def one_hot(kinds, classes):
    return F.one_hot(torch.tensor(kinds), classes).double()


@pytest.mark.parametrize("name", ["bce", "focal", "asymmetric"])
def test_sure_and_right_costs_nothing_but_a_double_sigmoid_is_caught(name):
    right, found = torch.tensor([[20.0]]), loss(name=name)
    assert found(right, torch.ones(1, 1)).item() < 1e-6
    assert found(-right, torch.zeros(1, 1)).item() < 1e-6
    if name == "bce":
        # A confident and right network would have almost none.
        assert found(right.sigmoid(), torch.ones(1, 1)).item() > 0.3
        known = torch.tensor([[0.0, 0.0], [20.0, 20.0], [-20.0, 20.0]])
        labels = torch.tensor([[0.0, 1.0], [1.0, 1.0], [1.0, 1.0]])
        assert found(known, labels).tolist() == pytest.approx([math.log(2), 0, 10], abs=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.4])
def test_cross_entropy_is_torchs(smoothing):
    logits, _ = material(classes=4, rows=6)
    keys = {"reduction": "none", "label_smoothing": smoothing}
    theirs = F.cross_entropy(logits, torch.tensor(KINDS), **keys)
    ours = loss("multiclass", smoothing=smoothing)(logits, one_hot(KINDS, 4))
    torch.testing.assert_close(ours, theirs)


WEIGHT = (3.0, 1.0, 100.0, 0.5, 7.0)


def by_hand(p, labels, weight=(1.0,) * 5):
    """Binary cross-entropy; weights are of positives only."""
    return -(torch.tensor(weight) * labels * p.log() + (1 - labels) * (1 - p).log()).mean(dim=1)


def focal(p, labels, gamma):
    p_t = torch.where(labels == 1, p, 1 - p)
    return (-((1 - p_t) ** gamma) * p_t.log()).mean(dim=1)


def reference_asymmetric(p, labels, negative, positive, margin):
    """The authors' published code, in double precision, before its sum over classes."""
    not_p = (1 - p + margin).clamp(max=1)
    each = labels * p.clamp(min=1e-8).log() + (1 - labels) * not_p.clamp(min=1e-8).log()
    right = p * labels + not_p * (1 - labels)
    return -(each * (1 - right) ** (positive * labels + negative * (1 - labels))).mean(dim=1)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (loss(name="bce", positive_weight=WEIGHT), lambda p, y: by_hand(p, y, WEIGHT)),
        (loss(smoothing=0.2), lambda p, y: by_hand(p, 0.8 * y + 0.1)),
        *((loss(name="focal", gamma=g), lambda p, y, g=g: focal(p, y, g)) for g in (0.5, 2.0, 5.0)),
        *(
            (asymmetric(*n), lambda p, y, n=n: reference_asymmetric(p, y, *n))
            for n in ((4.0, 1.0, 0.05), (4.0, 0.0, 0.05), (2.0, 2.0, 0.0))
        ),
    ],
)
def test_sigmoid_losses_by_the_papers_formulas(ours, theirs):
    logits, labels = material()
    for _ in range(2):
        torch.testing.assert_close(ours(logits, labels), theirs(logits.sigmoid(), labels))


def test_softmax_focal_by_the_papers_formula():
    logits, _ = material(classes=4, rows=6)
    p = logits.softmax(dim=1)[torch.arange(6), KINDS]
    found = loss("multiclass", name="focal", gamma=2.0)(logits, one_hot(KINDS, 4))
    torch.testing.assert_close(found, -((1 - p) ** 2.0) * p.log())


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), gamma=st.floats(0, 5), smoothing=st.floats(0, 0.5))
def test_identities(seed, gamma, smoothing):
    logits, labels = material(seed)
    soft = labels * 0.7 + 0.1
    plain = loss(smoothing=smoothing)(logits, soft)
    sharp = {"smoothing": smoothing, "gamma": 0, "gamma_negative": 0, "gamma_positive": 0}
    for found in (
        loss(name="focal", **sharp),
        loss(name="asymmetric", margin=0, **sharp),
        loss(name="bce", positive_weight=(1.0,) * 5, smoothing=smoothing),
    ):
        torch.testing.assert_close(found(logits, soft), plain)
    torch.testing.assert_close(
        asymmetric(gamma, gamma, 0)(logits, soft), loss(name="focal", gamma=gamma)(logits, soft)
    )
    hot = one_hot((np.arange(12) % 5).tolist(), 5)
    plain, sharp_focal = loss_for("multiclass"), loss("multiclass", name="focal", gamma=0)
    torch.testing.assert_close(sharp_focal(logits, hot), plain(logits, hot))
    mixed = 0.3 * hot + 0.7 * hot.roll(1, 0)  # linear in labels, as mixing wants it
    for found in (plain, sharp_focal):
        parts = 0.3 * found(logits, hot) + 0.7 * found(logits, hot.roll(1, 0))
        torch.testing.assert_close(found(logits, mixed), parts)


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0, 4.0])
@pytest.mark.parametrize("margin", [0.0, 1e-9, 0.05])
def test_gradients_are_finite_at_any_logit(gamma, margin):
    extremes = torch.tensor([[-1e4, -120.0, -20.0, -3.0, 0.0, 3.0, 20.0, 120.0, 1e4]])
    for labels in (torch.zeros(1, 9), torch.ones(1, 9), torch.full((1, 9), 0.3)):
        for form, shown in (
            (loss(name="focal", gamma=gamma), labels),
            (asymmetric(gamma, gamma, margin), labels),
            (loss("multiclass", name="focal", gamma=gamma), labels / 9),
        ):
            logits = extremes.clone().requires_grad_()
            value = form(logits, shown).sum()
            value.backward()
            assert math.isfinite(value.item())
            assert torch.isfinite(logits.grad).all()


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
