"""What the driver writes down of trials."""

import math

from sweep_material import MAP

from satray.errors import InputError
from satray.storage import Storage
from satray.tune.board import Board
from satray.tune.desk import STOPPED, Desk, Job
from satray.tune.ledger import Ledger, trial_folder
from satray.tune.sources import Listed
from satray.tune.trials import trial_id

CONFIGURATIONS = [{"batch": 8}, {"batch": 16}, {"batch": 32}]


class Told(Listed):
    def __init__(self, configurations):
        super().__init__(configurations)
        self.worths = {}

    def tell(self, configuration, worth):
        self.worths[configuration["batch"]] = worth


class Office:
    def __init__(self, folder, configurations=CONFIGURATIONS):
        self.source = Told(configurations)
        self.ledger = Ledger(Storage(), str(folder))
        self.said = []
        board = self.board = Board(MAP, len(configurations), self.said.append, self.said.append)
        self.desk = Desk(self.source, describe, self.ledger, board, MAP)


def describe(configuration):
    if configuration["batch"] == 0:
        raise InputError("batch=0: accepted: 1 or more")
    regime = configuration.get("regime", "head")
    return Job(trial_id(configuration), configuration, "g", regime, 5)


def told(*rows, error=None):
    """A message: (samples, value) of each evaluation."""
    curve = [{"samples": s, "map": v, "train_loss": 1.0, "val_loss": 1.0} for s, v in rows]
    value = rows[-1][1] if rows else math.nan
    return {
        "rows": curve,
        "seconds": [0.5] * len(rows),
        "share": 0.5,
        "value": value,
        "error": error,
    }


def test_a_trial_that_ends_is_in_the_ledger_with_all_of_its_curve(tmp_path) -> None:
    office = Office(tmp_path)
    job = office.desk.next()
    assert job is not None
    office.desk.moved(job, told((100, 0.5), (200, 0.75)))
    assert office.ledger.records() == {}
    office.desk.moved(job, told((300, 0.625)))
    office.desk.ended(job, False, None)
    (record,) = office.ledger.records().values()
    assert (record.id, record.status, record.reason, record.seed) == (job.trial, "done", None, 5)
    assert [row["samples"] for row in record.curve] == [100, 200, 300]
    assert (record.best, record.best_samples, record.seconds) == (0.75, 200, 1.5)
    assert office.source.worths == {8: 0.75}
    assert office.ledger.begun() == [CONFIGURATIONS[0]]


def test_what_an_attempt_tells_again_counts_once(tmp_path) -> None:
    office = Office(tmp_path)
    job = office.desk.next()
    office.desk.moved(job, told((100, 0.5), (200, 0.75)))
    office.desk.moved(job, told((100, 0.5), (200, 0.75), (300, 0.8)))
    office.desk.ended(job, False, None)
    (record,) = office.ledger.records().values()
    assert [row["samples"] for row in record.curve] == [100, 200, 300]
    assert record.seconds == 1.5


def test_stopped_failed_and_dead_trials_say_why_and_the_rest_goes_on(tmp_path) -> None:
    office = Office(tmp_path)
    one, two, three = (office.desk.next() for _ in range(3))
    assert office.desk.next() is None
    office.desk.moved(one, told((100, 0.5)))
    office.desk.ended(one, True, None)
    office.desk.moved(two, told((100, 0.9), error="the loss is not finite"))
    office.desk.ended(two, False, None)
    office.desk.ended(three, False, "its process died: out of memory")
    found = office.ledger.records()
    assert {each.id: (each.status, each.reason) for each in found.values()} == {
        one.trial: ("stopped", STOPPED),
        two.trial: ("failed", "the loss is not finite"),
        three.trial: ("failed", "its process died: out of memory"),
    }
    assert office.source.worths == {8: 0.5, 16: -math.inf, 32: -math.inf}
    assert any("out of memory" in line for line in office.said)


def test_what_was_refused_is_a_failed_trial(tmp_path) -> None:
    office = Office(tmp_path)
    office.desk.refused({"batch": 7}, "batch=7: no")
    (record,) = office.ledger.records().values()
    assert (record.id, record.status, record.reason) == (
        trial_id({"batch": 7}),
        "failed",
        "batch=7: no",
    )


def test_what_is_refused_has_the_figures_that_are_known_of_it(tmp_path) -> None:
    office = Office(tmp_path)
    office.desk.refused({"batch": 0}, "batch=0")
    office.desk.refused({"batch": 8}, "its ground is lost", passing=True)
    (kept,) = office.ledger.records().values()
    assert (kept.regime, kept.seed, kept.reason) == (None, None, "batch=0")
    lost = next(one for one in office.board.records if one.id != kept.id)
    assert (lost.regime, lost.seed, lost.status) == ("head", 5, "failed")


def test_what_may_pass_is_shown_and_tried_again(tmp_path) -> None:
    office = Office(tmp_path)
    job = office.desk.next()
    office.desk.ended(job, False, "OSError: no room", passing=True)
    assert office.ledger.records() == {}
    assert [one.reason for one in office.board.records] == ["OSError: no room"]
    assert office.source.worths == {8: -math.inf}


def test_of_ended_backbones_only_the_best_keeps_its_checkpoints(tmp_path) -> None:
    values = [0.5, 0.75, 0.25, 0.5]
    ones = [{"batch": n, "regime": "backbone"} for n in range(1, 5)]
    office = Office(tmp_path, ones)
    storage = Storage()
    files = [f"{trial_folder(str(tmp_path), trial_id(one))}/state.pt" for one in ones]
    for file, value in zip(files, values, strict=True):
        job = office.desk.next()
        storage.write(file, b"weights")
        office.desk.moved(job, told((100, value)))
        office.desk.ended(job, False, None)
    # the last is given up with the next: its workers may still be ending
    assert [storage.exists(file) for file in files] == [False, True, False, True]
    more = Office(tmp_path, [{"batch": 9, "regime": "backbone"}])  # the sweep goes on
    job = more.desk.next()
    more.desk.moved(job, told((100, 0.6)))
    more.desk.ended(job, False, None)
    assert storage.exists(files[1])
