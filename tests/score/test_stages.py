"""The order of stages, on stages that only count."""

import os
import signal
from dataclasses import dataclass

import pytest

from satray.config.base import Resources
from satray.errors import DecodeError
from satray.runs.run import Run
from satray.score.scheduler import Tally, run_stages
from satray.score.stages import Stages, Started
from satray.storage import Storage


def counting():
    """Stages whose items are numbers of parts; local, so that workers get them by value."""

    @dataclass(frozen=True)
    class Opened:
        parts: int
        px: int = 1

    def network(opened, part, pixels):
        if opened.parts == 7 and part == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return 10 * pixels

    class Counting(Stages):
        def unopened(self, item, error):
            if item > -9:
                raise error
            return item, [str(error)]

        def failed(self, opened, error, kind):
            return opened.parts, [str(error)]

        def open(self, item):
            if item == -9:
                os.kill(os.getpid(), signal.SIGKILL)
            if item < 1:
                raise DecodeError("nothing there")
            return Started(Opened(item), 0, "seen 0")

        def read(self, opened, part):
            return part, f"seen {part}"

        def network(self, gpu):
            return network, "none"

        def write(self, opened, parts, engine):
            return opened.parts, list(parts)

    return Counting()


def results(items, tmp_path, workers=None):
    tally = Tally(Run("count", "a" * 12, str(tmp_path), Storage()), 1, "items")
    return list(run_stages(counting(), items, Resources(read_tasks=2), tally, workers))


def expected(count):
    return count, [(f"seen {part}", 10 * part) for part in range(count)]


def test_items_are_taken_as_there_is_room_and_keep_the_order_of_their_parts(tmp_path):
    taken = []

    def items():
        for count in (3, 1, 40, 2):
            taken.append(count)
            yield count

    tally = Tally(Run("count", "a" * 12, str(tmp_path), Storage()), 4, "items")
    ways = run_stages(counting(), items(), Resources(read_tasks=1), tally)
    first = next(ways)
    assert 2 not in taken  # 40 parts come before it
    assert sorted([first, *ways]) == [expected(count) for count in (1, 2, 3, 40)]
    assert results(iter(()), tmp_path) == []


def test_an_item_that_cannot_be_opened_is_not_lost_in_silence(tmp_path):
    with pytest.raises(DecodeError, match=r"^nothing there$"):
        results([2, 0, 1], tmp_path)


@pytest.mark.pipeline
def test_parts_go_to_the_actors_that_there_is_room_for(ray_session, tmp_path):
    """Four CPUs hold one actor of three; the second waits for ever, and nothing for it."""
    from satray.cluster import Readers, Workers

    workers = Workers(count=2, gpu=False, cpus=3, readers=Readers(2))
    found = results([5, 1, 9], tmp_path, workers)
    assert sorted(found) == [expected(1), expected(5), expected(9)]


@pytest.mark.pipeline
def test_an_item_that_kills_its_process_costs_no_other(ray_session, tmp_path):
    from satray.cluster import Readers, Workers

    workers = Workers(count=1, gpu=False, cpus=1, readers=Readers(2))
    opening, *others, looking = sorted(results([3, -9, 7, 2], tmp_path, workers))
    for (item, (line,)), number in ((opening, -9), (looking, 7)):
        assert item == number
        assert line.startswith("the process that did it died: ")
    assert others == [expected(2), expected(3)]
