"""Records, metrics, the leaderboard and the curves."""

import dataclasses
import io
import math

import pyarrow.parquet as pq
import pytest
from sweep_material import LOSS, MAP, record, sweep, tune

from satray.errors import TrainingError
from satray.tune.records import Metric, TrialRecord, curve_row, metric_of, ranked
from satray.tune.report import (
    at_best,
    best_lines,
    best_record,
    curves,
    edge_lines,
    leaderboard,
    parquet,
)
from satray.tune.space import Space

NAN = float("nan")
RATE = "stages.0.learning_rate"


def test_a_trial_counts_by_its_best_evaluation() -> None:
    one = record({"batch": 8}, 0.2, 0.9, 0.9, 0.5)
    assert (one.best, one.best_samples, one.samples) == (0.9, 2000, 4000)
    assert at_best(one)["train_loss"] == 0.5
    low = record({"batch": 8}, 0.2, 0.1, 0.5, metric=LOSS)
    assert (low.best, low.best_samples) == (0.1, 2000)
    assert (LOSS.mode, MAP.mode, LOSS.column) == ("min", "max", "val_loss")


def test_undefined_values_and_failures_have_no_best() -> None:
    assert record({}, NAN, 0.3, NAN).best_samples == 2000
    for none in (record({}, NAN), record({}), record({}, 0.9, status="failed", reason="NaN")):
        assert (none.best, none.best_samples) == (None, None)
        assert at_best(none) == {}
    assert record({}, 0.9, status="stopped").best == 0.9


def test_ranking_is_best_first_earlier_first_failed_last() -> None:
    ones = [
        record({"batch": 1}, 0.5, 0.5),
        record({"batch": 2}, 0.4, 0.5),
        record({"batch": 3}, 0.9, status="failed", reason="x"),
        record({"batch": 4}, NAN),
        record({"batch": 5}, 0.6, status="stopped"),
    ]
    assert [one.configuration["batch"] for one in ranked(ones, MAP)] == [5, 1, 2, 4, 3]
    losses = [record({"batch": n}, value, metric=LOSS) for n, value in ((1, 0.5), (2, 0.1))]
    assert [one.configuration["batch"] for one in ranked(losses, LOSS)] == [2, 1]


def test_records_survive_json() -> None:
    one = record({"variant": {"towers": [1]}, "x": 0.1, "y": None}, 0.2, NAN, reason=None)
    again = TrialRecord.from_json(one.to_json())
    assert math.isnan(again.curve[1]["map"])
    assert again.curve[0] == one.curve[0]
    assert dataclasses.replace(again, curve=()) == dataclasses.replace(one, curve=())
    assert isinstance(again.curve, tuple)
    for bad in (b"", b"{", one.to_json()[:-5], b"[]", b'{"curve": []}', b'{"curve": [], "a": 1}'):
        with pytest.raises(ValueError, match=r".+"):
            TrialRecord.from_json(bad)


def test_the_metric_is_tunes_else_bases_else_trains() -> None:
    assert metric_of(tune(metric="auc", base={"best": "auc"}), "binary").name == "auc"
    assert metric_of(tune(base={"best": "loss"}), "binary") == Metric("loss")
    assert metric_of(tune(), "binary").name == "map"
    assert metric_of(tune(), "multiclass").name == "accuracy"


def test_a_row_of_the_curve_keeps_what_is_compared() -> None:
    epoch = {"samples_seen": 640, "learning_rate": 0.1, "train_loss": 1, "val_loss": 2, "map": 0.5,
             "ap_ship": 0.4, "seconds_data": 1.0, "auc": NAN}  # fmt: skip
    row = curve_row(epoch, LOSS)
    assert set(row) == {"samples", "learning_rate", "train_loss", "val_loss", "map", "auc"}
    assert row["samples"] == 640
    assert LOSS.of(row) == 2


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


def test_material_has_all_kinds() -> None:
    assert {one.status for one in sweep().records} == {"done", "stopped", "failed"}
