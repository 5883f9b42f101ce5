"""Tiles that are not those that were indexed: told wherever tiles of an index are read."""

import os
import shutil
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import rasterio

from satray.data.index import SCHEMA, IndexMeta, TileIndex, check_unchanged
from satray.data.read import errors_of, read_blocks, tile_source
from satray.errors import InputError
from satray.scoring.reading import Wanted, read_block
from satray.scoring.sources import tiles_of_index
from satray.storage import Storage

STORAGE = Storage()
BANDS = ("red", "nir")


@pytest.fixture
def index(tmp_path) -> TileIndex:
    """Four tiles of 8 x 8 px."""
    rows = []
    for i in range(4):
        path = tmp_path / f"t{i}.tif"
        profile = {"driver": "GTiff", "height": 8, "width": 8, "count": 2, "dtype": "uint16"}
        with rasterio.open(path, "w", **profile) as image:
            image.write(np.full((2, 8, 8), 100 + i, np.uint16))
        (entry,) = (e for e in STORAGE.list(str(tmp_path)) if e.key == path.name)
        rows.append(
            {
                "tile_id": path.stem,
                "uri": entry.uri,
                "split": "train",
                "labels": [i % 2],
                "height": 8,
                "width": 8,
                "bands": list(BANDS),
                "dtype": "uint16",
                "bytes": entry.size,
                "etag": entry.etag,
                "crc32": zlib.crc32(path.read_bytes()),
            }
        )
    meta = IndexMeta("binary", ("ship",), BANDS, "uint16", (8, 8), (), {})
    return TileIndex(pa.Table.from_pylist(rows, SCHEMA), meta)


def other_values(path: Path) -> None:
    """Ten times the values, the size as it was."""
    with rasterio.open(path, "r+") as image:
        image.write(image.read() * 10)


def longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"more")


def touched(path: Path) -> None:
    os.utime(path, (1, 1))


def copied(path: Path) -> None:
    shutil.copy(path, path.with_suffix(".new"))
    os.replace(path.with_suffix(".new"), path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (other_values, "changed since it was indexed: same size, other content"),
        (longer, "changed since it was indexed: "),
        (Path.unlink, "does not exist"),
        (touched, None),
        (copied, None),
    ],
)
def test_a_tile_that_changed_costs_its_row_and_one_that_was_copied_does_not(
    index, tmp_path, change, reason
):
    change(tmp_path / "t2.tif")
    source = tile_source(index, "train", BANDS, STORAGE, digest="x")
    (table,) = read_blocks(source, 4)
    wanted = Wanted(BANDS, "uint16", 8, 8, BANDS, indexed=True, maps=False)
    block = read_block(tiles_of_index(index).table, wanted, STORAGE)
    trained, scored = errors_of(table), {i: f.error for i, f in enumerate(block.facts) if f.error}
    if reason is None:
        assert trained == scored == {}
        assert check_unchanged(index, "index", STORAGE, 0.0) == []
        return
    assert list(trained) == list(scored) == [2]
    assert reason in trained[2]
    assert trained == scored
    assert not block.pixels[2].any()
    with pytest.raises(InputError, match=f"index=index: 1 of 4 tiles .* t2: .*{reason}.*prepare"):
        check_unchanged(index, "index", STORAGE, 0.2)
    (note,) = check_unchanged(index, "index", STORAGE, 0.25)
    assert "1 of 4 tiles" in note


def test_an_index_without_sums_goes_by_size_and_etag(index, tmp_path):
    plain = TileIndex(
        index.table.set_column(SCHEMA.get_field_index("crc32"), "crc32", pa.nulls(4, pa.uint32())),
        index.meta,
    )
    assert check_unchanged(plain, "index", STORAGE, 0.0) == []
    other_values(tmp_path / "t0.tif")
    with pytest.raises(InputError, match="t0: changed since it was indexed: same size"):
        check_unchanged(plain, "index", STORAGE, 0.0)
