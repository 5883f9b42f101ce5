"""Weights, repeats and notes from labels."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from satray.config.train import LossOptions
from satray.train.imbalance import class_weights, repeat_factors

LABELS = hnp.arrays(
    np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 5)), elements=st.integers(0, 1)
)


def table(*columns):
    return np.array(columns, dtype=np.uint8).T


BALANCED = LossOptions(positive_weight="balanced")


def test_class_weights_follow_the_key():
    column = [1] + [0] * 299
    labels = table(column, [1, 1, 1] + [0] * 297, [1] * 200 + [0] * 100, [0] * 300, [1] * 300)
    assert class_weights(LossOptions(), labels, 0) is None
    assert class_weights(LossOptions(positive_weight=2.5), labels, 0) == (2.5,) * 5
    assert class_weights(BALANCED, labels, 0) == (100.0, 99.0, 0.5, 1.0, 1.0)


@given(LABELS, st.floats(0, 1))
def test_balanced_weights_balance_what_comes_in_a_pass(labels, repeat):
    """Sampling and weights together count rarity once."""
    factors = repeat_factors(labels, repeat)
    times = np.ones(len(labels)) if factors is None else factors
    weights = class_weights(BALANCED, labels, repeat)
    for k, weight in enumerate(weights):
        positives, negatives = times @ labels[:, k], times @ (1 - labels[:, k])
        if positives and negatives:
            assert weight * positives == pytest.approx(min(negatives, 100 * positives))


@given(LABELS, st.floats(0.001, 1))
def test_repeat_factors_are_of_the_rarest_class(labels, threshold):
    factors = repeat_factors(labels, threshold)
    found = np.ones(len(labels)) if factors is None else factors
    for row, factor in zip(labels, found, strict=True):
        shares = [labels[:, k].mean() for k in np.flatnonzero(row)]
        wanted = max([1.0, *(math.sqrt(threshold / share) for share in shares)])
        assert factor == pytest.approx(wanted)


def test_nothing_rare_means_no_repeats():
    labels = table([1, 1, 0, 0])
    assert repeat_factors(labels, 0.0) is None
    assert repeat_factors(labels, 0.4) is None
