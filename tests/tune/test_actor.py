"""What a trial's process tells, whatever becomes of the trial."""

import math

import pytest
from inline_blocks import WORKERS
from sweep_material import MAP, tune

from satray.errors import SatrayError, TrainingError
from satray.tune import actor
from satray.tune.actor import Session, Work


class Scripted:
    """A training whose evaluations are given; an exception is raised."""

    def __init__(self, *script, total=1000, each=250):
        self.script, self.total, self.each, self.closed = list(script), total, each, 0

    @property
    def done(self):
        return not self.script

    def step(self):
        found = self.script.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    def close(self):
        self.closed += 1


def row(samples, value, seconds=0.25):
    figures = {"samples_seen": samples, "map": value, "train_loss": 1.0, "val_loss": 2.0}
    return figures | {"learning_rate": 0.1, "seconds_data": 0.0, "seconds_compute": seconds}


def session(monkeypatch, *trainings, one_by_one=False):
    work = Work(tune(), None, None, "/state", "0" * 12, MAP, {}, one_by_one, 1, WORKERS)
    waiting = list(trainings)

    def opened(self, job):
        found = waiting.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(Session, "_open", opened)
    found = Session(work)
    found.begin({})
    return found


def test_short_evaluations_are_told_together_with_the_end(monkeypatch) -> None:
    training = Scripted(row(250, 0.5), row(500, 0.75), row(1000, 0.625))
    told = session(monkeypatch, training).step()
    assert [each["samples"] for each in told["rows"]] == [250, 500, 1000]
    assert told["seconds"] == [0.25] * 3
    assert (told["samples"], told["value"], told["worth"], told["share"]) == (1000, 0.625, 0.625, 1)
    assert (told["over"], told["done"], told["error"]) == (True, True, None)


def test_long_ones_are_told_as_they_come(monkeypatch) -> None:
    monkeypatch.setattr(actor, "TOGETHER", -1.0)
    found = session(monkeypatch, Scripted(row(500, 0.5), row(1000, 0.75)))
    first = found.step()
    assert ([each["samples"] for each in first["rows"]], first["over"]) == ([500], False)
    assert found.step()["over"]


def test_where_each_may_be_the_last_each_is_told_by_itself(monkeypatch) -> None:
    found = session(monkeypatch, Scripted(row(500, 0.5), row(1000, 0.75)), one_by_one=True)
    assert found.step()["samples"] == 500
    assert found.step()["samples"] == 1000


@pytest.mark.parametrize(
    ("script", "said", "samples"),
    [
        ([row(500, 0.5), TrainingError("the loss is nan")], "the loss is nan", 500),
        ([row(500, math.nan)], "mAP is not a number after 500 samples", 500),
        ([MemoryError()], "MemoryError: MemoryError", 0),
        ([RuntimeError("first\nCUDA out of memory")], "RuntimeError: CUDA out of memory", 0),
    ],
)
def test_what_goes_wrong_is_told_and_the_process_lives(monkeypatch, script, said, samples) -> None:
    first, second = Scripted(*script), Scripted(row(1000, 0.5))
    found = session(monkeypatch, first, second)
    told = found.step()
    assert (told["error"], told["over"], told["samples"]) == (said, True, samples)
    assert math.isnan(told["worth"])
    found.end()
    assert first.closed == 1
    found.begin({})
    told = found.step()
    assert (told["error"], told["worth"]) == (None, 0.5)
    found.end()
    assert second.closed == 0  # it was at its end


def test_a_trial_that_cannot_be_opened_is_a_trial_that_failed(monkeypatch) -> None:
    found = session(monkeypatch, ValueError("no such head"))
    told = found.step()
    assert (told["error"], told["over"], told["rows"]) == ("ValueError: no such head", True, [])
    found.end()


@pytest.mark.parametrize("trouble", [OSError("no room"), SatrayError("the store is away")])
def test_what_may_pass_is_raised_once_all_before_it_is_told(monkeypatch, trouble) -> None:
    found = session(monkeypatch, trouble)
    with pytest.raises(type(trouble)):
        found.step()
    found.end()
    training = Scripted(row(500, 0.5), trouble)
    found = session(monkeypatch, training)
    told = found.step()
    assert ([one["samples"] for one in told["rows"]], told["over"]) == ([500], False)
    with pytest.raises(type(trouble)):
        found.step()


def test_evaluations_have_the_place_that_was_asked_for_whatever_batches_make_of_it(
    monkeypatch,
) -> None:
    training = Scripted(row(256, 0.5), row(512, 0.5), row(1000, 0.5), each=250)
    found = session(monkeypatch, training, one_by_one=True)
    assert [found.step()["place"] for _ in range(3)] == [250, 500, 750]


def test_a_trial_that_is_left_is_closed(monkeypatch) -> None:
    monkeypatch.setattr(actor, "TOGETHER", -1.0)
    training = Scripted(row(500, 0.5), row(1000, 0.75))
    found = session(monkeypatch, training)
    found.step()
    found.end()
    found.end()
    assert training.closed == 1
