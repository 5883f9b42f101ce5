"""Records, metrics, labels, and the log that an attempt goes on from."""

import dataclasses
import math

from sweep_material import LOSS, MAP, record

from satray.runs.run import Run
from satray.storage import Storage, join
from satray.tune.records import (
    TrialLog,
    TrialRecord,
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
    one = record({"variant": {"towers": [1]}, "x": 0.1, "y": None}, 0.2, NAN)
    again = TrialRecord.from_json(one.to_json())
    assert math.isnan(again.curve[1]["map"])
    assert again.curve[0] == one.curve[0]
    assert dataclasses.replace(again, curve=()) == dataclasses.replace(one, curve=())


def test_the_same_configuration_is_the_same_trial() -> None:
    one = {"variant": "single3", "stages.0.learning_rate": 1.0}
    assert trial_id(one) == trial_id({"stages.0.learning_rate": 1, "variant": "single3"})
    assert trial_id(one) == "e48ef2124f20"  # a log of an earlier version is read with these
    assert len({trial_id(one), trial_id({**one, "seed": 0}), trial_id({})}) == 3
    assert trial_id({"shuffle": True}) != trial_id({"shuffle": 1})


class Opened(TrialLog):
    """A log of ten trials, with what is said of them."""

    def __init__(self, folder) -> None:
        self.said: list[str] = []
        self.shown = ""
        super().__init__(Run("tune", "r", str(folder), Storage(), self.said.append, self.show),
                         MAP, 10)  # fmt: skip

    def show(self, line: str) -> None:
        self.shown = line

    def go(self, batch, *values, status="done", regime="head", **end):
        """A trial from beginning to end."""
        name = trial_id({"batch": batch})
        self.begin({"batch": batch}, regime, 5)
        self.evaluated(name, record({}, *values).curve, [0.5] * len(values))
        return self.end(name, status, None if status == "done" else "no memory", **end)


def test_a_trial_that_ends_is_in_the_log_with_all_of_its_curve(tmp_path) -> None:
    log, name = Opened(tmp_path), trial_id({"batch": 8})
    log.begin({"batch": 8}, "head", 5)
    log.evaluated(name, record({}, 0.5, 0.75).curve, [0.5, 0.5])
    # what an attempt shows again counts once
    log.evaluated(name, record({}, 0.5, 0.75, 0.625).curve, [0.5] * 3)
    assert Opened(tmp_path).unfinished == [{"batch": 8}]
    ended = log.end(name, "done")
    assert (ended.status, ended.reason, ended.seed, ended.regime) == ("done", None, 5, "head")
    assert [row["samples"] for row in ended.curve] == [1000, 2000, 3000]
    assert (ended.best, ended.best_samples, ended.seconds) == (0.75, 2000, 1.5)
    again = Opened(tmp_path)
    assert (again.records, again.unfinished) == ({name: ended}, [])


def test_what_may_pass_is_run_again_and_other_ends_stay(tmp_path) -> None:
    log = Opened(tmp_path)
    log.go(8, 0.5, status="stopped")
    log.go(16, status="failed")
    log.go(32, status="failed", keep=False)
    log.refuse({"batch": 0}, "batch=0: no")
    log.refuse({"batch": 7}, "no weights", keep=False)
    assert [one.status for one in log.records.values()] == ["stopped", *["failed"] * 4]
    assert log.records[trial_id({"batch": 7})].regime is None
    again = Opened(tmp_path)
    assert {one.configuration["batch"] for one in again.records.values()} == {8, 16, 0}
    assert again.records[trial_id({"batch": 0})].reason == "batch=0: no"
    assert again.unfinished == [{"batch": 32}]


def test_of_ended_backbones_only_the_best_keeps_its_checkpoints(tmp_path) -> None:
    log, storage, files = Opened(tmp_path), Storage(), []
    for batch, value in enumerate((0.5, 0.75, 0.25, 0.5), 1):
        folder = trial_folder(f"{tmp_path}/state/r", trial_id({"batch": batch}))
        files.append(join(folder, "state.pt"))
        storage.write(files[-1], b"weights")
        log.go(batch, value, regime="backbone")
    # the last is given up with the next: its workers may still be ending
    assert [storage.exists(file) for file in files] == [False, True, False, True]
    more = Opened(tmp_path)  # the sweep goes on
    more.go(9, regime="backbone", status="failed", keep=False)
    more.refuse({"batch": 10}, "no")
    assert storage.exists(files[1])
