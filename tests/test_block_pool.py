"""Blocks in the hands of an actor, and what ends them."""

import functools
import pickle
import threading

import numpy as np
import pyarrow as pa
import pytest
from inline_blocks import WORKERS

from satray.block_pool import BlockActor, BlockRead, held, rows_of, through_actors
from satray.errors import InputError, SatrayError, TrainingError


def reports(work, table):
    """What an actor whose work this is reports of a table of blocks."""
    actor = BlockActor("features", 0, lambda: work)
    return [pickle.loads(cell.as_py()) for cell in actor(table).column("report")]


def test_a_report_a_block_in_order():
    data = [held(b"abc"), held(np.array([7, 9], dtype=np.uint8)), held(b"")]
    table = pa.table({"name": ["one", "two", "three"], "data": pa.chunked_array(data)})
    whole = [("one", b"abc"), ("two", b"\7\11"), ("three", b"")]
    for some in (table, table.combine_chunks(), table.slice(1)):
        found = reports(lambda row: {"name": row["name"], "data": bytes(row["data"])}, some)
        assert found == [{"name": n, "data": d} for n, d in whole[3 - len(some) :]]


def test_what_is_held_is_not_copied():
    data = np.arange(1000, dtype=np.uint16)
    (row,) = rows_of(pa.table({"data": held(data)}))
    came = np.frombuffer(row["data"], np.uint16)
    assert np.array_equal(came, data)
    assert np.shares_memory(came, data)


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
def test_what_ends_a_block_is_told_in_one_line(error, line, kind):
    def work(row):
        raise error

    (found,) = reports(work, pa.table({"name": ["one"]}))
    assert (type(found), str(found)) == (kind, line)


@pytest.mark.pipeline
def test_an_actor_may_have_several_blocks_in_hand(ray_session):
    """Each waits for the other: one at a time would never end."""

    def make():
        both = threading.Barrier(2)

        def work(row):
            both.wait(timeout=60)
            return {"name": row["name"]}

        return work

    def read(name):
        return pa.table({"name": [name]})

    blocks = [BlockRead(functools.partial(read, name), 10) for name in ("one", "two")]
    found = through_actors("blocks", blocks, WORKERS, make, calls=2)
    assert {report["name"] for report in found} == {"one", "two"}
