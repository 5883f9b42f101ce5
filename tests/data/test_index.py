"""The tile index: written and read as it is, told from what is none, with a digest of its bytes."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from satray.data.index import (
    IndexMeta,
    TileIndex,
    read_index,
    table_with,
    write_index,
)
from satray.data.statistics import BandCounts, count_pixels, summarise
from satray.data.values import Unit
from satray.errors import InputError
from satray.runs.run import Run, RunRecord
from satray.storage import Storage

META = IndexMeta(
    task="multilabel",
    classes=("a", "b"),
    bands=("red",),
    dtype="uint8",
    tile_shape=(8, 9),
    statistics=(summarise("red", count_pixels(np.arange(9, dtype=np.uint8))),),
    provenance={"images": "s3://x/y"},
    units=(Unit(1e-4, -0.1),),
)


def groups(table: pa.Table, rows: int) -> list[pa.Table]:
    return [table.slice(start, rows) for start in range(0, len(table), rows)]


def make(n: int = 5, meta: IndexMeta = META) -> TileIndex:
    place = pa.array([[1.0, 0, 5, 0, -1, 7] if i else None for i in range(n)])
    columns = {
        "tile_id": [f"t/{i}" for i in range(n)],
        "uri": [f"s3://x/y/t/{i}.tif" for i in range(n)],
        "split": ["val" if i % 3 == 2 else "train" for i in range(n)],
        "labels": [[i % 2, 1] for i in range(n)],
        "height": [8] * n, "width": [9] * n, "bands": [["red"]] * n, "dtype": ["uint8"] * n,
        "crs": ["EPSG:32631" if i else None for i in range(n)],
        "transform": place.cast(pa.list_(pa.float64(), 6)), "bytes": [100] * n,
    }  # fmt: skip
    return TileIndex(table_with(meta, pa.table(columns)), meta)


@pytest.fixture
def run(tmp_path) -> Run:
    return Run("prepare", "0123456789ab", str(tmp_path / "out"), Storage())


@pytest.mark.parametrize("path", ["index", "index/tiles-00000.parquet"])
def test_round_trip(run, path):
    write_index([make().table], run)
    got = read_index(run.uri(path), Storage())
    assert got.meta == META == IndexMeta.from_json(META.to_json())
    assert got.table.to_pylist() == make().table.to_pylist()
    assert got.table["resolution_x"].null_count == 1  # the others' are measured


def test_many_files_are_one_index(run):
    meta = replace(META, statistics=(summarise("red", BandCounts("uint8")),))  # NaN
    write_index(groups(make(25, meta).table, 1), run)
    assert [p.rows for p in run.products] == [10, 10, 5]
    assert read_index(run.uri("index"), Storage()).table.equals(make(25).table)


def test_parts_and_labels():
    whole = make()
    assert whole.split_counts == {"train": 4, "val": 1}
    assert whole.part("val").table.column("tile_id").to_pylist() == ["t/2"]
    train = whole.part("train")
    np.testing.assert_array_equal(train.labels, [[0, 1], [1, 1], [1, 1], [0, 1]])
    assert train.labels.dtype == np.uint8
    np.testing.assert_array_equal(TileIndex(whole.table.slice(1, 2), META).labels, [[1, 1], [0, 1]])
    said = r"'test'; the index has train \(4 tiles\), val \(1 tile\)"
    with pytest.raises(InputError, match=said):
        whole.part("test")


@pytest.mark.parametrize(("files", "rows"), [(1, 5), (3, 1)])
def test_the_digest_is_that_of_the_files_and_run_json_holds_them_to_it(run, files, rows):
    write_index(groups(make(25).table, rows), run)
    digest = read_index(run.uri("index"), Storage()).digest
    nothing = {"config": {}, "inputs": {}, "versions": {}, "started": "", "finished": ""}
    record = RunRecord(job="prepare", run_id=run.run_id, products=run.products, **nothing)
    run.storage.write(run.uri("run.json"), record.to_json())
    assert len(run.products) == files
    assert (digest == run.products[0].sha256) == (files == 1)
    assert read_index(run.out, Storage()).part("val").digest == digest
    file = Path(run.uri("index/tiles-00000.parquet"))
    file.write_bytes(file.read_bytes() + b" ")
    said = r"tiles-00000\.parquet is not the file that run.json lists"
    with pytest.raises(InputError, match=said):
        read_index(run.out, Storage())


def parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


OTHER = table_with(replace(META, task="multiclass"), make().table)
NONE = make().table.replace_schema_metadata({b"satray": b"{}"})


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({}, "no tile index at .*prepare"),
        ({"0": b"not parquet"}, "no tile index .ArrowInvalid"),
        ({"0": parquet(pa.table({"a": [1]}))}, r"0\.parquet is no tile index \(.*satray"),
        (
            {"0": parquet(make().table.replace_schema_metadata(None))},
            r"is no tile index \(.*satray",
        ),
        ({"0": parquet(NONE)}, "no tile index .*task"),
        ({"0": parquet(make().table), "1": parquet(OTHER)}, "another index"),
    ],
)
def test_what_is_no_index_is_refused_in_one_line(tmp_path, files, says):
    for name, content in files.items():
        (tmp_path / f"tiles-{name}.parquet").write_bytes(content)
    with pytest.raises(InputError, match=says) as caught:
        read_index(str(tmp_path), Storage())
    assert "\n" not in str(caught.value)
