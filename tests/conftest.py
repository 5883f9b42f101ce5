"""Fixtures that all tests share."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# How long an example takes says nothing on a machine that others use too.
settings.register_profile("satray", deadline=None)
settings.load_profile("satray")

pytest_plugins = ["conftest_s3"]

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Under pytest-xdist: one process for all that needs Ray or the S3 server, and it comes first.

    So that both start once, whatever the number of processes. The other tests go by file.
    """
    if not hasattr(config, "workerinput"):
        return
    items.sort(key=lambda item: not _shares(item))
    for item in items:
        group = "ray" if _shares(item) else item.nodeid.partition("::")[0]
        item.add_marker(pytest.mark.xdist_group(group))


def _shares(item: pytest.Item) -> bool:
    return any(item.get_closest_marker(name) for name in ("pipeline", "s3"))


@pytest.fixture(scope="session")
def ray_session(s3: object) -> Iterator[None]:
    """One local Ray for all tests, with four logical CPUs whatever the machine has.

    After the S3 server, whose address its workers then know.
    """
    from satray import cluster

    with cluster.start(num_cpus=4):
        yield


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of development data; skips the test where it is absent."""
    if not DATA.is_dir():
        pytest.skip("needs the development data")
    return DATA
