"""The order of tiles is a pure function of seed and sample number."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from satray.data import order

REPEATS = st.lists(
    st.one_of(st.just(1.0), st.floats(0, 6), st.sampled_from([0.5, 1.5, 2.0, 2.999999])),
    min_size=1,
    max_size=40,
)


@settings(max_examples=50)
@given(
    repeats=st.one_of(REPEATS, st.integers(1, 40)),
    ends=st.lists(st.integers(1, 50), min_size=1, max_size=5),
    seed=st.integers(0, 2**31),
    shuffle=st.booleans(),
)
def test_pseudo_epochs_cut_one_endless_sequence_of_passes(repeats, ends, seed, shuffle):
    n = repeats if isinstance(repeats, int) else len(repeats)
    factors = None if isinstance(repeats, int) else np.array(repeats)
    stops = tuple(np.cumsum(ends).tolist())
    plan = order.TrainOrder(n, stops, seed, shuffle, factors)
    got = [plan.rows(k) for k in range(len(stops) + 1)]
    assert {each.dtype for each in got} == {np.dtype(np.int64)}
    length = plan.pass_rows
    if not length:
        assert not any(map(len, got))
        return
    assert [len(each) for each in got] == [*ends, 0]
    passes = [plan.one_pass(k) for k in range(stops[-1] // length + 1)]
    np.testing.assert_array_equal(np.concatenate(got), np.concatenate(passes)[: stops[-1]])
    for rows in passes:  # each row comes floor or ceil of its repeats
        counts, wanted = np.bincount(rows, minlength=n), np.ones(n) if factors is None else factors
        assert len(rows) == length == round(float(wanted.sum()))
        assert (counts >= np.floor(wanted)).all()
        assert (counts <= np.ceil(wanted)).all()
        assert shuffle or list(rows) == sorted(rows)


def test_the_order_stays_the_same_for_ever():
    """A changed NumPy or a changed key would silently break resumed runs."""
    assert list(order.permutation(7, 2, 8)) == [4, 1, 3, 7, 6, 2, 0, 5]
    rows = order.TrainOrder(5, (3, 12), 0, shuffle=False).rows(1)
    assert list(rows) == [3, 4, 0, 1, 2, 3, 4, 0, 1]
    rows = order.TrainOrder(3, (6,), 0, False, np.array([1.0, 3.0, 2.0])).rows(0)
    assert list(rows) == [0, 1, 1, 1, 2, 2]


@pytest.mark.parametrize(("n", "multiple", "padded"), [(10, 1, 10), (10, 4, 12), (3, 4, 4)])
def test_whole_order_pads_with_rows_it_has(n, multiple, padded):
    rows = order.WholeOrder(n, multiple).rows(5)
    assert list(rows) == [row % n for row in range(padded)]


def test_rows_come_as_often_as_asked_and_neighbours_are_not_tied():
    factors = np.array([1.0, 1.25, 1.5, 3.75, 2.9, 1.1, 1.0, 1.5])  # they add up to 14
    rare = order.TrainOrder(8, (), 5, True, factors)
    rows = np.concatenate([rare.one_pass(k) for k in range(2000)])
    assert np.bincount(rows) / 2000 == pytest.approx(factors, abs=0.04)
    even = order.TrainOrder(20, (), 1, True, np.full(20, 1.5))
    passes = [np.bincount(even.one_pass(k)) for k in range(1500)]
    together = np.corrcoef(np.array(passes).T)[~np.eye(20, dtype=bool)]
    assert together == pytest.approx(np.full(380, -1 / 19), abs=0.12)


@given(st.lists(st.integers(0, 6), max_size=40))
def test_copies_count_what_came_before(rows):
    given = np.array(rows, np.int64)
    found = order.copies(given)
    assert found.tolist() == [rows[:place].count(row) for place, row in enumerate(rows)]
    numbers = order.samples(given, found)
    assert len(set(numbers.tolist())) == len(rows)
    np.testing.assert_array_equal(numbers[found == 0], given[found == 0])
