"""The range test's arithmetic, against known curves and a transcription of fastai's rules."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from satray.config.train import RangeOptions
from satray.errors import TrainingError
from satray.train.landscape.range_test import (
    Curve,
    Smoother,
    Suggestions,
    choose,
    median,
    rates,
    suggest,
    valley_index,
)


def fastai_valley(losses):
    """fastai/callback/schedule.py, `valley`, as it stands there."""
    n = len(losses)
    max_start, max_end = 0, 0
    lds = [1] * n
    for i in range(1, n):
        for j in range(i):
            if (losses[i] < losses[j]) and (lds[i] < lds[j] + 1):
                lds[i] = lds[j] + 1
            if lds[max_end] < lds[i]:
                max_end = i
                max_start = max_end - lds[max_end]
    sections = (max_end - max_start) / 3
    return max_start + int(sections) + int(sections / 2)


def curve_of(loss, steps=100, lowest=1e-7, highest=10.0, smoothing=0.0, points=None):
    options = RangeOptions(lowest=lowest, highest=highest, steps=steps)
    x = rates(options)[:points]
    smooth = Smoother(smoothing)
    losses = [float(loss(rate)) for rate in x]
    return Curve(tuple(x), tuple(losses), tuple(smooth.add(y) for y in losses), steps)


def bowl(bottom, steepest):
    """A loss that falls fastest at 10**steepest and is lowest at 10**bottom."""

    def loss(rate):
        t = math.log10(rate)
        return 2 - math.tanh(3 * (t - steepest)) + max(0.0, t - bottom) ** 2 * 20

    return loss


def test_rates_are_geometric_with_both_ends():
    x = rates(RangeOptions(lowest=1e-6, highest=1.0, steps=61))
    assert (x[0], x[-1]) == pytest.approx((1e-6, 1.0))
    np.testing.assert_allclose(x[1:] / x[:-1], 10 ** (1 / 10))


@given(st.lists(st.floats(0, 10), min_size=3, max_size=40))
def test_valley_is_fastais(losses):
    # fastai's window may start one before the curve, where Python counts from the end
    assert valley_index(losses) == max(0, fastai_valley(losses))


def test_valley_of_known_curves():
    assert valley_index(list(range(30, 0, -1))) == 30 - 31 + 10 + 5
    assert valley_index([1.0] * 9) == 0
    # flat, then nine falling points, then up
    losses = [5.0] * 10 + [4.9 - 0.1 * i for i in range(9)] + [6.0] * 5
    assert valley_index(losses) == 18 - 10 + 3 + 1


def test_smoothing_is_debiased_and_equals_the_closed_form():
    rng = np.random.default_rng(0)
    values, memory = rng.normal(2, 1, 50), 0.98
    smooth = Smoother(memory)
    found = [smooth.add(value) for value in values]
    for i in (0, 1, 20, 49):
        weights = memory ** np.arange(i, -1, -1)
        assert found[i] == pytest.approx((weights * values[: i + 1]).sum() / weights.sum())
    assert found[0] == values[0]


def test_suggestions_of_a_known_bowl():
    found = suggest(curve_of(bowl(bottom=-1.0, steepest=-3.0)))
    assert found.steep == pytest.approx(1e-3, rel=0.25)
    assert found.minimum == pytest.approx(1e-2, rel=0.25)
    assert 1e-4 < found.valley < 1e-1
    assert found.bounds == (found.steep / 3, found.minimum * 3)


def test_the_first_tenth_and_the_last_five_points_do_not_count():
    plain = bowl(bottom=-1.0, steepest=-3.0)
    x = rates(RangeOptions())

    def spoilt(rate):
        at = int(np.abs(x - rate).argmin())
        return -100.0 * at if at < 10 or at >= 95 else plain(rate)

    assert suggest(curve_of(spoilt)) == suggest(curve_of(plain))


def test_a_curve_that_ends_early_is_cut_from_its_own_end():
    whole, short = (curve_of(bowl(-1.0, -3.0), points=n) for n in (100, 92))
    assert suggest(whole).steep == suggest(short).steep


def test_a_loss_that_bursts_at_once_is_said():
    with pytest.raises(TrainingError, match=r"after 12 of 100 batches.*landscape\.lowest") as error:
        suggest(curve_of(bowl(-1.0, -3.0), points=12))
    assert "\n" not in str(error.value)
    with pytest.raises(TrainingError, match="after 0 of 100"):
        suggest(Curve((), (), (), 100))


def test_the_median_of_seeds():
    found = [Suggestions(10.0**-k, 10.0 ** -(k + 1), 10.0**k) for k in (1, 5, 2)]
    middle = median(found)
    assert (middle.valley, middle.steep, middle.minimum) == pytest.approx((1e-2, 1e-3, 1e2))
    even = median([Suggestions(1e-2, 1, 1), Suggestions(1e-4, 1, 1)])
    assert even.valley == pytest.approx(1e-3)


def test_auto_stays_within_its_bounds():
    assert choose(Suggestions(valley=2e-3, steep=3e-3, minimum=1e-2), "valley") == 2e-3
    assert choose(Suggestions(valley=1e-5, steep=3e-3, minimum=1e-2), "valley") == 1e-3
    assert choose(Suggestions(valley=0.5, steep=3e-3, minimum=1e-2), "valley") == 3e-2
    assert choose(Suggestions(valley=0.5, steep=3e-3, minimum=1e-2), "steep") == 3e-3
    # the bounds cross: the upper one wins
    assert choose(Suggestions(valley=1e-2, steep=1e-1, minimum=1e-3), "valley") == 3e-3
