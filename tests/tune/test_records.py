"""Records, metrics, labels, and the log that an attempt goes on from."""

import dataclasses
import math

import pytest
from sweep_material import LOSS, MAP, record

from satray.storage import Storage, join, parent
from satray.tune.records import (
    Metric,
    TrialLog,
    TrialRecord,
    curve_row,
    label,
    ranked,
    trial_folder,
    trial_id,
)

NAN = float("nan")


def test_a_trial_counts_by_its_best_evaluation() -> None:
    one = record({"batch": 8}, 0.2, 0.9, 0.9, 0.5)
    assert (one.best, one.best_samples, one.samples) == (0.9, 2000, 4000)
    low = record({"batch": 8}, 0.2, 0.1, 0.5, metric=LOSS)
    assert (low.best, low.best_samples) == (0.1, 2000)
    assert (LOSS.mode, MAP.mode, LOSS.column) == ("min", "max", "val_loss")
    assert record({}, NAN, 0.3, NAN).best_samples == 2000
    assert record({}, 0.9, status="stopped").best == 0.9
    for none in (record({}, NAN), record({}), record({}, 0.9, status="failed", reason="NaN")):
        assert (none.best, none.best_samples) == (None, None)


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


def test_a_row_of_the_curve_keeps_what_is_compared() -> None:
    epoch = {"samples_seen": 640, "learning_rate": 0.1, "train_loss": 1, "val_loss": 2, "map": 0.5,
             "ap_ship": 0.4, "seconds_data": 1.0, "auc": NAN}  # fmt: skip
    row = curve_row(epoch, LOSS)
    assert set(row) == {"samples", "learning_rate", "train_loss", "val_loss", "map", "auc"}
    assert row["samples"] == 640
    assert LOSS.of(row) == 2
    assert Metric("accuracy").worth(NAN) == -math.inf


def test_the_same_configuration_is_the_same_trial() -> None:
    one = {"variant": "single3", "stages.0.learning_rate": 1.0}
    assert trial_id(one) == trial_id({"stages.0.learning_rate": 1, "variant": "single3"})
    assert trial_id(one) == "e48ef2124f20"  # a log of an earlier version is read with these
    assert len({trial_id(one), trial_id({**one, "seed": 0}), trial_id({})}) == 3
    assert trial_id({"shuffle": True}) != trial_id({"shuffle": 1})


@pytest.mark.parametrize(
    ("configuration", "said"),
    [
        (
            {"variant": "single3", "stages.0.learning_rate": 1e-3,
             "stages.0.schedule.name": "one_cycle"},
            "single3 1.0e-3 one_cycle",
        ),
        ({"stages.0.learning_rate": 0.0316, "stages.0.schedule.cycle": 2.5}, "3.2e-2 cycle 2.5"),
        (
            {"stages.0.learning_rate": 1e-3, "stages.1.learning_rate": 1e-4},
            "[0] 1.0e-3 [1] 1.0e-4",
        ),
        ({"variant": {"towers": [{"name": "a", "backbone": "resnet34"}]}}, "resnet34"),
        ({"dropout": 0.5, "shuffle": False, "batch": 64}, "dropout 0.5 shuffle false batch 64"),
        ({"stages.0.schedule.name": "step", "stages.0.schedule.step": 3.33}, "step every 3.33"),
        ({"stages.0.learning_rate": "auto"}, "auto"),
        ({}, "base"),
    ],
)  # fmt: skip
def test_labels(configuration, said: str) -> None:
    assert label(configuration) == said


def opened(folder) -> TrialLog:
    return TrialLog(Storage(), str(folder), MAP)


def rows(*evaluations):
    """(samples, value) of each."""
    return [{"samples": s, "map": v, "train_loss": 1.0, "val_loss": 1.0} for s, v in evaluations]


def test_a_trial_that_ends_is_in_the_log_with_all_of_its_curve(tmp_path) -> None:
    log = opened(tmp_path)
    name = trial_id({"batch": 8})
    log.begin({"batch": 8}, "head", 5)
    log.evaluated(name, rows((100, 0.5), (200, 0.75)), [0.5, 0.5])
    # what an attempt shows again counts once
    log.evaluated(name, rows((100, 0.5), (200, 0.75), (300, 0.625)), [0.5] * 3)
    assert opened(tmp_path).unfinished == [{"batch": 8}]
    ended = log.end(name, "done")
    assert (ended.status, ended.reason, ended.seed, ended.regime) == ("done", None, 5, "head")
    assert [row["samples"] for row in ended.curve] == [100, 200, 300]
    assert (ended.best, ended.best_samples, ended.seconds) == (0.75, 200, 1.5)
    again = opened(tmp_path)
    assert (again.records, again.unfinished, again.best) == ({name: ended}, [], ended)


def test_ends_of_all_kinds_and_what_may_pass_is_run_again(tmp_path) -> None:
    log = opened(tmp_path)
    for batch in (8, 16, 32):
        log.begin({"batch": batch}, "head", 0)
    one, two, three = map(trial_id, ({"batch": 8}, {"batch": 16}, {"batch": 32}))
    log.evaluated(one, rows((100, 0.5)), [1.0])
    log.end(one, "stopped", "others were better")
    log.end(two, "failed", "the loss is not finite")
    log.end(three, "failed", "no room", keep=False)
    log.refuse({"batch": 0}, "batch=0: no")
    log.refuse({"batch": 7}, "no weights", keep=False)
    assert dict(log.numbers) == {"stopped": 1, "failed": 4}
    assert log.records[three].reason == "no room"
    assert (log.records[trial_id({"batch": 7})].regime, log.best.id) == (None, one)
    again = opened(tmp_path)
    assert {each.reason for each in again.records.values()} == {
        "others were better",
        "the loss is not finite",
        "batch=0: no",
    }
    assert again.unfinished == [{"batch": 32}]


def test_a_record_of_another_version_is_as_if_it_were_not_there(tmp_path) -> None:
    log, storage = opened(tmp_path), Storage()
    log.begin({"batch": 1}, "head", 0)
    log.end(trial_id({"batch": 1}), "done")
    (entry,) = (e for e in storage.list(str(tmp_path)) if trial_id({"batch": 1}) in e.key)
    for name, content in (("0" * 8, b'{"status": "done"}'), ("1" * 8, b"{}")):
        storage.write(join(parent(entry.uri), f"{name}.json"), content)
    again = opened(tmp_path)
    assert list(again.records) == [trial_id({"batch": 1})]
    assert again.unfinished == []


def test_of_ended_backbones_only_the_best_keeps_its_checkpoints(tmp_path) -> None:
    log, storage, files = opened(tmp_path), Storage(), []
    for place, value in enumerate((0.5, 0.75, 0.25, 0.5), 1):
        name = trial_id({"batch": place})
        files.append(join(trial_folder(str(tmp_path), name), "state.pt"))
        storage.write(files[-1], b"weights")
        log.begin({"batch": place}, "backbone", 0)
        log.evaluated(name, rows((100, value)), [1.0])
        log.end(name, "done")
    # the last is given up with the next: its workers may still be ending
    assert [storage.exists(file) for file in files] == [False, True, False, True]
    more = opened(tmp_path)  # the sweep goes on
    more.begin({"batch": 9}, "backbone", 0)
    more.end(trial_id({"batch": 9}), "failed", "the store is away", keep=False)
    more.refuse({"batch": 10}, "no")
    assert storage.exists(files[1])
