"""What is measured beside the metrics: baselines, the majority trap, the document."""

import json

import numpy as np
import pytest
import report_material
import scoring_material as material
from sklearn.metrics import confusion_matrix, f1_score, log_loss

from satray.metrics.scored import Rule, Scored
from satray.runs.jsonable import to_json
from satray.scoring.plots import draw
from satray.scoring.quality import Gathered, baselines, trapped


def scored(logits, labels, task: str = "multilabel", **rule) -> Scored:
    logits = np.asarray(logits, dtype=float)
    return Scored.of(logits, np.asarray(labels), logits.shape[1], task, Rule(**rule))


def test_trapped_classes_are_those_with_both_kinds() -> None:
    labels = np.array([[1, 1, 1, 0], [0, 0, 1, 0]])
    logits = np.array([[5.0, -5, 5, -5], [5, -5, 5, -5]])
    assert trapped(scored(logits, labels), "abcd") == (["a"], ["b"])


def test_baselines_are_what_no_skill_reaches() -> None:
    rng = np.random.default_rng(0)
    labels = rng.random((400, 3)) < (0.1, 0.5, 0.0)
    found = baselines(scored(np.zeros((400, 3)), labels))
    p = labels.mean(axis=0)
    assert found["map"] == pytest.approx(p[:2].mean())
    always = np.ones_like(labels)
    assert found["f1_macro"] == pytest.approx(
        f1_score(labels[:, :2], always[:, :2], average="macro")
    )
    expected = [log_loss(labels[:, k], np.full(400, p[k]), labels=[0, 1]) for k in range(3)]
    assert found["log_loss"] == pytest.approx(np.mean(expected), abs=1e-9)


def test_baselines_of_a_softmax() -> None:
    labels = np.eye(3)[[0, 0, 0, 1]]
    found = baselines(scored(np.zeros((4, 3)), labels, "multiclass"))
    expected = log_loss([0, 0, 0, 1], np.tile([0.75, 0.25, 0.0], (4, 1)), labels=[0, 1, 2])
    assert found["log_loss"] == pytest.approx(expected, abs=1e-6)
    assert found["balanced_accuracy"] == 0.5


@pytest.mark.parametrize(
    ("task", "classes"),
    [("binary", ("ship",)), ("multilabel", material.CLASSES), ("multiclass", material.CLASSES)],
)
def test_the_document_is_whole_and_json(tmp_path, task, classes) -> None:
    found = report_material.findings(tmp_path, task=task, classes=classes)
    quality = found.quality
    document = json.loads(to_json(quality.document))
    assert set(document["by_class"]) == set(classes)
    assert document["intervals"]["map"]["low"] <= document["intervals"]["map"]["high"]
    for k, name in enumerate(classes):
        row = document["by_class"][name]
        truth = found.split.labels[:, k].astype(bool)
        decided = quality.scored.given[:, k]
        assert row["positives"] == truth.sum()
        assert row["given"] == decided.sum()
        assert row["f1"] == pytest.approx(f1_score(truth, decided, zero_division=np.nan))
        assert f"ap_{name}" in document["intervals"]
    if task == "multilabel":
        assert np.shape(document["errors_together"]) == (3, 3)
    else:
        pick = (lambda x: x[:, 0]) if task == "binary" else (lambda x: x.argmax(axis=1))
        expected = confusion_matrix(pick(found.split.labels), pick(quality.scored.given))
        assert np.array_equal(document["confusion"], expected)
    every = document["reliability"]["all"]["counts"]
    assert sum(every) == quality.scored.scores.size
    assert document["tail"]["at"][0] == 0.5
    plots = draw(quality, classes, found.spec.thresholds)
    assert {"average_precision", "precision_recall", "roc", "reliability", "errors"} < set(plots)
    assert all(data.startswith(b"\x89PNG") for data in plots.values())


def test_no_draws_no_intervals(tmp_path) -> None:
    found = report_material.findings(tmp_path, keys={"bootstrap": 0})
    assert found.quality.intervals == {}
    assert draw(found.quality, found.spec.classes, found.spec.thresholds)["average_precision"]


def test_gathering_leaves_failed_tiles_out() -> None:
    from satray.scoring.predictions import Layout, Numbers, TileFacts, predictions

    layout = Layout(("a", "b"), (), "model", "run")
    values = np.arange(4, dtype=np.float32).reshape(2, 2)
    numbers = Numbers(values, values, values.astype(np.uint8))
    facts = [TileFacts("x", "x", target=(0, 1)), TileFacts("y", "y", error="gone")]
    gathered = Gathered(("a", "b"))
    gathered.add(predictions(layout, facts, numbers))
    gathered.add(predictions(layout, facts[1:], Numbers(values[1:], values[1:], values[1:])))
    split = gathered.split()
    assert (split.ids, split.model_id) == (("x",), "model")
    assert np.array_equal(split.logits, [[0, 1]])
    assert np.array_equal(split.labels, [[0, 1]])
