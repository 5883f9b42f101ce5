"""Fixtures of the storage room's tests."""

import hashlib
import socket
from collections.abc import Iterator

import pytest

from satray.storage import forget_connections


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A loopback port that is taken, and where nobody listens."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


@pytest.fixture(scope="session")
def bucket(s3):
    return s3.bucket()


@pytest.fixture
def prefix(bucket, request) -> str:
    """A prefix of its own for each test."""
    return f"{bucket}/{hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:12]}"


@pytest.fixture(params=["disk", pytest.param("s3", marks=pytest.mark.s3)])
def place(request, tmp_path) -> str:
    """An empty folder on disk, or a prefix in a bucket."""
    return request.getfixturevalue("prefix") if request.param == "s3" else f"{tmp_path}/place"


@pytest.fixture
def aws(s3, monkeypatch):
    """Change AWS variables for one test; connections made with them are dropped after it."""
    forget_connections()
    yield monkeypatch
    monkeypatch.undo()
    forget_connections()
