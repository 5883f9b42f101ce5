"""Memory that a process may use: the machine's, or less in a container."""

import os

import pytest

from satray.tune.memory import node_memory

MACHINE = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.fixture
def groups(tmp_path):
    def make(lines, **limits):
        for place, text in limits.items():
            path = tmp_path / "cgroup" / place.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        (tmp_path / "mine").write_text(lines)
        return node_memory(tmp_path / "cgroup", tmp_path / "mine")

    return make


def test_without_a_limit_it_is_the_machines(groups):
    assert groups("") == MACHINE
    assert groups("0::/a\n", **{"a__memory.max": "max\n"}) == MACHINE
    assert groups("9:memory:/b\n", **{"memory__b__memory.limit_in_bytes": f"{2**63 - 4096}\n"}) == (
        MACHINE
    )


def test_the_lowest_limit_holds(groups):
    assert groups("0::/a:b\n", **{"a:b__memory.max": "4096\n", "memory.max": "8192\n"}) == 4096


def test_first_version_of_control_groups(groups):
    limits = {"memory__box__memory.limit_in_bytes": "12288\n"}
    assert groups("3:cpu:/\n4:memory,hugetlb:/box\n0::/\n", **limits) == 12288


def test_here_it_is_a_number_of_bytes():
    assert 0 < node_memory() <= MACHINE
