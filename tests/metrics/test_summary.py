import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    fbeta_score,
    precision_recall_fscore_support,
    roc_auc_score,
)

from satray.metrics.scored import Rule, one_against_rest
from satray.metrics.summary import compute_metrics, flat
from satray.runs.run import to_json

NAMES = ("map", "map_paper", "classes_counted", "accuracy", "baseline_accuracy")
NAMES += ("balanced_accuracy", "auc", "predicted_positive_rate", "log_loss", "ece", "baseline_map")
NAMES += ("precision_macro", "recall_macro", "f1_macro", "f2_macro", "f1_samples", "f2_samples")


def binary(scores, labels):
    return compute_metrics(np.array(scores)[:, None], np.array(labels)[:, None], ["ship"], "binary")


def test_names_and_plain_floats():
    found = binary([1.0, -1.0], [1, 0])
    assert set(found) == {*NAMES, "ap"}
    assert all(type(found[name]) is float for name in NAMES)
    assert type(found["ap"]["ship"]) is float


def test_by_hand():
    # Falling scores: 1 0 1 0 -> precision 1, 2/3 at the positives.
    found = binary([3.0, 2.0, 1.0, -1.0], [1, 0, 1, 0])
    assert found["map"] == pytest.approx((1 + 2 / 3) / 2)
    assert found["auc"] == pytest.approx(0.75)
    assert found["accuracy"] == 0.75
    assert found["balanced_accuracy"] == 0.75
    assert found["baseline_accuracy"] == 0.5
    assert found["predicted_positive_rate"] == 0.75


def test_ties_count_as_one_threshold():
    assert binary([1.0] * 4, [1, 0, 0, 0])["map"] == 0.25  # a constant score: the prevalence
    assert binary([1.0] * 4, [0, 0, 0, 1])["map"] == 0.25


def test_classes_on_no_tile_or_on_all_are_left_out_and_counted():
    logits = np.array([[2.0, 0.3], [-1.0, 0.1], [1.0, -3.0]])
    labels = np.array([[1, 0], [0, 0], [1, 0]])
    found = compute_metrics(logits, labels, ["a", "b"], "multilabel")
    assert found["ap"]["a"] == 1.0
    assert math.isnan(found["ap"]["b"])
    assert (found["map"], found["map_paper"], found["classes_counted"]) == (1.0, 0.5, 1.0)
    assert found["auc"] == 1.0  # over class a alone
    everything = compute_metrics(
        logits, np.array([[1, 1], [0, 1], [1, 1]]), ["a", "b"], "multilabel"
    )
    assert math.isnan(everything["ap"]["b"])
    assert (everything["map"], everything["map_paper"], everything["classes_counted"]) == (1, 1, 1)
    assert everything["baseline_map"] == pytest.approx(2 / 3)
    assert json.loads(to_json(everything))["ap"] == {"a": 1.0, "b": None}
    nothing = compute_metrics(logits, labels * 0, ["a", "b"], "multilabel")
    assert math.isnan(nothing["map"])
    assert nothing["map_paper"] == 0.0


@pytest.mark.parametrize("kind", [0, 1])
def test_one_class_has_no_auc(kind):
    found = binary([1.0, 2.0], [kind, kind])
    assert math.isnan(found["auc"])
    assert math.isnan(found["balanced_accuracy"])
    assert found["baseline_accuracy"] == 1.0


def test_ranking_is_by_logits_where_sigmoids_saturate():
    scores = np.array([80.0, 60.0, 50.0, 45.0])
    assert len(set((1 / (1 + np.exp(-scores))).tolist())) == 1
    assert binary(scores, [1, 1, 0, 0])["map"] == 1.0
    softmax = np.stack([scores, np.zeros(4)], axis=1)
    one_hot = np.array([[1, 0], [1, 0], [0, 1], [0, 1]])
    assert compute_metrics(softmax, one_hot, ["a", "b"], "multiclass")["map"] == 1.0


def test_the_majority_trap_shows():
    found = binary([-2.0] * 9, [0] * 7 + [1] * 2)
    assert found["accuracy"] == found["baseline_accuracy"] == pytest.approx(7 / 9)
    assert found["balanced_accuracy"] == 0.5
    assert found["predicted_positive_rate"] == 0.0


def test_log_loss_at_known_logits():
    assert binary([0.0, 0.0], [1, 0])["log_loss"] == pytest.approx(math.log(2))
    assert binary([-1000.0], [1])["log_loss"] == pytest.approx(1000.0)
    found = compute_metrics(np.zeros((2, 4)), np.eye(4)[:2], list("abcd"), "multiclass")
    assert found["log_loss"] == pytest.approx(math.log(4))


def test_multiclass():
    logits = np.array([[2.0, 1, 0], [0, 3, 1], [1, 2, 0], [0, 1, 2]])
    kinds = np.array([0, 1, 0, 2])
    found = compute_metrics(logits, np.eye(3)[kinds], list("abc"), "multiclass")
    assert found["accuracy"] == 0.75
    assert found["baseline_accuracy"] == 0.5
    assert found["balanced_accuracy"] == pytest.approx((0.5 + 1 + 1) / 3)
    assert found["predicted_positive_rate"] == 0.5
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    theirs = [roc_auc_score(kinds == k, p[:, k]) for k in range(3)]
    assert found["auc"] == pytest.approx(np.mean(theirs))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 40), st.integers(1, 5))
def test_scikit_learn_agrees(seed, rows, classes):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(rows, classes)).round(1)  # rounded: with ties
    labels = rng.integers(0, 2, (rows, classes))
    labels[0], labels[1] = 0, 1
    names = [f"c{k}" for k in range(classes)]
    found = compute_metrics(logits, labels, names, "multilabel")
    columns = [(labels[:, k], logits[:, k]) for k in range(classes)]
    assert found["map"] == pytest.approx(np.mean([average_precision_score(*c) for c in columns]))
    assert found["auc"] == pytest.approx(np.mean([roc_auc_score(*c) for c in columns]))
    theirs = np.mean([balanced_accuracy_score(y, z >= 0) for y, z in columns])
    assert found["balanced_accuracy"] == pytest.approx(theirs)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_not_finite_are_refused(bad):
    with pytest.raises(ValueError, match="not finite"):
        binary([bad, 1.0], [1, 0])


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="no tile"):
        compute_metrics(np.zeros((0, 1)), np.zeros((0, 1)), ["a"], "binary")
    with pytest.raises(ValueError, match="classes"):
        compute_metrics(np.zeros((2, 2)), np.zeros((2, 2)), ["a"], "binary")


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 40), st.integers(2, 5))
def test_macro_and_samples_figures_are_scikit_learns(seed, rows, classes):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(rows, classes))
    labels = rng.random((rows, classes)) < 0.2
    labels[0, 0] = True
    found = compute_metrics(logits, labels, [f"c{k}" for k in range(classes)], "multilabel")
    there = np.flatnonzero(labels.any(axis=0))
    both = np.flatnonzero(labels.any(axis=0) & ~labels.all(axis=0))
    assert found["classes_counted"] == len(both)
    for beta in (1, 2):
        precision, recall, f, _ = precision_recall_fscore_support(
            labels, logits >= 0, beta=beta, labels=there, average="macro", zero_division=0
        )
        assert found[f"f{beta}_macro"] == pytest.approx(f)
        assert found["precision_macro"] == pytest.approx(precision)
        assert found["recall_macro"] == pytest.approx(recall)
        samples = fbeta_score(labels, logits >= 0, beta=beta, average="samples", zero_division=1)
        assert found[f"f{beta}_samples"] == pytest.approx(samples)
    if len(both):
        assert found["baseline_map"] == pytest.approx(labels[:, both].mean())


def test_without_positives_macro_figures_are_undefined():
    found = binary([-1.0, -2.0], [0, 0])
    for name in ("precision_macro", "recall_macro", "f1_macro", "f2_macro", "baseline_map"):
        assert math.isnan(found[name])
    assert found["f1_samples"] == 1.0  # nothing there, nothing given


def test_recall_by_class_of_a_softmax():
    logits = np.array([[2.0, 1, 0], [0, 3, 1], [1, 2, 0], [0, 1, 2]])
    found = compute_metrics(logits, np.eye(3)[[0, 1, 0, 0]], list("abc"), "multiclass")
    assert found["recall_of"]["a"] == pytest.approx(1 / 3)
    assert found["recall_of"]["b"] == 1.0
    assert math.isnan(found["recall_of"]["c"])
    assert found["f1_samples"] == found["accuracy"] == 0.5
    row = flat(found)
    assert row["recall_of_b"] == 1.0
    assert row["ap_b"] == found["ap"]["b"]
    assert "ap" not in row
    assert "recall_of" not in row
    with pytest.raises(ValueError, match="multiclass labels"):
        compute_metrics(logits, np.ones((4, 3)), list("abc"), "multiclass")


def test_the_rule_decides():
    logits, labels = np.array([[-1.0], [-3.0]]), np.array([[1], [0]])
    lower = Rule(thresholds=(0.2,))
    assert compute_metrics(logits, labels, ["a"], "binary")["accuracy"] == 0.5
    assert compute_metrics(logits, labels, ["a"], "binary", lower)["accuracy"] == 1.0
    flatter = Rule(temperature=10.0, thresholds=(0.2,))  # both scores near 1/2 now
    found = compute_metrics(logits, labels, ["a"], "binary", flatter)
    assert found["predicted_positive_rate"] == 1.0
    assert found["map"] == 1.0
    assert found["log_loss"] == pytest.approx((np.log1p(np.exp(0.1)) + np.log1p(np.exp(-0.3))) / 2)
    # at and above; 0 gives all, 1 nothing below a score of 1
    edge = compute_metrics(np.array([[0.0]]), np.array([[1]]), ["a"], "binary", Rule(1, (0.5,)))
    assert edge["accuracy"] == 1.0
    for threshold, rate in ((0.0, 1.0), (1.0, 0.0)):
        found = compute_metrics(logits, labels, ["a"], "binary", Rule(1, (threshold,)))
        assert found["predicted_positive_rate"] == rate
    with pytest.raises(ValueError, match="thresholds"):
        compute_metrics(logits, labels, ["a"], "binary", Rule(1, (0.5, 0.5)))


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    classes=st.integers(1, 12),
    scale=st.sampled_from([0.1, 3.0, 30.0, 1000.0]),
    ties=st.booleans(),
)
def test_odds_against_the_rest_are_those_of_a_sum_over_the_others(seed, classes, scale, ties):
    logits = np.random.default_rng(seed).uniform(-scale, scale, (6, classes))
    logits = np.round(logits) if ties else logits
    found = one_against_rest(logits)
    others = [np.delete(logits, k, axis=1) for k in range(classes)]
    rest = [np.logaddexp.reduce(each, axis=1) if classes > 1 else logits[:, 0] for each in others]
    np.testing.assert_allclose(found, logits - np.transpose(rest), rtol=1e-12, atol=1e-12)


def test_odds_against_the_rest_stay_apart_at_extreme_logits():
    logits = np.array([[1e3, -1e3, 0.0], [-1e3, 1e3, 999.0], [50.0, 0, 0], [51.0, 0, 0]])
    with np.errstate(all="raise", under="ignore"):
        found = one_against_rest(logits)
    expected = [1000.0, -2000.0, -1000.0]
    assert found[0].tolist() == expected
    assert found[1, 0] == pytest.approx(-2000 - math.log1p(math.exp(-1)), rel=1e-14)
    assert found[1, 1] == pytest.approx(1.0, rel=1e-12)
    assert found[3, 0] - found[2, 0] == pytest.approx(1.0)  # their probabilities are both 1.0
