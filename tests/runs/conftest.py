"""The counting job in a folder of its own, without Ray."""

import contextlib

import pytest
from counting import Counter

import satray.cluster


@pytest.fixture
def counter(monkeypatch, tmp_path) -> Counter:
    monkeypatch.setattr(satray.cluster, "start", lambda *_, **__: contextlib.nullcontext())
    monkeypatch.setattr(satray.cluster, "spans_machines", lambda: False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("one two three")
    return Counter()
