"""How far two ways of scoring the same tiles differ."""

import numpy as np
import pytest

from satray.scoring.dense.compare import compare
from satray.scoring.predictions import Numbers


def numbers(*logits_of_classes: list[float]) -> Numbers:
    logits = np.array(logits_of_classes, dtype=np.float32).T
    return Numbers(logits, logits, (logits >= 0).astype(np.uint8))


def test_the_same_order_is_a_correlation_of_one():
    one = numbers([1, 2, 3, -4], [1, 2, 3, 4])
    other = numbers([10, 20, 30, -40], [4, 3, 2, 1])
    first, second = compare(one, other, ("a", "b"))
    assert (first.rank_correlation, second.rank_correlation) == (1, -1)
    assert (first.logit_most, first.tiles, first.decisions) == (36, 4, 1)
    assert first.logit_median == pytest.approx((18 + 27) / 2)
    assert first.line().startswith("a: 4 tiles in windows and one by one: rank correlation 1.000")


def test_tiles_without_scores_are_left_out():
    one = numbers([1, np.nan, -3])
    other = numbers([1, 5, 3])
    (found,) = compare(one, other, ("a",))
    assert (found.tiles, found.decisions, found.logit_most) == (2, 0.5, 6)


def test_constants_and_nothing_have_no_correlation():
    (found,) = compare(numbers([1, 1, 1]), numbers([1, 2, 3]), ("a",))
    assert found.rank_correlation is None
    (found,) = compare(numbers([np.nan]), numbers([1.0]), ("a",))
    assert (found.tiles, found.rank_correlation, found.decisions) == (0, None, 1)
    assert "none" in found.line()
