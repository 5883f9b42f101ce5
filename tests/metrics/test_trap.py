"""The majority trap is seen, and only where it is one."""

import numpy as np
import pytest

from satray.metrics.scored import Rule
from satray.metrics.trap import watch

ONE_HOT = np.eye(3)[[0, 1, 2, 0]]
FIRST = np.array([[2.0, 1, 0], [2, 1, 0], [2, 1, 0], [0, 1, 0]])


@pytest.mark.parametrize(
    ("logits", "labels", "task", "rule", "always", "never"),
    [
        # d is on all tiles: nothing wrong
        ([[3.0, -1, 1, 4], [0, -2, -1, 1]], [[1, 1, 1, 1], [0, 0, 0, 1]], "multilabel", Rule(),
         "a", "b"),
        ([[3.0, -1], [1, -2]], [[1, 0], [0, 1]], "multilabel", Rule(1, (0.9, 0.5)), "", "b"),
        (FIRST, ONE_HOT, "multiclass", Rule(), "", "c"),  # by the highest logit
        (ONE_HOT, ONE_HOT, "multiclass", Rule(), "", ""),
    ],
)  # fmt: skip
def test_always_and_never(logits, labels, task, rule, always, never):
    found = watch(np.array(logits), np.array(labels), "abcd"[: len(labels[0])], task, rule)
    assert ("".join(found.always), "".join(found.never)) == (always, never)
    assert len(found.warnings()) == bool(always) + bool(never)


def test_what_is_said_names_a_few_and_counts_the_rest():
    labels, names = np.stack([np.zeros(10), np.ones(10)]), tuple(f"c{k}" for k in range(10))
    found = watch(np.ones((2, 10)), labels, names, "multilabel")
    assert found.rates["c9"] == 1.0
    (line,) = found.warnings()
    assert line.startswith("majority trap: c0, c1")
    assert "c7 and 2 more predicted always (on every tile)" in line
