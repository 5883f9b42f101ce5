"""Fixtures of the storage room's tests."""

import hashlib

import pytest

from satray.storage import forget_connections


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
