"""The leaderboard, the curves and the best."""

import io
import math

import pyarrow.parquet as pq
import pytest
from sweep_material import MAP, record

from satray.errors import TrainingError
from satray.tune.report import best_lines, best_record, curves, edge_lines, leaderboard, parquet
from satray.tune.space import Space

NAN = float("nan")
RATE = "stages.0.learning_rate"


def test_leaderboard_columns() -> None:
    ones = [
        record({"variant": "single3", RATE: 1e-3, "batch": 8}, 0.5, 0.7, seconds=3.0),
        record({"variant": {"towers": []}, RATE: 1e-2}, 0.9, 0.1, status="stopped", reason="asha"),
        record({"variant": "single3", RATE: 1}, status="failed", reason="out of memory"),
    ]
    table = leaderboard(ones, MAP)
    assert table.column("rank").to_pylist() == [1, 2, None]
    assert table.column("map").to_pylist() == [0.9, 0.7, None]
    assert table.column("status").to_pylist() == ["stopped", "done", "failed"]
    assert table.column("variant").to_pylist() == ['{"towers": []}', "single3", "single3"]
    assert table.column(RATE).to_pylist() == [1e-2, 1e-3, 1.0]
    assert table.column("batch").to_pylist() == [None, 8, None]
    assert table.column("val_loss").to_pylist() == [2.0, 1.0, None]
    assert table.column("best_samples").to_pylist() == [1000, 2000, None]
    assert table.column("reason").to_pylist() == ["asha", None, "out of memory"]
    assert str(table.schema.field("batch").type) == "int64"
    names = leaderboard([], MAP).column_names
    assert names == [name for name in table.column_names if name not in ("variant", RATE, "batch")]
    assert pq.read_table(io.BytesIO(parquet(table))).equals(table)


def test_an_axis_of_seeds_keeps_one_column() -> None:
    table = leaderboard([record({"seed": 4}, 0.5, seed=4)], MAP)
    assert table.column_names.count("seed") == 1
    assert table.column("seed").to_pylist() == [4]


def test_curves_hold_every_evaluation_of_every_trial() -> None:
    ones = [record({"batch": 8}, 0.5, NAN, 0.7), record({"batch": 16}), record({"batch": 32}, 0.1)]
    table = curves(ones)
    assert table.num_rows == 4
    assert table.column("evaluation").to_pylist().count(0) == 2
    rows = [row for row in table.to_pylist() if row["trial"] == ones[0].id]
    assert [row["samples"] for row in rows] == [1000, 2000, 3000]
    assert rows[0]["map"] == 0.5
    assert math.isnan(rows[1]["map"])
    assert curves([]).column_names == ["trial", "evaluation", "samples"]
    assert str(curves(ones)) == str(curves(ones[::-1]))


def test_the_best_or_why_there_is_none() -> None:
    good, bad = record({"batch": 1}, 0.5), record({"batch": 2}, status="failed", reason="no memory")
    assert best_record([bad, good], MAP) is good
    with pytest.raises(TrainingError, match=r"none of 1 trials has a mAP.*no memory"):
        best_record([bad], MAP)


def test_a_best_at_the_end_of_a_range_is_told() -> None:
    space = Space.parse(
        {RATE: {"log_uniform": [1e-4, 1e-1]}, "dropout": {"uniform": [0.0, 0.5]}, "batch": [8, 16]}
    )
    told = edge_lines(space, record({RATE: 0.09, "dropout": 0.01, "batch": 8}, 0.5))
    assert len(told) == 2
    assert "the best stages.0.learning_rate, 0.09, is about the highest that was tried" in told[0]
    assert "dropout, 0.01, is about the lowest" in told[1]
    assert edge_lines(space, record({RATE: 0.01, "dropout": 0.2, "batch": 8}, 0.5)) == ()
    lines = best_lines([record({RATE: 0.1}, 0.25, 0.5)], MAP, space)
    assert lines[0].startswith("best by mAP: 0.5000 after 2,000 samples, trial ")
    assert len(lines) == 2


def test_only_the_range_of_its_own_variant_counts_as_an_end() -> None:
    space = Space.parse({"variant": ["a", "b"]}).with_ranges(
        RATE, "variant", [("a", (1e-4, 1e-2)), ("b", (1e-2, 1.0))]
    )
    assert edge_lines(space, record({"variant": "a", RATE: 1e-3}, 0.5)) == ()
    assert len(edge_lines(space, record({"variant": "a", RATE: 1e-2}, 0.5))) == 1
