import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import fbeta_score, precision_recall_fscore_support

from satray.metrics.decisions import Counts, f_beta_by_tile

GIVEN = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0], [0, 1, 0]], bool)
TRUE = np.array([[1, 0, 0], [0, 1, 0], [1, 0, 0], [1, 0, 0]], bool)


def test_by_hand():
    counts = Counts.of(GIVEN, TRUE)
    assert counts.support.tolist() == [3, 1, 0]
    assert counts.total.tolist() == [4, 4, 4]
    assert counts.precision()[:2].tolist() == [0.5, 0.5]
    assert counts.recall()[:2].tolist() == pytest.approx([1 / 3, 1])
    assert counts.specificity().tolist() == pytest.approx([0, 2 / 3, 1])
    assert counts.given_rate().tolist() == [0.5, 0.5, 0]
    assert counts.prevalence().tolist() == [0.75, 0.25, 0]
    assert counts.f_beta(1)[:2].tolist() == pytest.approx([0.4, 2 / 3])
    assert counts.f_beta(2)[:2].tolist() == pytest.approx([5 / (5 + 8 + 1), 5 / 6])
    for figure in (counts.precision(), counts.recall(), counts.f_beta(1)):
        assert np.isnan(figure[2])  # neither given nor true


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 30), st.integers(2, 5))
def test_scikit_learn_agrees(seed, tiles, classes):
    rng = np.random.default_rng(seed)
    given_NK, true_NK = rng.random((2, tiles, classes)) < 0.3
    counts = Counts.of(given_NK, true_NK)
    for beta in (1, 2):
        theirs = precision_recall_fscore_support(
            true_NK, given_NK, beta=beta, zero_division=np.nan, average=None
        )
        mine = (counts.precision(), counts.recall(), counts.f_beta(beta), counts.support)
        for one, other in zip(mine, theirs, strict=True):
            np.testing.assert_allclose(one, other)
        samples = fbeta_score(true_NK, given_NK, beta=beta, average="samples", zero_division=1)
        assert f_beta_by_tile(given_NK, true_NK, beta).mean() == pytest.approx(samples)


def test_nothing_given_where_nothing_is_true_is_right():
    nothing, one = np.array([[False, False]]), np.array([[True, False]])
    assert f_beta_by_tile(nothing, nothing, 2).tolist() == [1.0]
    assert f_beta_by_tile(one, nothing, 2).tolist() == [0.0]
    assert f_beta_by_tile(nothing, one, 2).tolist() == [0.0]
