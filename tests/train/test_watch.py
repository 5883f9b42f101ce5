"""The majority trap is seen, and only where it is one."""

import io

import numpy as np
import pyarrow.parquet as pq
import pytest
from train.tiny_training import CLASSES, VAL_ROWS, recipe, run, stage, tiles, tiny_net

from satray.metrics.trap import stuck, trapped, watch
from satray.train import tracking
from satray.train.imbalance import constant_classes


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
    assert trapped(logits >= 0, labels, ("a", "b")) == watch(logits, labels, "ab", "multilabel")
    assert trapped(logits >= 2, labels, ("a", "b")).always == ()
    many = tuple(f"c{k}" for k in range(10))
    labels = np.stack([np.zeros(10), np.ones(10)])
    (line,) = trapped(np.ones((2, 10), bool), labels, many).warnings()
    assert "c7 and 2 more predicted always" in line


@pytest.mark.parametrize(("bias", "kind"), [(-50.0, "never"), (50.0, "always")])
def test_the_loop_reports_it(bias, kind):
    _, _, net = run(recipe(stage(12)), tiny_net())
    net.head.bias.data[0] = bias
    (report,), _, _ = run(recipe(stage(1, rate=1e-6)), net)
    row = report
    assert row[f"classes_{kind}"] == 1
    assert row["ppr_bright"] == (kind == "always")
    # What the job says and keeps comes from the history's row.
    labels = tiles(VAL_ROWS, 2)[1]
    found = stuck(tracking.by_class(row, "ppr"), constant_classes(labels))
    assert getattr(found, kind) == ("bright",)
    assert tracking.nested(row)["ppr"] == {name: row[f"ppr_{name}"] for name in CLASSES}
    table = pq.read_table(io.BytesIO(tracking.parquet([row])))
    assert table.column(f"classes_{kind}").to_pylist() == [1]
