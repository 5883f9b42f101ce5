import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix as sklearn_confusion
from sklearn.metrics import fbeta_score, precision_recall_fscore_support

from satray.metrics.decisions import Counts, confusion_matrix, errors_together, f_beta_by_tile

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


def test_weights_count_tiles():
    w_DN = np.array([[1.0, 1, 1, 1], [0, 2, 0, 1]])
    counts = Counts.of(GIVEN, TRUE, w_DN)
    rows = [1, 1, 3]
    apart = Counts.of(GIVEN[rows], TRUE[rows])
    for name in ("hits", "false", "missed", "rest"):
        assert getattr(counts, name)[0].tolist() == getattr(Counts.of(GIVEN, TRUE), name).tolist()
        assert getattr(counts, name)[1].tolist() == getattr(apart, name).tolist()


def test_nothing_given_where_nothing_is_true_is_right():
    nothing, one = np.array([[False, False]]), np.array([[True, False]])
    assert f_beta_by_tile(nothing, nothing, 2).tolist() == [1.0]
    assert f_beta_by_tile(one, nothing, 2).tolist() == [0.0]
    assert f_beta_by_tile(nothing, one, 2).tolist() == [0.0]


def test_confusion_matrix():
    rng = np.random.default_rng(0)
    truth, decided = rng.integers(0, 4, (2, 50))
    found = confusion_matrix(np.eye(4)[decided], np.eye(4)[truth])
    np.testing.assert_array_equal(found, sklearn_confusion(truth, decided, labels=range(4)))
    binary = confusion_matrix(np.array([[1], [1], [0]]), np.array([[1], [0], [0]]))
    assert binary.tolist() == [[1, 1], [0, 1]]
    with pytest.raises(ValueError, match="one class a tile"):
        confusion_matrix(GIVEN, TRUE)


def test_errors_together():
    found = errors_together(GIVEN, TRUE)
    # class 0 is missed in tiles 2 and 3, and in 3 class 1 is given in its place
    assert found[0].tolist() == [0.0, 0.5, 0.0]
    assert np.isnan(found[1:]).all()  # never missed
