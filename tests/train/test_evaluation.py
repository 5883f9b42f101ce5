import numpy as np
import pytest
import torch

from satray.train.loop.evaluation import predict


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


def found(*batches):
    net = Flat()
    result = predict(net, iter(batches), lambda x: x * 2, torch.device("cpu"))
    assert net.training
    return result


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


def test_nothing_to_evaluate_is_an_error():
    with pytest.raises(ValueError, match="no batch"):
        found()
