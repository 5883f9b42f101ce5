"""Run-length masks."""

import pytest

from satray.data.rle import rle_decode
from satray.errors import InputError


def test_runs_go_down_the_columns_from_1_and_across_them():
    mask = rle_decode("2 4 9 1", height=4, width=3)
    assert mask.tolist() == [[0, 1, 1], [1, 0, 0], [1, 0, 0], [1, 0, 0]]
    assert rle_decode("", 2, 3).tolist() == [[0, 0, 0], [0, 0, 0]]
    assert rle_decode("6 1", 2, 3)[1, 2] == 1


@pytest.mark.parametrize("runs", ["1", "1 2 3", "0 1", "1 0", "a b", "1.0 2", "1 -1", "6 2", "7 1"])
def test_bad_runs_are_refused(runs):
    with pytest.raises(InputError):
        rle_decode(runs, 2, 3)
