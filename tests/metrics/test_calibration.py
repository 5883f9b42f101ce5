"""Temperatures and thresholds are the best there are, and fits that mean nothing are not taken."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from satray.metrics.calibration import PRIOR, fit_temperature, fit_thresholds, halves
from satray.metrics.scored import Rule, scores_of
from satray.metrics.summary import compute_metrics


@settings(max_examples=50)
@given(st.integers(0, 200), st.integers(0, 5))
def test_halves(tiles, seed):
    ids = [f"a/{n}" for n in range(tiles)]
    fit_N = halves(ids, seed)
    assert fit_N.sum() == (tiles + 1) // 2
    assert halves(ids[::-1], seed).tolist() == fit_N[::-1].tolist()  # by id, not by place
    assert (halves([*ids, "b"], seed)[:-1] != fit_N).sum() <= 1
    if tiles > 50:
        assert halves(ids, seed + 1).tolist() != fit_N.tolist()


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.floats(0.3, 5), st.sampled_from(["multilabel", "multiclass"]))
def test_temperature_minimises_the_log_loss_and_its_prior(seed, spread, task):
    rng = np.random.default_rng(seed)
    z_NK = rng.normal(size=(300, 3))
    scores_NK = scores_of(z_NK, task)
    if task == "multiclass":
        labels_NK = np.eye(3)[[rng.choice(3, p=row) for row in scores_NK]]
    else:
        labels_NK = (rng.random(z_NK.shape) < scores_NK).astype(float)
    logits_NK = spread * z_NK

    def loss(log_t):
        rule = Rule(temperature=np.exp(log_t))
        mean = compute_metrics(logits_NK, labels_NK, list("abc"), task, rule)["log_loss"]
        return 300 * mean + PRIOR * (np.exp(-log_t) + log_t)

    found = fit_temperature(logits_NK, labels_NK, task)
    theirs = minimize_scalar(loss, bounds=np.log([0.05, 20]), options={"xatol": 1e-6})
    assert found == pytest.approx(np.exp(theirs.x), rel=1e-3)


def test_known_temperatures():
    z_NK = np.array([[0.0, np.log(3), -800.0]])
    assert scores_of(z_NK, "multilabel")[0].tolist() == pytest.approx([0.5, 0.75, 0.0])
    assert scores_of(z_NK, "multiclass")[0].tolist() == pytest.approx([0.25, 0.75, 0.0])
    assert scores_of(z_NK, "multilabel", 2.0)[0, 1] == pytest.approx(3**0.5 / (1 + 3**0.5))
    for task in ("multilabel", "multiclass"):  # logits that say nothing
        labels_NK = np.eye(3)[np.arange(60) % 3]
        assert fit_temperature(np.zeros((60, 3)), labels_NK, task) == pytest.approx(1, abs=1e-9)


def test_tiles_told_apart_without_error_do_not_freeze_the_temperature():
    """200 tiles, the fitted half without error, the other with two: it must not be hurt."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        y_N = rng.random(200) < 0.5
        z_N = rng.gamma(3, 1.5, 200) * np.where(y_N, 1, -1)
        z_N[100 + np.argsort(np.abs(z_N[100:]))[[2, 9]]] *= -1
        z_NK, y_NK = z_N[:, None], y_N[:, None]
        found = fit_temperature(z_NK[:100], y_NK[:100], "binary")
        assert 0.3 < found < 1
        rest = (z_NK[100:], y_NK[100:], ["a"], "binary")
        before = compute_metrics(*rest)["log_loss"]
        assert compute_metrics(*rest, Rule(found))["log_loss"] < before + 0.02
        assert compute_metrics(*rest, Rule(0.05))["log_loss"] > before + 0.1


def test_temperature_has_bounds():
    z_NK, labels_NK = np.array([[5.0], [-5.0]] * 50), np.array([[1], [0]] * 50)
    assert fit_temperature(z_NK, 1 - labels_NK, "binary") is None  # always wrong: no temperature
    many = (np.tile(z_NK, (5, 1)) / 100, np.tile(labels_NK, (5, 1)))
    assert fit_temperature(*many, "binary") is None  # of another unit
    for logits, labels, said in (
        (z_NK[:0], labels_NK[:0], "no tile"),
        (z_NK * np.inf, labels_NK, "finite"),
        (z_NK, labels_NK[:1], "beside labels"),
    ):
        with pytest.raises(ValueError, match=said):
            fit_temperature(logits, labels, "binary")


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 40), st.sampled_from([1.0, 2.0]), st.integers(1, 3))
def test_no_threshold_is_better(seed, tiles, beta, digits):
    rng = np.random.default_rng(seed)
    labels_N = rng.random(tiles) < 0.4
    labels_N[0] = True
    scores_N = scores_of((rng.normal(size=tiles) + labels_N)[:, None], "")[:, 0].round(digits)
    (found,) = fit_thresholds(scores_N[:, None], labels_N[:, None], beta, 1)
    assert 0 < found <= 1

    def score(threshold):
        given_N = scores_N >= threshold
        hits = (given_N & labels_N).sum()
        return (1 + beta**2) * hits / (beta**2 * labels_N.sum() + given_N.sum())

    others = [score(threshold) for threshold in scores_N if threshold > 0]
    assert score(found) == pytest.approx(max(others, default=score(0.5)))


@pytest.mark.parametrize(
    ("scores", "labels", "least", "expected"),
    [
        ([0.9, 0.7, 0.3, 0.1], [1, 1, 0, 0], 1, 0.5),  # halfway
        ([0.9, 0.7, 0.3, 0.1], [1, 1, 1, 0], 1, 0.2),
        ([np.nextafter(0.5, 1), 0.5], [1, 0], 1, np.nextafter(0.5, 1)),  # nothing lies between
        ([0.2, 0.1] * 30, [1, 0] * 30, 30, 0.15),
        ([0.2, 0.1] * 30, [1, 0] * 30, 31, 0.5),  # too few positives
        ([0.2, 0.1], [0, 0], 0, 0.5),
        ([0.0, 0.0], [1, 0], 1, 0.5),  # 0 decides nothing
    ],
)
def test_thresholds(scores, labels, least, expected):
    found = fit_thresholds(np.array(scores)[:, None], np.array(labels)[:, None], 1, least)
    assert found.tolist() == [pytest.approx(expected, abs=1e-15)]
