import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from satray.evaluate.curves import precision_recall, roc


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 100))
def test_areas_are_those_of_the_metrics(seed, tiles):
    rng = np.random.default_rng(seed)
    labels_N = rng.random(tiles) < 0.3
    labels_N[:2] = True, False
    scores_N = (rng.normal(size=tiles) + labels_N).round(1)
    curve = precision_recall(scores_N, labels_N)
    area = (np.diff(curve.x) * curve.y[1:]).sum()
    assert area == pytest.approx(average_precision_score(labels_N, scores_N))
    precision, recall, thresholds = precision_recall_curve(labels_N, scores_N)
    np.testing.assert_allclose(curve.y[1:], precision[-2::-1])
    np.testing.assert_allclose(curve.x[1:], recall[-2::-1])
    np.testing.assert_allclose(curve.thresholds[1:], thresholds[::-1])
    curve = roc(scores_N, labels_N)
    assert np.trapezoid(curve.y, curve.x) == pytest.approx(roc_auc_score(labels_N, scores_N))
    assert (curve.x[0], curve.y[0], curve.x[-1], curve.y[-1]) == (0, 0, 1, 1)


@pytest.mark.parametrize("most", [2, 10, 200])
def test_thinned(most):
    rng = np.random.default_rng(0)
    labels_N = rng.random(5000) < 0.2
    scores_N = rng.normal(size=5000) + labels_N
    for draw in (precision_recall, roc):
        full, few = draw(scores_N, labels_N, 10_000), draw(scores_N, labels_N, most)
        assert len(full.x) == 5001
        assert 2 <= len(few.x) <= most
        assert (few.x[0], few.y[0]) == (full.x[0], full.y[0])
        assert (few.x[-1], few.y[-1]) == (full.x[-1], full.y[-1])
        kept = {*zip(full.x, full.y, full.thresholds, strict=True)}
        assert {*zip(few.x, few.y, few.thresholds, strict=True)} <= kept
        if most == 200:  # close to the full curve all along
            assert np.abs(np.interp(full.x, few.x, few.y) - full.y)[50:].max() < 0.05


def test_undefined():
    assert precision_recall(np.zeros(2), np.zeros(2)) is None
    assert precision_recall(np.zeros(2), np.ones(2)) is None
    assert roc(np.zeros(2), np.zeros(2)) is None
    assert roc(np.zeros(2), np.ones(2)) is None
