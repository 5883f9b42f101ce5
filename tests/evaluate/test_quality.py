"""What is measured: intervals, baselines, tail accuracy; and what is told of the split."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import report_material
import scoring_material as material
from sklearn.metrics import confusion_matrix, f1_score, log_loss

from satray.evaluate.quality import (
    affordable,
    baselines,
    bootstrap,
    caution,
    errors_together,
    reliability,
    tail_accuracy,
)
from satray.metrics.scored import PLAIN, Rule, Scored
from satray.metrics.summary import compute_metrics, flat
from satray.runs.run import to_json

RULE = Rule(temperature=1.7, thresholds=(0.3, 0.6, 0.5))


def scored(logits, labels, task: str = "multilabel", rule: Rule = PLAIN) -> Scored:
    logits = np.asarray(logits, dtype=float)
    return Scored.of(logits, np.asarray(labels), logits.shape[1], task, rule)


# Intervals


@pytest.mark.parametrize("task", ["multilabel", "multiclass"])
def test_intervals_hold_their_figures_and_hang_on_the_seed_alone(task):
    rng = np.random.default_rng(0)
    labels = np.eye(3)[rng.integers(0, 3, 60)] if task == "multiclass" else (
        rng.random((60, 3)) < [0.2, 0.5, 0.05]
    )  # fmt: skip
    logits = (rng.normal(size=(60, 3)) + labels).round(1)
    one = scored(logits, labels, task, RULE)
    told = []
    found = bootstrap(one, "abc", 50, progress=lambda *now: told.append(now))
    assert told[-1] == (50, 50)
    whole = flat(compute_metrics(logits, labels, "abc", task, RULE))
    assert whole.keys() - found.keys() == {"classes_counted"}
    for name, interval in found.items():
        assert max(0, interval["low"]) <= whole[name] <= interval["high"]
        assert interval["high"] <= 1 or name == "log_loss"
    assert bootstrap(one, "abc", 50) == found
    assert bootstrap(one, "abc", 50, seed=1) != found


def test_accuracy_of_independent_tiles():
    # the textbook's normal interval: p +- 1.96 sqrt(p (1 - p) / n)
    logits = np.where(np.arange(400) < 300, 1.0, -1.0)[:, None]
    found = bootstrap(scored(logits, np.ones((400, 1)), "binary"), "a", 4000)["accuracy"]
    sd = math.sqrt(0.75 * 0.25 / 400)
    assert found["sd"] == pytest.approx(sd, rel=0.05)
    assert found["low"] == pytest.approx(0.75 - 1.96 * sd, abs=0.003)
    assert found["high"] == pytest.approx(0.75 + 1.96 * sd, abs=0.003)


def test_draws_without_positives_are_counted_out_and_many_tiles_get_fewer():
    labels = np.zeros((20, 2), int)
    labels[0, 0] = 1
    found = bootstrap(scored(np.random.default_rng(0).normal(size=(20, 2)), labels), "ab")
    assert found["ap_a"]["draws"] == pytest.approx(1000 * (1 - (1 - 1 / 20) ** 20), abs=60)
    assert found["map"]["draws"] == found["ap_a"]["draws"]
    assert found["accuracy"]["draws"] == 1000
    assert found["ap_b"]["draws"] == 0
    assert math.isnan(found["ap_b"]["low"])
    most = [affordable(1000, tiles) for tiles in (483, 200_000, 1_000_000, 10_000_000)]
    assert most == [1000, 1000, 200, 100]
    assert affordable(20, 10_000_000) == 20


# Baselines, errors, reliability


@pytest.mark.parametrize("task", ["multilabel", "multiclass"])
def test_baselines_are_what_no_skill_reaches(task) -> None:
    rng = np.random.default_rng(0)
    labels = rng.random((400, 3)) < (0.1, 0.5, 0.0)  # the last class is nowhere
    if task == "multiclass":
        labels = np.eye(3)[rng.integers(0, 5, 400) // 3]
    found, p = baselines(scored(np.zeros((400, 3)), labels, task), "abc"), labels.mean(axis=0)
    assert found["map"] == pytest.approx(p[:2].mean())
    assert found["auc"] == found["balanced_accuracy"] == 0.5
    if task == "multiclass":
        expected = log_loss(labels.argmax(axis=1), np.tile(p, (400, 1)), labels=[0, 1, 2])
        always = np.tile([1, 0], (400, 1))  # the majority
    else:
        by_class = [log_loss(labels[:, k], np.full(400, p[k]), labels=[0, 1]) for k in range(3)]
        expected, always = np.mean(by_class), np.ones((400, 2))
    assert found["log_loss"] == pytest.approx(expected, abs=1e-9)
    f1 = f1_score(labels[:, :2], always, average="macro", zero_division=0)
    assert found["f1_macro"] == pytest.approx(f1)


def test_errors_and_reliability_by_hand() -> None:
    given = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0], [0, 1, 0]], bool)
    true = np.array([[1, 0, 0], [0, 1, 0], [1, 0, 0], [1, 0, 0]], bool)
    found = errors_together(given, true)
    # class 0 is missed in tiles 2 and 3, and in 3 class 1 is given in its place
    assert found[0].tolist() == [0.0, 0.5, 0.0]
    assert np.isnan(found[1:]).all()  # never missed
    scores = np.array([0.0, 1 / 15, 0.07, 0.9, 1.0])
    bins = reliability(scores, np.array([False, True, True, True, True]))
    assert bins["counts"] == [2, 1, *[0] * 11, 1, 1]  # a bin holds its upper edge
    assert bins["mean_score"][0] == pytest.approx(1 / 30)
    assert bins["mean_label"][:2] == [0.5, 1.0]
    assert math.isnan(bins["mean_score"][5])


# Tail accuracy


def test_tail_accuracy_by_hand():
    # class 0 lasts to the end and is right there; class 1 drops out after 0.5 and is wrong at it
    scores_NK = np.array([[0.99, 0.51], [0.6, 0.5], [0.2, 0.1]])
    labels_NK = np.array([[1, 0], [0, 1], [1, 0]], bool)
    found = tail_accuracy(scores_NK, labels_NK, "ab")
    assert found["at"] == pytest.approx((0.5 + 0.025 * np.arange(20)).tolist())
    assert found["classes"] == [2] + [1] * 19
    assert found["mean"][:2] == [0.25, 0.5]  # 0.5 itself is not above 0.5
    assert (found["fixed_classes"], found["fixed"][0], found["fixed"][-1]) == (["a"], 0.5, 1.0)
    assert found["micro"][0] == pytest.approx(1 / 3)
    nothing = tail_accuracy(np.full((3, 2), 0.4), np.ones((3, 2), bool), "ab")
    for name in ("mean", "fixed", "micro"):
        assert np.isnan(nothing[name]).all()
    assert (nothing["fixed_classes"], nothing["classes"]) == ([], [0] * 20)


def test_quantiles_keep_every_class():
    rng = np.random.default_rng(0)
    scores_NK = rng.permuted(np.linspace([0.001, 0.5], [0.01, 1], 200), axis=0)
    labels_NK = scores_NK > [0.0055, 2]
    found = tail_accuracy(scores_NK, labels_NK, "ab", quantiles=True)
    assert (found["fixed_classes"], found["classes"]) == (["a", "b"], [2] * 20)
    # all above are right of one class, none of the other; of each as many are looked at
    assert found["fixed"] == found["mean"] == found["micro"] == [0.5] * 20
    logits = tail_accuracy(np.log(scores_NK), labels_NK, "ab", quantiles=True)
    assert logits == found  # only the order matters


# The document


@pytest.mark.parametrize(
    ("task", "classes"),
    [("binary", ("ship",)), ("multilabel", material.CLASSES), ("multiclass", material.CLASSES)],
)
def test_the_document_is_whole_and_json(tmp_path, task, classes) -> None:
    found = report_material.findings(tmp_path, task=task, classes=classes)
    quality = found.quality
    document = json.loads(to_json(quality.document))
    assert document["intervals"]["map"]["low"] <= document["intervals"]["map"]["high"]
    assert list(document["by_class"]) == list(classes)
    for k, (name, row) in enumerate(document["by_class"].items()):
        truth = found.predicted.labels[:, k].astype(bool)
        decided = quality.scored.predicted[:, k]
        assert (row["positives"], row["given"]) == (truth.sum(), decided.sum())
        assert row["f1"] == pytest.approx(f1_score(truth, decided, zero_division=np.nan))
        assert row["ap"] == document["metrics"]["ap"][name]
        assert f"ap_{name}" in document["intervals"]
    if task == "multilabel":
        assert np.shape(document["errors_together"]) == (3, 3)
    else:
        pick = (lambda x: x[:, 0]) if task == "binary" else (lambda x: x.argmax(axis=1))
        expected = confusion_matrix(pick(found.predicted.labels), pick(quality.scored.predicted))
        assert np.array_equal(document["confusion"], expected)
    assert sum(document["reliability"]["counts"]) == quality.scored.scores.size


def test_the_caution_goes_by_the_bundles_own_provenance() -> None:
    bare = material.bundle(material.one_tower()).spec
    calibration = {"seed": 5, "temperature": True, "thresholds": True}
    chosen = replace(bare, provenance={"index": "i", "calibration": None})
    fitted = replace(bare, provenance={"index": "i", "calibration": calibration})
    for spec, digest, split, said in (
        (fitted, "i", "val", "To half of these tiles its temperature and thresholds are fitted"),
        (fitted, "i", "train", "trained on this split"),
        (fitted, "j", "val", "another tile index"),
        (bare, "i", "val", "does not say"),
        (chosen, "i", "val", "a little optimistic."),
    ):
        assert said in caution(spec, digest, split)
    assert "fitted" not in caution(chosen, "i", "val")
    odd = replace(bare, provenance={"index": "i", "calibration": True})
    assert caution(odd, "i", "val") == caution(chosen, "i", "val")
    assert caution(fitted, "i", "test") == ""
