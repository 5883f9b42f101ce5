"""Which tiles a report shows: the paper's figure 3 without its slip."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from satray.errors import InputError
from satray.evaluate.picks import check_asked, ends, shown_classes, worst
from satray.metrics.scored import Rule, Scored


def scored(logits, labels, task: str = "multilabel", **rule) -> Scored:
    logits = np.asarray(logits, dtype=float)
    return Scored.of(logits, np.asarray(labels), logits.shape[1], task, Rule(**rule))


def test_the_least_confident_never_stand_among_the_most_confident() -> None:
    """`sorted[-i + 1]` took ranks 1, 0, -1, ...: two of score 0.500 in the top ten."""
    logits = np.linspace(0.0, 8.0, 40)[:, None]
    labels = np.ones((40, 1))
    labels[:2] = 0
    found = ends(scored(logits, labels, "binary"), 0)
    assert [pick.row for pick in found.top] == list(range(39, 29, -1))
    assert [pick.row for pick in found.bottom] == list(range(10))
    assert {pick.verdict for pick in found.top} == {"TP"}
    assert [pick.verdict for pick in found.bottom] == ["FP", "FP"] + ["TP"] * 8


def test_saturated_scores_are_ranked_by_logit() -> None:
    logits = np.array([[40.0], [60.0], [50.0], [-1.0]])
    found = ends(scored(logits, np.ones((4, 1)), "binary"), 0, most=2)
    assert [pick.row for pick in found.top] == [1, 2]
    assert [pick.row for pick in found.bottom] == [0]
    assert found.given == 3


@given(
    st.lists(st.tuples(st.integers(-900, 900), st.booleans()), min_size=1, max_size=60),
    st.integers(1, 12),
    st.integers(5, 95),
)
def test_ends_are_ends(tiles, most, threshold) -> None:
    values, labels = [value for value, _ in tiles], np.array([[label] for _, label in tiles])
    logits = np.array(values)[:, None] / 100  # torch may have taken denormal floats from us
    of = scored(logits, labels, "binary", thresholds=(threshold / 100,))
    found = ends(of, 0, most)
    top, bottom = [p.row for p in found.top], [p.row for p in found.bottom]
    assert not set(top) & set(bottom)
    chosen = np.flatnonzero(of.given[:, 0])
    assert set(top) | set(bottom) <= set(chosen)
    assert len(top) == min(most, len(chosen))
    assert len(bottom) == min(most, len(chosen) - len(top))
    rest = sorted(of.ranks[list(set(chosen) - set(top)), 0])
    assert all(of.ranks[row, 0] >= value for row in top for value in rest)
    assert [of.ranks[row, 0] for row in bottom] == rest[: len(bottom)]
    for pick in (*found.top, *found.bottom):
        assert pick.right == labels[pick.row, 0]
        assert pick.score == of.scores[pick.row, 0]


def test_worst_errors_are_wrong_and_sorted_by_loss() -> None:
    logits = [[9.0, -3.0], [1.0, 5.0], [-2.0, 0.5]]
    labels = [[0, 1], [1, 1], [0, 0]]
    found = worst(scored(logits, labels))
    assert [(p.row, p.klass, p.verdict) for p in found] == [
        (0, 0, "FP"), (0, 1, "FN"), (2, 1, "FP"),
    ]  # fmt: skip
    losses = [9.0 + np.log1p(np.exp(-9)), 3 + np.log1p(np.exp(-3)), np.log1p(np.exp(0.5))]
    assert np.all(np.diff(losses) < 0)
    assert worst(scored(logits, labels), most=1)[0].row == 0


def test_worst_errors_beyond_float64_are_still_sorted() -> None:
    found = worst(scored([[800.0], [900.0], [-850.0]], [[0], [0], [1]]))
    assert [pick.row for pick in found] == [1, 2, 0]


def test_saturated_errors_of_both_kinds_are_sorted_by_loss() -> None:
    """1 - 1.0 is 0 where a score is 1.0, but a score near 0 keeps its digits."""
    found = worst(scored([[40.0], [-100.0], [60.0], [-38.0]], [[0], [1], [0], [1]]))
    assert [(pick.row, pick.verdict) for pick in found] == [
        (1, "FN"), (2, "FP"), (0, "FP"), (3, "FN"),
    ]  # fmt: skip
    assert [pick.row for pick in worst(scored([[1.0], [1.0]], [[0], [0]]))] == [0, 1]


@given(
    st.lists(
        st.tuples(*[st.integers(-3000, 3000)] * 3, st.integers(0, 2)), min_size=1, max_size=30
    ),
    st.sampled_from(["multilabel", "multiclass"]),
    st.floats(0.2, 5),
)
def test_worst_errors_are_all_there_in_order_of_loss(tiles, task, temperature) -> None:
    z = np.array([tile[:3] for tile in tiles]) / 100
    labels = np.eye(3)[[tile[3] for tile in tiles]]
    of = scored(z, labels, task, temperature=temperature)
    found = worst(of, most=1000)
    scaled = z / temperature
    if task == "multiclass":
        rows = np.logaddexp.reduce(scaled, axis=1) - scaled[labels.astype(bool)]
        losses = [rows[pick.row] for pick in found]
        assert len(found) == (of.given & ~of.labels).sum()
    else:
        every = np.logaddexp(0, np.where(labels, -scaled, scaled))
        losses = [every[pick.row, pick.klass] for pick in found]
        assert len(found) == (of.given != of.labels).sum()
    assert all(here >= after - 1e-9 for here, after in itertools.pairwise(losses))


def test_worst_errors_of_a_softmax_are_tiles_shown_for_what_they_were_called() -> None:
    found = worst(scored([[5.0, 1, 0], [0, 2, 3], [1, 0, 9]], np.eye(3), "multiclass"))
    assert [(p.row, p.klass, p.verdict) for p in found] == [(1, 2, "FP")]


def test_classes_shown() -> None:
    names = [f"c{i}" for i in range(30)]
    assert shown_classes(None, names, list(range(30))) == list(range(10, 30))
    assert shown_classes(("c4", "c1", "c4"), names, [0] * 30) == [4, 1]
    assert shown_classes((), names, [0] * 30) == []
    with pytest.raises(InputError, match="gallery: no ship in the bundle; accepted: c0, "):
        check_asked(("ship",), names)
