"""Blocks in the hands of an actor, and what ends them."""

import pickle

import numpy as np
import pyarrow as pa
import pytest

from satray import cluster
from satray.data.block_pool import BlockActor, Pool, held
from satray.errors import InputError, SatrayError, TrainingError


@pytest.fixture
def actor_of(monkeypatch):
    """An actor, in this process, of what works on its blocks."""
    monkeypatch.setattr(cluster, "node_count", lambda: 2)
    shared = []
    monkeypatch.setattr(cluster, "use_threads", shared.append)

    def make(work, gpu=False):
        actor = BlockActor("features", Pool(3, gpu, 1), lambda: work)
        return actor, shared

    return make


@pytest.mark.parametrize(("gpu", "expected"), [(False, [2]), (True, [])])
def test_actors_of_a_node_share_its_cores(actor_of, gpu, expected):
    _, shared = actor_of(len, gpu)
    assert shared == expected


def test_a_report_a_block_in_order(actor_of):
    actor, _ = actor_of(lambda row: {"name": row["name"], "data": bytes(row["data"])})
    data = [held(b"abc"), held(np.array([7, 9], dtype=np.uint8)), held(b"")]
    table = pa.table({"name": ["one", "two", "three"], "data": pa.chunked_array(data)})
    for given in (table, table.combine_chunks(), table.slice(1)):
        told = [pickle.loads(cell.as_py()) for cell in actor(given).column("report")]
        whole = [("one", b"abc"), ("two", b"\7\11"), ("three", b"")]
        assert told == [{"name": n, "data": d} for n, d in whole[3 - len(given) :]]


def test_what_is_held_is_not_copied(actor_of):
    data = np.arange(1000, dtype=np.uint16)
    came = []
    actor_of(lambda row: came.append(np.frombuffer(row["data"], np.uint16)))[0](
        pa.table({"data": held(data)})
    )
    assert np.array_equal(came[0], data)
    assert np.shares_memory(came[0], data)


@pytest.mark.parametrize(
    ("error", "line", "kind"),
    [
        (InputError("weights: not there"), "weights: not there", InputError),
        (TrainingError("it broke"), "it broke", SatrayError),
        (
            RuntimeError("out of memory:\n 3 GiB"),
            "features: RuntimeError: out of memory: 3 GiB",
            SatrayError,
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_ends_a_block_is_told_in_one_line(actor_of, error, line, kind):
    def work(row):
        raise error

    (cell,) = actor_of(work)[0](pa.table({"name": ["one"]})).column("report")
    found = pickle.loads(cell.as_py())
    assert (type(found), str(found)) == (kind, line)
