"""Fixtures that all tests share."""

import os
import sys
from collections.abc import Iterator

import pytest
from hypothesis import settings

# How long an example takes says nothing on a machine that others use too.
settings.register_profile("satray", deadline=None)
settings.load_profile("satray")

# Several processes share few cores: threads of one would only spin and wait for those of another.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# What a test forgets to name is not fetched.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

pytest_plugins = ["conftest_s3"]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Under pytest-xdist: the process that starts with Ray and the S3 server keeps to them.

    So that both start once for most of what needs them. The other process starts with the sweeps,
    on a Ray of its own; the tests without any go by file, last, so that both end together. (Three
    processes take longer than two on two cores.)
    """
    if not hasattr(config, "workerinput"):
        return
    items.sort(key=_turn)
    for item in items:
        group = ("ray", "sweeps on ray", item.nodeid.partition("::")[0])[_turn(item)]
        item.add_marker(pytest.mark.xdist_group(group))


def _turn(item: pytest.Item) -> int:
    """0: with Ray or S3, 1: sweeps on Ray, 2: without."""
    if not any(item.get_closest_marker(name) for name in ("pipeline", "s3")):
        return 2
    return int("tune" in item.path.parts or item.path.name == "test_tune.py")


COMPUTING = {"models", "score", "tune"}
"""Folders of tests that run networks."""


@pytest.fixture(autouse=True)
def small_networks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Networks are drawn alike, tiny ones on one thread; denormal numbers, which untrained ones
    make and CPUs are slow with, are zero, but for Hypothesis, which draws some."""
    torch = sys.modules.get("torch")
    if torch is None or COMPUTING.isdisjoint(request.path.parts):
        yield
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.set_flush_denormal(not hasattr(request.function, "hypothesis"))
    torch.manual_seed(0)
    yield
    torch.set_flush_denormal(False)
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def ray_session(s3: object) -> Iterator[None]:
    """One local Ray for all tests, with four logical CPUs whatever the machine has.

    After the S3 server, whose address its workers then know.
    """
    from satray import cluster

    with cluster.start(num_cpus=4):
        yield
