"""Weights and repeats from labels."""

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
BALANCED = LossOptions(positive_weight="balanced")


def test_class_weights_follow_the_key():
    column = [1] + [0] * 299
    columns = [column, [1, 1, 1] + [0] * 297, [1] * 200 + [0] * 100, [0] * 300, [1] * 300]
    labels = np.array(columns).T
    assert class_weights(LossOptions(), labels, 0) is None
    assert class_weights(LossOptions(positive_weight=2.5), labels, 0) == (2.5,) * 5
    assert class_weights(BALANCED, labels, 0) == (100.0, 99.0, 0.5, 1.0, 1.0)


@given(LABELS, st.floats(0, 1))
def test_repeats_are_of_the_rarest_class_and_weights_balance_what_is_left(labels, threshold):
    """Sampling and weights together count rarity once."""
    factors = repeat_factors(labels, threshold)
    times = np.ones(len(labels)) if factors is None else factors
    for row, factor in zip(labels, times, strict=True):
        shares = [labels[:, k].mean() for k in np.flatnonzero(row)]
        wanted = max([1.0, *(math.sqrt(threshold / share) for share in shares)])
        assert factor == pytest.approx(wanted)
    assert factors is None or factors.max() > 1
    for k, weight in enumerate(class_weights(BALANCED, labels, threshold)):
        positives, negatives = times @ labels[:, k], times @ (1 - labels[:, k])
        if positives and negatives:
            assert weight * positives == pytest.approx(min(negatives, 100 * positives))
