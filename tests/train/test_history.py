import numpy as np

from satray.metrics.summary import compute_metrics, flat
from satray.train.tracking.history import nested, table


def test_figures_by_class_are_columns_and_groups_again():
    logits = np.array([[2.0, 1, 0], [0, 3, 1], [1, 2, 4]])
    for task in ("multilabel", "multiclass"):
        found = compute_metrics(logits, np.eye(3), ["macro", "a_b", "c"], task)
        row = flat(found)
        assert len(table([row, row]).column_names) == len(row)
        assert nested(row) == found  # a class called macro is not the macro mean
