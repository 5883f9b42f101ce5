"""The majority trap is seen, and only where it is one."""

import numpy as np

from satray.metrics.scored import Rule
from satray.metrics.trap import watch


def test_always_and_never():
    labels = np.array([[1, 1, 1, 1], [0, 0, 1, 0]])
    logits = np.array([[3.0, -1.0, 4.0, 1.0], [0.0, -2.0, 1.0, -1.0]])
    found = watch(logits, labels, ("a", "b", "c", "d"), "multilabel")
    assert found.rates == {"a": 1.0, "b": 0.0, "c": 1.0, "d": 0.5}
    assert (found.always, found.never) == (("a",), ("b",))  # c is on all tiles: nothing wrong
    assert [line.split(",")[0] for line in found.warnings()] == [
        "majority trap: a predicted always (on every tile)",
        "majority trap: b predicted never (on no tile)",
    ]


def test_multiclass_goes_by_the_highest_logit():
    labels = np.eye(3)[[0, 1, 2, 0]]
    logits = np.array([[2.0, 1, 0], [2, 1, 0], [2, 1, 0], [0, 1, 0]])
    found = watch(logits, labels, ("a", "b", "c"), "multiclass")
    assert found.rates == {"a": 0.75, "b": 0.25, "c": 0.0}
    assert (found.always, found.never) == ((), ("c",))
    assert watch(labels, labels, ("a", "b", "c"), "multiclass").warnings() == ()


def test_decisions_under_other_thresholds_are_watched_alike():
    labels = np.array([[1, 0], [0, 1]])
    logits = np.array([[3.0, -1.0], [1.0, -2.0]])
    assert watch(logits, labels, "ab", "multilabel").always == ("a",)
    assert watch(logits, labels, "ab", "multilabel", Rule(1, (0.9, 0.5))).always == ()
    many = tuple(f"c{k}" for k in range(10))
    (line,) = watch(np.ones((2, 10)), np.eye(2, 10), many, "multilabel").warnings()
    assert line.startswith("majority trap: c0, c1 predicted always")
    labels = np.stack([np.zeros(10), np.ones(10)])
    (line,) = watch(np.ones((2, 10)), labels, many, "multilabel").warnings()
    assert "c7 and 2 more predicted always" in line
