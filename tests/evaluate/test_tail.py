import numpy as np
import pytest

from satray.evaluate.tail import tail_accuracy, tail_quantiles


def test_by_hand():
    # class 0 lasts to the end and is right there; class 1 drops out after 0.5 and is wrong at it
    scores_NK = np.array([[0.99, 0.51], [0.6, 0.5], [0.2, 0.1]])
    labels_NK = np.array([[1, 0], [0, 1], [1, 0]], bool)
    found = tail_accuracy(scores_NK, labels_NK)
    assert found.at.tolist() == pytest.approx((0.5 + 0.025 * np.arange(20)).tolist())
    assert found.counts[:, 0].tolist() == [2, 1]  # 0.5 itself is not above 0.5
    assert found.accuracy[:, 0].tolist() == [0.5, 0.0]
    assert found.accuracy[0, -1] == 1.0
    assert np.isnan(found.accuracy[1, 1:]).all()
    assert found.classes.tolist() == [2] + [1] * 19
    assert found.mean[0] == 0.25
    assert found.mean[1] == 0.5
    assert found.fixed_classes == (0,)
    assert found.fixed[0] == 0.5
    assert found.micro[0] == pytest.approx(1 / 3)


def test_a_mean_that_falls_by_class_drop_out_alone():
    # both classes' own curves never fall; the better one drops out at 0.8
    scores_NK = np.array([[0.7, 0.99], [0.7, 0.99], [0.1, 0.6]])
    labels_NK = np.array([[1, 1], [1, 0], [0, 0]], bool)
    found = tail_accuracy(scores_NK, labels_NK)
    assert (np.diff(found.mean) < 0).any()
    assert (np.diff(found.fixed) >= 0).all()
    assert found.fixed_classes == (1,)


def test_nothing_above():
    found = tail_accuracy(np.full((3, 2), 0.4), np.ones((3, 2), bool))
    assert np.isnan(found.accuracy).all()
    assert np.isnan(found.mean).all()
    assert np.isnan(found.fixed).all()
    assert np.isnan(found.micro).all()
    assert found.fixed_classes == ()
    assert found.classes.tolist() == [0] * 20


def test_quantiles_keep_every_class():
    rng = np.random.default_rng(0)
    scores_NK = rng.permuted(np.linspace([0.001, 0.5], [0.01, 1], 200), axis=0)
    labels_NK = scores_NK > [0.0055, 2]
    found = tail_quantiles(scores_NK, labels_NK)
    assert found.counts.tolist() == [[round(200 * (1 - q)) for q in found.at]] * 2
    assert found.fixed_classes == (0, 1)
    np.testing.assert_array_equal(found.accuracy, [[1.0] * 20, [0.0] * 20])
    np.testing.assert_allclose(found.fixed, found.mean)
    # only the order matters
    logits = tail_quantiles(np.log(scores_NK), labels_NK)
    np.testing.assert_array_equal(logits.counts, found.counts)
