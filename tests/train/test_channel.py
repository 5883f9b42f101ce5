"""Messages of the workers on the driver, without a cluster."""

import time

import pytest

from satray import cluster


class Channel(cluster.ProgressChannel):
    """Takes messages from a list of what each look finds."""

    def __init__(self, *looks):
        self._looks = list(looks)

    def take(self):
        found = self._looks.pop(0) if self._looks else []
        if isinstance(found, Exception):
            raise found
        return found


def watched(channel, show):
    said = []
    with channel.watch(show, said.append, seconds=0.01):
        deadline = time.monotonic() + 5
        while channel._looks and time.monotonic() < deadline:
            time.sleep(0.01)
    return said


def test_what_cannot_be_shown_is_said_once_and_the_rest_still_shown():
    shown = []

    def show(message):
        if message["n"] % 2:
            raise ValueError(f"no {message['n']}\nodd")
        shown.append(message["n"])

    said = watched(Channel([{"n": 0}, {"n": 1}], [], [{"n": 2}, {"n": 3}, {"n": 4}]), show)
    assert shown == [0, 2, 4]
    assert said == ["note: progress could not be shown (ValueError: odd)"]


def test_a_board_that_is_gone_is_said():
    gone = cluster.ray.exceptions.RayError("the actor died")
    (line,) = watched(Channel([], gone), pytest.fail)
    assert line == "note: no more progress can be shown: the actor died"
