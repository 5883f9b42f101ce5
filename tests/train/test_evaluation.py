"""One evaluation: each tile once, whatever the workers' shares; what it refuses."""

import numpy as np
import pytest
import torch

from satray.errors import TrainingError
from satray.train.evaluation import Predictions, evaluate
from satray.train.step import inputs_of

CPU = torch.device("cpu")


def batch(rows, valid, shift=0.0):
    rows = np.array(rows)
    return {
        "pixels": rows[:, None, None, None].astype(np.float32) + shift,
        "labels": (rows[:, None] % 2).astype(np.uint8),
        "row": rows,
        "valid": np.array(valid, dtype=bool),
    }


class Flat(torch.nn.Module):
    def forward(self, x):
        assert not self.training
        return x.flatten(1)


def found(*batches, **options):
    net = Flat()
    inputs = (inputs_of(each, lambda x, *_: x * 2, CPU) for each in batches)
    row, seen = evaluate(net, inputs, CPU, task="binary", classes=("odd",), **options)
    assert net.training
    assert row["val_unreadable"] == seen.unreadable
    return seen


def test_each_row_once_in_order_and_unreadable_ones_absent():
    result = found(batch([5, 2, 9], [1, 1, 0]), batch([2, 0, 5], [1, 1, 1]))
    assert result.rows.tolist() == [0, 2, 5]
    assert result.logits_NK.tolist() == [[0.0], [4.0], [10.0]]
    assert result.labels_NK.tolist() == [[0], [0], [1]]
    assert result.unreadable == 1


def test_a_row_that_was_read_once_counts_as_read():
    result = found(batch([3, 1], [0, 1], shift=100), batch([3], [1]))
    assert result.rows.tolist() == [1, 3]
    assert result.logits_NK.tolist() == [[202.0], [6.0]]
    assert result.unreadable == 0


@pytest.mark.parametrize(
    ("batches", "options", "error", "says"),
    [
        ([], {}, ValueError, "no batch"),
        ([batch([1, 2], [0, 0])], {}, TrainingError, "none of its tiles could be read"),
        ([batch([1, 2, 3], [0, 1, 1])], {"error_budget": 0.3}, TrainingError, "1 of 3 tiles"),
        ([batch([1], [1], shift=np.nan)], {}, TrainingError, "not finite"),
    ],
)
def test_what_it_refuses(batches, options, error, says):
    with pytest.raises(error, match=says):
        found(*batches, **options)


def test_predictions_survive_their_file():
    made = Predictions(
        np.array([0, 3]), np.float32([[1.5], [-2]]), np.array([[1], [0]], dtype=np.uint8), 4
    )
    again = Predictions.from_bytes(made.to_bytes())
    assert again.unreadable == 4
    for name in ("rows", "logits_NK", "labels_NK"):
        assert np.array_equal(getattr(again, name), getattr(made, name))
        assert getattr(again, name).dtype == getattr(made, name).dtype
