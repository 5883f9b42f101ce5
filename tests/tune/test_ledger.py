from sweep_material import record

from satray.storage import Storage, join
from satray.tune.ledger import BEGUN, ENDED, Ledger, trial_folder
from satray.tune.trials import trial_id

ONE, TWO = {"variant": "single3"}, {"variant": "single4", "stages.0.learning_rate": 1e-3}


def test_what_ended_and_what_began_is_there_for_the_next_attempt(tmp_path) -> None:
    ledger = Ledger(Storage(), str(tmp_path))
    assert ledger.records() == {}
    assert ledger.begun() == []
    ledger.begin(TWO, 0)
    ledger.begin(ONE, 1)
    first = record(TWO, 0.5, 0.75)
    ledger.end(first)
    again = Ledger(Storage(), str(tmp_path))
    assert again.records() == {first.id: first}
    assert again.begun() == [TWO, ONE]


def test_a_trial_that_ends_twice_counts_once_and_the_last_word_stays(tmp_path) -> None:
    ledger = Ledger(Storage(), str(tmp_path))
    ledger.end(record(ONE, 0.5))
    ledger.end(record(ONE, 0.5, 0.9))
    assert [each.best for each in ledger.records().values()] == [0.9]


def test_a_record_of_another_version_is_as_if_it_were_not_there(tmp_path) -> None:
    storage = Storage()
    ledger = Ledger(storage, str(tmp_path))
    ledger.end(record(ONE, 0.5))
    storage.write(join(str(tmp_path), ENDED, "0" * 8 + ".json"), b'{"id": "00000000"}')
    assert list(ledger.records()) == [trial_id(ONE)]


def test_places_are_apart() -> None:
    assert len({ENDED, BEGUN}) == 2
    assert trial_folder("/s", "aa") != trial_folder("/s", "bb")
