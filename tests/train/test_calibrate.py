"""Temperature and thresholds: known truth is found on one half and shows on the other."""

import numpy as np
import pytest

from satray.config.train import CalibrateOptions
from satray.metrics.calibration import halves
from satray.metrics.scored import PLAIN
from satray.metrics.summary import compute_metrics
from satray.train.calibrate import calibrate

CLASSES = ("a", "b", "rare")


def overconfident(n=4000, factor=3.0, seed=0):
    """Logits that are `factor` times the truth's log odds; the last class is rare."""
    rng = np.random.default_rng(seed)
    truth = rng.normal([0, -2, -6], [1, 2, 0.5], (n, 3))
    labels = rng.random((n, 3)) < 1 / (1 + np.exp(-truth))
    return (factor * truth).astype(np.float32), labels.astype(np.uint8)


def found_by(logits, labels, task="multilabel", **options):
    classes = CLASSES[: logits.shape[1]]
    ids = [f"tile/{i}" for i in range(len(logits))]
    return calibrate(logits, labels, ids, classes, task, CalibrateOptions(**options))


def test_a_known_temperature_is_found_and_helps_where_it_was_not_fitted():
    found = found_by(*overconfident())
    assert found.rule.temperature == pytest.approx(3, rel=0.1)
    before, after = found.report["before"], found.report["after"]
    assert after["log_loss"] < before["log_loss"] - 0.05
    assert after["ece"] < before["ece"] / 3
    assert after["f1_macro"] > before["f1_macro"] - 0.01
    assert found.report["fitted_tiles"] == found.report["measured_tiles"] == 2000
    said = f"temperature {found.rule.temperature:.3f} (fitted), thresholds of 2 of 3"
    assert said in found.line()
    assert found.origin() == {"seed": 0, "temperature": True, "thresholds": True}


def test_thresholds_follow_the_measure_and_rare_classes_keep_theirs():
    logits, labels = overconfident()
    f1 = dict(zip(CLASSES, found_by(logits, labels).thresholds, strict=True))
    f2 = dict(zip(CLASSES, found_by(logits, labels, thresholds="f2").thresholds, strict=True))
    assert f1["rare"] == f2["rare"] == 0.5
    # F-beta wants a threshold of half its best value (or less for recall's sake).
    assert f2["a"] < f1["a"] < 0.5
    assert f2["b"] < f1["b"] < 0.5
    by_f2 = found_by(logits, labels, thresholds="f2").report
    assert by_f2["after"]["f2_macro"] > by_f2["before"]["f2_macro"] + 0.01


def test_what_is_not_asked_for_is_not_fitted():
    logits, labels = overconfident()
    found = found_by(logits, labels, temperature=False, thresholds="half")
    assert (found.rule.temperature, found.thresholds) == (1.0, (0.5,) * 3)
    assert found.report["before"] == found.report["after"]
    assert found.origin() == {"seed": 0, "temperature": False, "thresholds": False}
    few = found_by(logits[:60], labels[:60])
    assert (few.rule.temperature, few.thresholds) == (1.0, (0.5,) * 3)
    assert "kept: fewer than 50 tiles" in few.line()
    assert not any(few.origin()[name] for name in ("temperature", "thresholds"))


def test_a_fit_that_runs_to_its_bound_is_not_taken():
    logits, _ = overconfident(400)
    found = found_by(-20 * np.sign(logits), (logits > 0).astype(np.uint8))
    assert found.rule.temperature == 1.0
    assert "kept: the best is not between 0.05 and 20" in found.line()
    assert not found.origin()["temperature"]


def test_the_figures_are_those_of_the_metrics():
    logits, labels = overconfident(600)
    labels[:, 2] = 0  # falsely given somewhere: F counts it 0 by itself, the metrics not at all
    logits[::50, 2] = 3
    found = found_by(logits, labels)
    rest = ~halves([f"tile/{i}" for i in range(600)], 0)
    for name, rule in (("before", PLAIN), ("after", found.rule)):
        figures = compute_metrics(logits[rest], labels[rest], CLASSES, "multilabel", rule)
        assert found.report[name] == {key: figures[key] for key in found.report[name]}
        assert len(found.report[name]) == 4


def test_a_multiclass_decision_needs_no_threshold():
    rng = np.random.default_rng(1)
    truth = rng.normal(0, 1, (2000, 3))
    odds = np.exp(truth) / np.exp(truth).sum(1, keepdims=True)
    drawn = (rng.random(2000)[:, None] < odds.cumsum(1)).argmax(1)
    labels = np.eye(3, dtype=np.uint8)[drawn]
    found = found_by((4 * truth).astype(np.float32), labels, "multiclass")
    assert found.rule.temperature == pytest.approx(4, rel=0.15)
    assert found.thresholds == (0.5,) * 3
    assert found.report["after"]["log_loss"] < found.report["before"]["log_loss"]
    assert found.report["after"]["f1_macro"] == found.report["before"]["f1_macro"]


def test_the_reported_half_fitted_nothing():
    """Labels of the measured half may change as they will: what is fitted stays."""
    logits, labels = overconfident(600)
    first = found_by(logits, labels)
    measured = ~halves([f"tile/{i}" for i in range(600)], 0)
    labels[measured] = 1 - labels[measured]
    second = found_by(logits, labels)
    assert first.rule == second.rule
    assert first.report["after"] != second.report["after"]


def test_a_single_tile_is_fitted_on_and_nothing_is_measured():
    found = found_by(np.zeros((1, 3), np.float32), np.zeros((1, 3), np.uint8))
    assert found.report["after"] is None
    assert "too few" in found.line()
