"""Peaks: regional maxima as counted by hand, refined, spaced; scores as the table's."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from satray.metrics.scored import Rule, decide
from satray.score.products.peaks import PeakRule, find_peaks, local_maxima, spaced

SMALL = arrays(np.float64, st.tuples(st.integers(1, 7), st.integers(1, 7)), elements=st.one_of(
    st.integers(0, 3).map(float), st.just(float("nan"))))  # fmt: skip


def rule(count: int, task: str = "multilabel", distance: float = 0.0, **more) -> PeakRule:
    values = {"bias": (0.0,) * count, "temperature": 1.0, "thresholds": (0.5,) * count} | more
    return PeakRule(task, distance=distance, **values)


def bump(h: int, w: int, row: float, col: float, width: float = 1.5) -> np.ndarray:
    """A parabola with its top at a place in edge coordinates."""
    i, j = np.arange(h)[:, None] + 0.5, np.arange(w) + 0.5
    return (4 - ((i - row) ** 2 + (j - col) ** 2) / width**2).astype(np.float32)


def by_flooding(values: np.ndarray) -> set[frozenset]:
    """Regional maxima by flooding each plateau."""
    h, w = values.shape
    seen: set[tuple[int, int]] = set()
    found = set()
    for start in itertools.product(range(h), range(w)):
        if start in seen or np.isnan(values[start]):
            continue
        plateau, todo, top = set(), [start], True
        while todo:
            i, j = todo.pop()
            if (i, j) in plateau:
                continue
            plateau.add((i, j))
            for a, b in itertools.product((i - 1, i, i + 1), (j - 1, j, j + 1)):
                if not (0 <= a < h and 0 <= b < w) or np.isnan(values[a, b]):
                    continue
                if values[a, b] == values[i, j]:
                    todo.append((a, b))
                top &= values[a, b] <= values[i, j]
        seen |= plateau
        if top:
            found.add(frozenset(plateau))
    return found


@settings(max_examples=150, deadline=None)
@given(SMALL)
def test_regional_maxima_are_those_of_flooding(values: np.ndarray) -> None:
    rows, cols = local_maxima(values, np.ones(values.shape, bool))
    cells = {(int(row), int(col)) for row, col in zip(rows, cols, strict=True)}
    expected = by_flooding(values)
    assert len(rows) == len(expected) == len(cells)
    for plateau in expected:
        assert len(plateau & cells) == 1
        (cell,) = plateau & cells
        n = [(int(r), int(c)) for r, c in zip(rows, cols, strict=True)].index(cell)
        assert abs(rows[n] - cell[0] - 0.5) <= 0.5
        assert abs(cols[n] - cell[1] - 0.5) <= 0.5


def test_plateaus_have_one_peak_at_their_middle() -> None:
    values = np.zeros((6, 9))
    values[1, 2:4] = 1.0
    values[3:6, 5:8] = 2.0
    rows, cols = local_maxima(values, values > 0)
    assert sorted(zip(rows, cols, strict=True)) == [(1.5, pytest.approx(3.0)), (4.5, 6.5)]
    rows, cols = local_maxima(np.ones((5, 5)), np.ones((5, 5), bool))
    assert (rows.tolist(), cols.tolist()) == ([2.5], [2.5])


@settings(max_examples=80, deadline=None)
@given(st.floats(3, 8), st.floats(3, 9))
def test_a_parabola_is_found_exactly(row: float, col: float) -> None:
    peaks = find_peaks(bump(11, 12, row, col)[None], rule(1, distance=3))
    assert len(peaks) == 1
    assert peaks.row[0] == pytest.approx(row, abs=1e-3)
    assert peaks.col[0] == pytest.approx(col, abs=1e-3)


def test_borders_and_missing_neighbours_are_not_refined() -> None:
    values = bump(6, 6, 0.2, 3.3)
    peaks = find_peaks(values[None], rule(1))
    assert peaks.row[0] == 0.5
    assert peaks.col[0] == pytest.approx(3.3, abs=1e-3)
    values[0, 2] = np.nan
    assert find_peaks(values[None], rule(1)).col[0] == 3.5


def test_nothing_in_nothing() -> None:
    for values in (np.full((1, 4, 4), np.nan), np.full((1, 4, 4), -9.0)):
        assert len(find_peaks(values.astype(np.float32), rule(1))) == 0
    assert len(find_peaks(np.full((2, 1, 1), 3, np.float32), rule(2))) == 2


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.3, 4), st.floats(0.05, 0.95))
def test_scores_reach_thresholds_and_are_those_of_the_table(seed, temperature, threshold) -> None:
    rng = np.random.default_rng(seed)
    maps = rng.normal(0, 3, (2, 9, 9)).astype(np.float32)
    one = rule(2, bias=(0.3, -0.2), temperature=temperature, thresholds=(threshold, 0.5))
    peaks = find_peaks(maps, one)
    assert (peaks.score >= np.array(one.thresholds)[peaks.klass]).all()
    i, j = peaks.row.astype(int), peaks.col.astype(int)
    logits = maps[:, i, j].T.astype(np.float64) + np.array(one.bias)
    given_NK = decide(logits, "multilabel", Rule(temperature, one.thresholds))
    assert given_NK[np.arange(len(peaks)), peaks.klass].all()
    scores = 1 / (1 + np.exp(-logits / temperature))
    assert np.allclose(peaks.score, scores[np.arange(len(peaks)), peaks.klass])
    for k in range(2):
        assert (np.diff(peaks.score[peaks.klass == k]) <= 0).all()


def test_multiclass_needs_the_highest_logit_and_gives_softmax() -> None:
    tops = [bump(9, 9, 2.5, 2.5), bump(9, 9, 6.5, 6.5), bump(9, 9, 6.5, 6.5) - 1]
    maps = np.maximum(np.stack(tops), 0)
    peaks = find_peaks(maps, rule(3, "multiclass", temperature=0.5, thresholds=(0.4,) * 3))
    assert peaks.klass.tolist() == [0, 1]
    i, j = peaks.row.astype(int), peaks.col.astype(int)
    z = maps[:, i, j].T.astype(np.float64) / 0.5
    softmax = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    assert np.allclose(peaks.score, softmax[[0, 1], [0, 1]])
    # finite, and at its place, where it is sure
    maps[1] = 900 * bump(9, 9, 3.5, 3.5)
    peaks = find_peaks(maps, rule(3, "multiclass"))
    best = peaks.klass == 1
    assert np.isfinite(peaks.score).all()
    assert (peaks.row[best], peaks.col[best]) == (3.5, 3.5)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 40), st.floats(0, 6))
def test_spacing_is_greedy_by_strength(seed: int, count: int, distance: float) -> None:
    rng = np.random.default_rng(seed)
    rows, cols, values = rng.uniform(0, 12, (3, count))
    kept = spaced(rows, cols, values, distance)
    assert (np.diff(values[kept]) <= 0).all()
    away = np.hypot(rows[:, None] - rows, cols[:, None] - cols)
    for n, m in itertools.combinations(kept, 2):
        assert away[n, m] >= distance
    for n in set(range(count)) - set(kept.tolist()):
        near = [m for m in kept if away[n, m] < distance and values[m] >= values[n]]
        assert near
