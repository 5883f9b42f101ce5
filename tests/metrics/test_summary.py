"""Metrics of a split: scikit-learn's, and by hand where it is silent."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as theirs

from satray.metrics.scored import PLAIN, Rule, Scored, one_against_rest, scores_of
from satray.metrics.summary import compute_metrics, figures, flat, watch
from satray.runs.run import to_json

NAN = math.nan


def binary(scores, labels, rule=PLAIN):
    columns = (np.array(values, dtype=float)[:, None] for values in (scores, labels))
    return compute_metrics(*columns, ["ship"], "binary", rule)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 40), st.integers(2, 5))
def test_scikit_learn_agrees(seed, rows, classes):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(rows, classes)).round(1)  # rounded: with ties
    labels = rng.random((rows, classes)) < 0.3
    labels[0, 0] = True
    names = list("abcde"[:classes])
    found = compute_metrics(logits, labels, names, "multilabel")
    given = logits >= 0
    there = np.flatnonzero(labels.any(axis=0))
    both = np.flatnonzero(labels.any(axis=0) & ~labels.all(axis=0))
    p = scores_of(logits, "multilabel")
    for beta in (1, 2):
        precision, recall, f, _ = theirs.precision_recall_fscore_support(
            labels, given, beta=beta, labels=there, average="macro", zero_division=0
        )
        assert found[f"f{beta}_macro"] == pytest.approx(f)
        assert (found["precision_macro"], found["recall_macro"]) == pytest.approx(
            (precision, recall)
        )
    samples = theirs.fbeta_score(labels, given, beta=2, average="samples", zero_division=1)
    assert found["f2_samples"] == pytest.approx(samples)
    assert found["accuracy"] == pytest.approx((labels == given).mean())
    losses = [theirs.log_loss(labels[:, k], p[:, k], labels=[0, 1]) for k in range(classes)]
    assert found["log_loss"] == pytest.approx(np.mean(losses))
    assert found["classes_counted"] == len(both)
    assert [k for k in range(classes) if math.isfinite(found["ap"][names[k]])] == both.tolist()
    if len(both):
        columns = [(labels[:, k], logits[:, k]) for k in both]
        ap = [theirs.average_precision_score(*one) for one in columns]
        auc = [theirs.roc_auc_score(*one) for one in columns]
        balanced = [theirs.balanced_accuracy_score(y, z >= 0) for y, z in columns]
        assert found["map"] == pytest.approx(np.mean(ap))
        assert found["auc"] == pytest.approx(np.mean(auc))
        assert found["balanced_accuracy"] == pytest.approx(np.mean(balanced))
        assert found["baseline_map"] == pytest.approx(labels[:, both].mean())
    gaps = []
    for k in range(classes):
        bins = np.ceil(p[:, k] * 15).clip(1) - 1
        gaps.append(sum(abs((p[:, k] - labels[:, k])[bins == b].sum()) for b in range(15)) / rows)
    assert found["ece"] == pytest.approx(np.mean(gaps))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["multilabel", "multiclass"]))
def test_weights_are_tiles_repeated_or_left_out(seed, task):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(25, 3)).round(1)
    labels = np.eye(3)[rng.integers(0, 3, 25)]
    rule = Rule(temperature=1.7, thresholds=(0.3, 0.6, 0.5))
    w_DN = np.stack([np.bincount(rng.integers(0, 25, 25), minlength=25) for _ in range(3)])
    scored = Scored.of(logits, labels, 3, task, rule)
    found = flat(figures(scored, "abc", w_DN.astype(float)))
    for draw, w_N in enumerate(w_DN):
        rows = np.repeat(np.arange(25), w_N)
        alone = flat(compute_metrics(logits[rows], labels[rows], "abc", task, rule))
        assert alone.keys() == found.keys()
        for name, value in alone.items():
            assert found[name][draw] == pytest.approx(value, nan_ok=True), name


@pytest.mark.parametrize(
    ("scores", "labels", "expected"),
    [
        # falling scores 1 0 1 0: precision 1 and 2/3 at the positives
        ([3, 2, 1, -1], [1, 0, 1, 0], {"map": 5 / 6, "auc": 0.75, "accuracy": 0.75,
         "balanced_accuracy": 0.75, "baseline_accuracy": 0.5, "predicted_positive_rate": 0.75,
         "f1_macro": 0.8, "f2_macro": 10 / 11, "precision_macro": 2 / 3, "recall_macro": 1,
         "f2_samples": 0.75}),
        ([1, 1, 1, 1], [1, 0, 0, 0], {"map": 0.25, "auc": 0.5}),  # ties: the prevalence
        ([1, 1, 1, 1], [0, 0, 0, 1], {"map": 0.25, "auc": 0.5}),
        ([80, 60, 50, 45], [1, 1, 0, 0], {"map": 1.0}),  # where sigmoids saturate
        ([-2] * 9, [0] * 7 + [1] * 2, {"accuracy": 7 / 9, "baseline_accuracy": 7 / 9,
         "balanced_accuracy": 0.5, "predicted_positive_rate": 0.0}),  # the majority trap
        ([0, 0], [1, 0], {"log_loss": math.log(2)}),
        ([-1000], [1], {"log_loss": 1000.0}),
        ([1, 2], [1, 1], {"auc": NAN, "balanced_accuracy": NAN, "baseline_accuracy": 1.0}),
        ([-1, -2], [0, 0], {"auc": NAN, "balanced_accuracy": NAN, "precision_macro": NAN,
         "recall_macro": NAN, "f1_macro": NAN, "f2_macro": NAN, "baseline_map": NAN,
         "f2_samples": 1.0, "map": NAN, "map_paper": 0.0}),  # nothing there, nothing given
    ],
)  # fmt: skip
def test_by_hand(scores, labels, expected):
    found = binary(scores, labels)
    for name, value in expected.items():
        assert type(found[name]) is float
        assert found[name] == pytest.approx(value, nan_ok=True), name


def test_classes_on_no_tile_or_on_all_are_left_out_and_counted():
    logits, labels = (
        np.array([[2.0, 0.3], [-1.0, 0.1], [1.0, -3.0]]),
        np.array([[1, 1], [0, 1], [1, 1]]),
    )
    found = compute_metrics(logits, labels, ["a", "b"], "multilabel")
    assert math.isnan(found["ap"]["b"])
    assert (found["map"], found["map_paper"], found["classes_counted"]) == (1, 1, 1)
    assert found["baseline_map"] == pytest.approx(2 / 3)
    assert json.loads(to_json(found))["ap"] == {"a": 1.0, "b": None}
    nowhere = compute_metrics(logits, labels * [1, 0], ["a", "b"], "multilabel")
    assert (nowhere["map"], nowhere["map_paper"], nowhere["classes_counted"]) == (1, 0.5, 1)


def test_multiclass():
    logits = np.array([[2.0, 1, 0], [0, 3, 1], [1, 2, 0], [0, 1, 2]])
    kinds = np.array([0, 1, 0, 2])
    found = compute_metrics(logits, np.eye(3)[kinds], list("abc"), "multiclass")
    assert found["accuracy"] == found["f2_samples"] == 0.75
    assert found["baseline_accuracy"] == found["predicted_positive_rate"] == 0.5
    assert found["balanced_accuracy"] == pytest.approx((0.5 + 1 + 1) / 3)
    p = scores_of(logits, "multiclass")
    assert found["log_loss"] == pytest.approx(theirs.log_loss(kinds, p))
    one_by_one = [theirs.roc_auc_score(kinds == k, p[:, k]) for k in range(3)]
    assert found["auc"] == pytest.approx(np.mean(one_by_one))
    without = compute_metrics(logits, np.eye(3)[[0, 1, 0, 0]], list("abc"), "multiclass")
    assert without["balanced_accuracy"] == pytest.approx((1 / 3 + 1) / 2)
    row = flat(without)
    assert row["ap_b"] == without["ap"]["b"]
    assert "ap" not in row


def test_the_rule_decides():
    logits, labels = [-1.0, -3.0], [1, 0]
    assert binary(logits, labels)["accuracy"] == 0.5
    assert binary(logits, labels, Rule(thresholds=(0.2,)))["accuracy"] == 1.0
    found = binary(logits, labels, Rule(10.0, (0.2,)))  # both scores near 1/2 now
    assert (found["predicted_positive_rate"], found["map"]) == (1.0, 1.0)
    assert found["log_loss"] == pytest.approx((np.log1p(np.exp(0.1)) + np.log1p(np.exp(-0.3))) / 2)
    # at and above; 0 gives all, 1 nothing below a score of 1
    assert binary([0.0], [1], Rule(1, (0.5,)))["accuracy"] == 1.0
    for threshold, rate in ((0.0, 1.0), (1.0, 0.0)):
        rule = Rule(1, (threshold,))
        assert binary(logits, labels, rule)["predicted_positive_rate"] == rate


@pytest.mark.parametrize(
    ("logits", "labels", "task", "rule", "said"),
    [
        ([[NAN], [1.0]], [[1], [0]], "binary", Rule(), "not finite"),
        ([[math.inf], [1.0]], [[1], [0]], "binary", Rule(), "not finite"),
        (np.zeros((0, 1)), np.zeros((0, 1)), "binary", Rule(), "no tile"),
        (np.zeros((2, 2)), np.zeros((2, 2)), "binary", Rule(), "classes"),
        ([[1.0]], [[1]], "binary", Rule(1, (0.5, 0.5)), "thresholds"),
        ([[1.0]], [[0]], "multiclass", Rule(), "multiclass labels"),
    ],
)
def test_what_does_not_fit_is_refused(logits, labels, task, rule, said):
    with pytest.raises(ValueError, match=said):
        compute_metrics(np.array(logits), np.array(labels), ["a"], task, rule)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 12), st.sampled_from([0.1, 3.0, 30.0, 1000.0]))
def test_odds_against_the_rest_are_those_of_a_sum_over_the_others(seed, classes, scale):
    logits = np.random.default_rng(seed).uniform(-scale, scale, (6, classes)).round(seed % 3)
    others = [np.delete(logits, k, axis=1) for k in range(classes)]
    rest = [np.logaddexp.reduce(each, axis=1) if classes > 1 else logits[:, 0] for each in others]
    with np.errstate(all="raise", under="ignore"):
        found = one_against_rest(logits)
    np.testing.assert_allclose(found, logits - np.transpose(rest), rtol=1e-12, atol=1e-12)
    near = one_against_rest(np.array([[50.0, 0, 0], [51.0, 0, 0]]))[:, 0]
    assert near[1] - near[0] == pytest.approx(1.0)  # their probabilities are both 1.0


# The majority trap

ONE_HOT = np.eye(3)[[0, 1, 2, 0]]
FIRST = np.array([[2.0, 1, 0], [2, 1, 0], [2, 1, 0], [0, 1, 0]])


@pytest.mark.parametrize(
    ("logits", "labels", "task", "rule", "always", "never"),
    [
        # d is on all tiles: nothing wrong
        ([[3.0, -1, 1, 4], [0, -2, -1, 1]], [[1, 1, 1, 1], [0, 0, 0, 1]], "multilabel", Rule(),
         "a", "b"),
        ([[3.0, -1], [1, -2]], [[1, 0], [0, 1]], "multilabel", Rule(1, (0.9, 0.5)), "", "b"),
        (FIRST, ONE_HOT, "multiclass", Rule(), "", "c"),  # by the highest logit
        (ONE_HOT, ONE_HOT, "multiclass", Rule(), "", ""),
    ],
)  # fmt: skip
def test_always_and_never(logits, labels, task, rule, always, never):
    found = watch(np.array(logits), np.array(labels), "abcd"[: len(labels[0])], task, rule)
    assert ("".join(found.always), "".join(found.never)) == (always, never)
    assert len(found.warnings()) == bool(always) + bool(never)
