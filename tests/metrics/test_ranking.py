import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from satray.metrics.ranking import Ranking, divided, mean_of_defined


def average_precision(scores_N, labels_N) -> float:
    return float(Ranking.of(scores_N, labels_N).areas(np.ones((1, len(scores_N))))[0][0])


def roc_auc(scores_N, labels_N) -> float:
    return float(Ranking.of(scores_N, labels_N).areas(np.ones((1, len(scores_N))))[1][0])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 60), st.integers(0, 3))
def test_scikit_learn_with_weights_agrees(seed, tiles, digits):
    rng = np.random.default_rng(seed)
    scores_N = rng.normal(size=tiles).round(digits)  # few digits: many ties
    labels_N = rng.random(tiles) < 0.4
    labels_N[:2] = True, False
    w_DN = rng.integers(0, 4, (3, tiles)).astype(float)
    w_DN[:, :2] += 1
    ap_D, auc_D = Ranking.of(scores_N, labels_N).areas(w_DN)
    for w_N, ap, auc in zip(w_DN, ap_D, auc_D, strict=True):
        assert ap == pytest.approx(average_precision_score(labels_N, scores_N, sample_weight=w_N))
        assert auc == pytest.approx(roc_auc_score(labels_N, scores_N, sample_weight=w_N))


def test_a_weight_of_two_is_the_tile_twice():
    scores_N, labels_N = np.array([3.0, 2, 2, 1]), np.array([False, True, False, True])
    ap_D, auc_D = Ranking.of(scores_N, labels_N).areas(np.array([[1.0, 2, 0, 1]]))
    again_N, labels_again_N = np.array([3.0, 2, 2, 1]), np.array([False, True, True, True])
    assert ap_D[0] == average_precision(again_N, labels_again_N)
    assert auc_D[0] == roc_auc(again_N, labels_again_N)


def test_by_hand():
    scores_N, labels_N = np.array([4.0, 3, 2, 1]), np.array([True, False, True, False])
    assert average_precision(scores_N, labels_N) == pytest.approx((1 + 2 / 3) / 2)
    assert roc_auc(scores_N, labels_N) == 0.75
    constant = np.zeros(4)
    assert average_precision(constant, labels_N) == 0.5  # the prevalence
    assert roc_auc(constant, labels_N) == 0.5


def test_undefined():
    scores_N = np.array([1.0, 2])
    none, every = np.array([False, False]), np.array([True, True])
    assert math.isnan(average_precision(scores_N, none))
    assert math.isnan(roc_auc(scores_N, none))
    assert math.isnan(average_precision(scores_N, every))
    assert math.isnan(roc_auc(scores_N, every))
    # of the draw's tiles, not of the split's
    ap_D, auc_D = Ranking.of(scores_N, np.array([True, False])).areas(np.array([[0.0, 2], [2, 0]]))
    assert np.isnan(ap_D).all()
    assert np.isnan(auc_D).all()


def test_divided_and_mean_of_defined():
    found = divided(np.array([1.0, 0, 3]), np.array([2.0, 0, 0]))
    assert found[0] == 0.5
    assert np.isnan(found[1:]).all()
    means = mean_of_defined(np.array([[1.0, np.nan, 3], [np.nan] * 3]))
    assert means[0] == 2.0
    assert np.isnan(means[1])
