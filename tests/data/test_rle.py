"""Run-length masks."""

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from satray.data.rle import RUNS, rle_decode, rle_encode
from satray.errors import InputError


def test_runs_go_down_the_columns_from_1():
    mask = rle_decode("2 3 9 1", height=4, width=3)
    assert mask.dtype == np.uint8
    assert mask.tolist() == [[0, 0, 1], [1, 0, 0], [1, 0, 0], [1, 0, 0]]


def test_runs_cross_columns():
    assert rle_decode("2 2", 2, 2).tolist() == [[0, 1], [1, 0]]


def test_empty_runs_are_an_empty_mask():
    assert rle_decode("", 2, 3).tolist() == [[0, 0, 0], [0, 0, 0]]
    assert rle_encode(np.zeros((2, 3))) == ""


@given(
    arrays(
        np.uint8,
        array_shapes(min_dims=2, max_dims=2, max_side=12),
        elements=st.sampled_from([0, 1]),
    )
)
def test_round_trip(mask):
    runs = rle_encode(mask)
    assert runs == "" or RUNS.fullmatch(runs)
    assert np.array_equal(rle_decode(runs, *mask.shape), mask)


@pytest.mark.parametrize("runs", ["1", "1 2 3", "0 1", "1 0", "a b", "1.0 2", "1 -1", "6 2", "7 1"])
def test_bad_runs_are_refused(runs):
    with pytest.raises(InputError):
        rle_decode(runs, 2, 3)


def test_last_pixel_is_within():
    assert rle_decode("6 1", 2, 3)[1, 2] == 1


@pytest.mark.data
def test_airbus_masks(data: Path):
    with (data / "airbus" / "train_ship_segmentations.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["EncodedPixels"]]
    assert len(rows) == 5
    for row in rows:
        mask = rle_decode(row["EncodedPixels"], 768, 768)
        lengths = [int(n) for n in row["EncodedPixels"].split()[1::2]]
        assert mask.sum() == sum(lengths)
        # A ship is one compact thing; read along the rows its runs would lie 768 px apart.
        y, x = np.nonzero(mask)
        assert mask.sum() > 0.25 * (np.ptp(y) + 1) * (np.ptp(x) + 1)
        assert rle_encode(mask) == row["EncodedPixels"]
