"""What jobs take of Ray: the rules without any, calls and messages on a real one."""

import operator
import os
import time

import pytest

from satray.cluster import LOCAL, Readers, cpus_of, readers
from satray.config.base import Resources
from satray.errors import InputError, SatrayError


@pytest.mark.parametrize(
    ("wanted", "local", "free", "cores", "found"),
    [
        # one machine: as many as cores, out of what the workers leave
        ("auto", True, 2, 2, Readers(2, 0.5)),
        ("auto", True, 17, 16, Readers(16, 0.5)),
        ("auto", True, 2, 16, Readers(4, 0.5)),
        ("auto", True, 0, 1, Readers(1, 0.5)),
        (7, True, 2, 2, Readers(7, 0.5)),
        # a cluster: Ray Data adds them until their consumer is fed or the CPUs are used up
        ("auto", False, 56, 4, Readers(None, 1.0)),
        ("auto", False, 0, 4, Readers(None, 1.0)),  # a head alone, so far
        (7, False, 56, 4, Readers(7, 1.0)),
    ],
)
def test_readers(monkeypatch, wanted, local, free, cores, found):
    has = {"CPU": free + 3.0} | ({LOCAL: 1.0} if local else {})
    monkeypatch.setattr("ray.cluster_resources", lambda: has)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(cores))
    assert readers(Resources(read_tasks=wanted), busy=3.0) == found
    assert found.expected == (found.at_once or 8)


@pytest.mark.parametrize(
    ("nodes", "count", "each"),
    [
        ([4], 1, 2),  # two cores: Ray is told of two CPUs more, which are left to readers
        ([4], 2, 1),
        ([4], 3, 1),
        ([18], 1, 16),
        ([0, 8, 8, 8, 8], 1, 8),
        ([0, 8, 8, 8, 8], 3, 8),
        ([0, 8, 8, 8, 8], 4, 7),
        ([4, 1, 1, 1, 1], 2, 2),  # 3 each would be within the sum, but fit on no two nodes
        ([2], 1, 1),
        ([], 2, 1),
    ],
)
def test_workers_hold_cpus_that_their_nodes_have(nodes, count, each):
    assert cpus_of(nodes, count) == each
    if sum(nodes) >= count + 2:
        assert sum(nodes) - count * each >= 2
        assert sum(node // each for node in nodes) >= count


# Functions that workers call are local, so that they are pickled by value.


@pytest.mark.pipeline
@pytest.mark.parametrize(
    ("asked", "line"),
    [
        ({"gpus": "yes"}, "resources.gpus=yes: this machine has 0 GPUs, .* at most 0 such workers"),
        ({"workers": 4}, "resources.workers=4 .* Ray 4 CPUs here, .* at most 3 such workers$"),
    ],
)
def test_what_one_machine_can_never_give_is_refused(ray_session, asked, line):
    from satray import cluster

    with pytest.raises(InputError, match=line), cluster.start(Resources(**asked)):
        pass
    with cluster.start(Resources(workers=3)):
        assert cluster.allot(Resources(workers=3)).count == 3


@pytest.mark.pipeline
def test_calls_and_blocks_give_what_they_give_and_fail_in_one_line(ray_session):
    from satray import cluster, sessions
    from satray.runs.executor import each_block

    def threads():
        import torch

        return torch.get_num_threads(), os.nice(0)

    def work(number):
        if number < 0:
            raise InputError(f"block={number}: no")
        return 1 // number

    def done(blocks):
        return list(each_block(work, blocks, Resources(), ray=True, ordered=True))

    cpus = cluster.allot(Resources(gpus="no"))
    assert cluster.run_once(operator.add, 2, 3, workers=cpus) == 5
    assert cluster.call_anywhere(os.getpid) == os.getpid()
    # As urgent as this process: beside another busy program it would else hardly be served.
    assert cluster.run_once(threads, workers=cpus) == (sessions.cores(), os.nice(0))
    assert done([1, 2, 1]) == [1, 0, 1]
    for failing in (lambda: cluster.run_once(work, -1, workers=cpus), lambda: done([1, -1])):
        with pytest.raises(InputError, match=r"^block=-1: no$"):
            failing()
    for failing in (lambda: cluster.run_once(work, 0, workers=cpus), lambda: done([0, 1])):
        with pytest.raises(SatrayError, match=r"^a worker failed: ZeroDivisionError: .*by zero$"):
            failing()


@pytest.mark.pipeline
def test_messages_of_a_worker_come_in_order_until_one_cannot_be_shown(ray_session):
    from satray import cluster

    def work(channel):
        for number in range(5):
            channel.send({"n": number})

    def show(message):
        if message["n"] == 3:
            raise ValueError(f"no {message['n']}\nodd")
        shown.append(message["n"])

    shown, said = [], []
    channel = cluster.ProgressChannel()
    with channel.watch(show, said.append):
        cluster.run_once(work, channel, workers=cluster.allot(Resources(gpus="no")))
        until = time.monotonic() + 30
        while not said and time.monotonic() < until:
            time.sleep(0.01)
    assert shown == [0, 1, 2]
    assert said == ["note: no more progress can be shown: ValueError: no 3 odd"]
