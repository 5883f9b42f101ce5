"""What is measured beside the metrics: baselines, the majority trap, the document."""

import json
from dataclasses import replace

import numpy as np
import pytest
import report_material
import scoring_material as material
from sklearn.metrics import confusion_matrix, f1_score, log_loss

from satray.evaluate.bootstrap import bootstrap
from satray.evaluate.held import Held, caution, held_back
from satray.evaluate.plots import draw
from satray.evaluate.quality import Gathered, baselines, errors_together, measure
from satray.metrics.calibration import halves
from satray.metrics.scored import Rule, Scored
from satray.metrics.summary import compute_metrics
from satray.runs.run import to_json


def scored(logits, labels, task: str = "multilabel", **rule) -> Scored:
    logits = np.asarray(logits, dtype=float)
    return Scored.of(logits, np.asarray(labels), logits.shape[1], task, Rule(**rule))


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
    said = np.tile([1, 0], (4, 1))  # always the majority, over the two classes that occur
    expected = f1_score(labels[:, :2], said, average="macro", zero_division=0)
    assert found["f1_macro"] == pytest.approx(expected)


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
        truth = found.predicted.labels[:, k].astype(bool)
        decided = quality.scored.given[:, k]
        assert row["positives"] == truth.sum()
        assert row["given"] == decided.sum()
        assert row["f1"] == pytest.approx(f1_score(truth, decided, zero_division=np.nan))
        assert f"ap_{name}" in document["intervals"]
    if task == "multilabel":
        assert np.shape(document["errors_together"]) == (3, 3)
    else:
        pick = (lambda x: x[:, 0]) if task == "binary" else (lambda x: x.argmax(axis=1))
        expected = confusion_matrix(pick(found.predicted.labels), pick(quality.scored.given))
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
    split = gathered.predicted()
    assert (split.ids, split.model_id) == (("x",), "model")
    assert np.array_equal(split.logits, [[0, 1]])
    assert np.array_equal(split.labels, [[0, 1]])


def fitted(root, **more):
    """A bundle that says that it was fitted on half of this index, and its findings."""
    found = report_material.findings(root, tiles=24)
    provenance = {
        "index": found.index.digest,
        "calibration": {"seed": 5, "temperature": True, "thresholds": True} | more,
    }
    return found, replace(found.spec, provenance=provenance, thresholds=(0.3, 0.5, 0.6))


def test_figures_that_were_fitted_come_from_the_other_half(tmp_path) -> None:
    found, spec = fitted(tmp_path)
    split = found.predicted
    held = held_back(spec, found.index.digest, "val", split.ids)
    assert held is not None
    assert np.array_equal(held.rows, ~halves(split.ids, 5))
    quality = measure(split, spec, 20, held)
    rule = Rule(spec.temperature, spec.thresholds)
    rest = (split.logits[held.rows], split.labels[held.rows], spec.classes, spec.task)
    half, all_of_it = compute_metrics(*rest, rule), measure(split, spec, 20).metrics
    for name in ("f1_macro", "f2_samples", "accuracy", "baseline_accuracy", "log_loss", "ece"):
        assert quality.metrics[name] == half[name]
        assert name in held.figures
    for name in ("map", "auc", "map_paper", "classes_counted"):
        assert quality.metrics[name] == all_of_it[name]
    assert quality.document["raw_metrics"]["log_loss"] == compute_metrics(*rest)["log_loss"]
    apart = bootstrap(*rest, 20, rule=rule)
    assert quality.intervals["f1_macro"]["low"] == apart["f1_macro"].low
    assert quality.intervals["map"]["low"] == measure(split, spec, 20).intervals["map"]["low"]
    document = quality.document
    assert document["measured_apart"]["tiles"] == held.rows.sum() == 12
    assert np.sum(document["reliability"]["all"]["counts"]) == 12 * 3
    for k, name in enumerate(spec.classes):
        row = document["by_class"][name]
        assert row["positives"] == split.labels[:, k].sum()
        assert row["judged_positives"] == split.labels[held.rows, k].sum()
    # what was fitted may have been right or wrong: its labels change none of these figures
    other = split.labels.copy()
    other[~held.rows] = 1 - other[~held.rows]
    again = measure(replace(split, labels=other), spec, 0, held)
    assert {name: again.metrics[name] for name in held.figures if name in half} == {
        name: quality.metrics[name] for name in held.figures if name in half
    }
    assert again.metrics["map"] != quality.metrics["map"]


def test_only_what_was_fitted_is_measured_apart(tmp_path) -> None:
    found, spec = fitted(tmp_path, thresholds=False)
    held = held_back(spec, found.index.digest, "val", found.predicted.ids)
    assert held is not None
    assert held.figures == ("log_loss", "ece")
    quality = measure(found.predicted, spec, 0, held)
    assert quality.metrics["f1_macro"] == measure(found.predicted, spec, 0).metrics["f1_macro"]


def test_nothing_is_held_back_where_nothing_was_fitted(tmp_path) -> None:
    found, spec = fitted(tmp_path)
    ids = found.predicted.ids
    assert held_back(spec, found.index.digest, "test", ids) is None
    assert held_back(spec, "0" * 64, "val", ids) is None
    assert held_back(found.spec, found.index.digest, "val", ids) is None
    nothing = fitted(tmp_path / "b", temperature=False, thresholds=False)[1]
    assert held_back(nothing, found.index.digest, "val", ids) is None
    for broken in (None, [], {"seed": "x"}, {"seed": None, "temperature": True}):
        odd = replace(spec, provenance={**spec.provenance, "calibration": broken})
        assert held_back(odd, found.index.digest, "val", ids) is None


def test_the_caution_goes_by_the_bundles_own_provenance(tmp_path) -> None:
    found, spec = fitted(tmp_path)
    held = held_back(spec, found.index.digest, "val", found.predicted.ids)
    assert "fitted on 12 of these tiles" in caution(spec, found.index.digest, "val", held)
    assert "trained on this split" in caution(spec, found.index.digest, "train", None)
    assert caution(spec, found.index.digest, "test", None) == ""
    for split in ("train", "val", "test"):
        assert "another tile index" in caution(spec, "0" * 64, split, None)
    assert "does not say" in caution(found.spec, found.index.digest, "val", None)
    older = replace(spec, provenance={"index": found.index.digest})
    assert "may have been fitted" in caution(older, found.index.digest, "val", None)


def test_errors_that_go_together() -> None:
    given = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0], [0, 1, 0]], bool)
    true = np.array([[1, 0, 0], [0, 1, 0], [1, 0, 0], [1, 0, 0]], bool)
    found = errors_together(given, true)
    # class 0 is missed in tiles 2 and 3, and in 3 class 1 is given in its place
    assert found[0].tolist() == [0.0, 0.5, 0.0]
    assert np.isnan(found[1:]).all()  # never missed


def test_held_says_what_it_is_about() -> None:
    held = Held(np.array([True, False, True]), temperature=True, thresholds=False)
    assert held.line().startswith("temperature of the bundle was fitted on 1 of these tiles")
    assert "accuracy, precision" not in held.line()
    assert held.document() == {"tiles": 2, "fitted_tiles": 1, "figures": ["log_loss", "ece"]}
