"""What jobs take of Ray: the rules, without any."""

import pytest

from satray.cluster import Readers, cpus_of, readers_of
from satray.config.base import Resources


@pytest.mark.parametrize(
    ("wanted", "local", "cpus", "busy", "cores", "found"),
    [
        # one machine: as many as cores, out of what the workers leave
        ("auto", True, 4, 2, 2, Readers(2, 0.5)),
        ("auto", True, 18, 1, 16, Readers(16, 0.5)),
        ("auto", True, 18, 16, 16, Readers(4, 0.5)),
        ("auto", True, 3, 3, 1, Readers(1, 0.5)),
        (7, True, 4, 2, 2, Readers(7, 0.5)),
        # a cluster: Ray Data adds them until their consumer is fed or the CPUs are used up
        ("auto", False, 64, 8, 4, Readers(None, 1.0)),
        ("auto", False, 0, 0, 4, Readers(None, 1.0)),  # a head alone, so far
        (7, False, 64, 8, 4, Readers(7, 1.0)),
    ],
)
def test_readers(wanted, local, cpus, busy, cores, found):
    assert readers_of(wanted, local=local, cpus=cpus, busy=busy, cores=cores) == found
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


def test_the_keys_of_resources():
    assert Resources().read_tasks == "auto"
    assert Resources(read_tasks=3).read_tasks == 3
    for wrong in ({"read_tasks": 0}, {"read_tasks": "many"}, {"wait": -1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Resources(**wrong)
