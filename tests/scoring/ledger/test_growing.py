"""Scenes that are still being uploaded."""

from datetime import timedelta

import pytest
from scoring.ledger.ledger_material import Scene
from scoring.ledger.memory_store import START

from satray.scoring.ledger import changed, too_young


def aged(seconds):
    return Scene("a.tif", modified=START - timedelta(seconds=seconds))


@pytest.mark.parametrize(
    ("age", "settle", "young"),
    [
        (0, 60, True),
        (59.9, 60, True),
        (60, 60, False),
        (3600, 60, False),
        (0, 0, False),
        (-5, 60, True),  # the source's clock is ahead of the output's
        (-61, 60, False),  # a time in the future tells nothing
        (-1e8, 60, False),
    ],
)
def test_settle(age, settle, young):
    assert (too_young(aged(age), START, settle) is not None) == young


def test_reasons():
    assert too_young(aged(12.3), START) == "changed 12 s ago, less than settle=60 s"
    assert too_young(aged(-5), START) == "changed 0 s ago, less than settle=60 s"


def test_two_looks():
    before = [Scene(name, "e1", 10) for name in ("same", "grown", "other", "gone")]
    after = [Scene("same", "e1", 10), Scene("grown", "e2", 20), Scene("other", "e2", 10)]
    assert changed(before, [*after, Scene("new")]) == {
        "grown": "still growing: 10 bytes, then 20",
        "other": "changed while it was looked at",
        "gone": "gone since it was first seen",
    }


def test_a_file_that_grows_on_disk(tmp_path):
    from satray.storage import Storage

    def look():
        entries = Storage().list(str(tmp_path))
        return [Scene(e.key, e.etag or "", e.size, e.modified) for e in entries]

    path = tmp_path / "a.tif"
    path.write_bytes(b"II*\0")
    first = look()
    assert changed(first, look()) == {}
    with path.open("ab") as file:
        file.write(b"more")
    assert changed(first, look()) == {"a.tif": "still growing: 4 bytes, then 8"}
