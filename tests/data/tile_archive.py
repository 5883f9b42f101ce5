"""A small archive of tiles that tell their numbers, two of them unreadable, and its index."""

from pathlib import Path

import numpy as np
import pyarrow as pa
from data.hostile import tiff

from satray.config.train import CacheOptions
from satray.data.index import IndexMeta, TileIndex, table_with
from satray.data.read import TileSource, tile_source
from satray.storage import Storage

BANDS, TILES = ("red", "nir"), 41
BAD = {7: b"", 9: None}
"""Tiles that are empty, or not there."""
META = IndexMeta("multilabel", ("a", "b"), BANDS, "uint16", (8, 8), (), {})


def pixels(i: int) -> np.ndarray:
    """Of tile i: (2, 8, 8), all 100 i in red and one more in nir."""
    return np.full((2, 8, 8), 100 * i, np.uint16) + np.array([[[0]], [[1]]], np.uint16)


def write_tiles(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for i in range(TILES):
        data = BAD.get(i, tiff(pixels(i)))
        if data is not None:
            (folder / f"{i}.tif").write_bytes(data)
    return folder


def index_of(root: str | Path, tiles: int = TILES, **more) -> TileIndex:
    """An index that says nothing of how the files were, but for what is given."""
    columns = {
        "tile_id": [str(i) for i in range(tiles)],
        "uri": [f"{root}/{i}.tif" for i in range(tiles)],
        "split": ["val" if i % 5 == 0 else "train" for i in range(tiles)],
        "labels": pa.array([[i % 2, 1] for i in range(tiles)], pa.list_(pa.uint8())),
        "height": [8] * tiles, "width": [8] * tiles, "bands": [BANDS] * tiles,
        "dtype": ["uint16"] * tiles, "bytes": [0] * tiles, **more,
    }  # fmt: skip
    table = table_with(META, pa.table(columns))
    if not more:
        nothing = pa.nulls(tiles, pa.int64())
        table = table.set_column(table.column_names.index("bytes"), "bytes", nothing)
    return TileIndex(table, META)


def source_of(
    root: str | Path,
    split: str = "train",
    storage: Storage | None = None,
    cache_folder=None,
    gib=1.0,
) -> TileSource:
    """A split of the archive, bands nir and red."""
    cache = None if cache_folder is None else CacheOptions(folder=str(cache_folder), gib=gib)
    index, bands = index_of(root), ("nir", "red")
    return tile_source(index, split, bands, storage or Storage(), cache)


def check_batch(batch: dict, source: TileSource) -> np.ndarray:
    """Check that a batch has the pixels, labels and validity of its rows, and return these."""
    rows = batch["row"].numpy()
    slots = source.slots[rows]
    good = ~np.isin(slots, list(BAD))
    assert batch["valid"].numpy().tolist() == good.tolist()
    wanted = np.where(good, 100 * slots, 0)[:, None] + np.where(good[:, None], [1, 0], 0)
    found = batch["pixels"].numpy()
    assert found.dtype == np.uint16
    shape = (len(rows), 2, 8, 8)
    np.testing.assert_array_equal(found, np.broadcast_to(wanted[:, :, None, None], shape))
    assert batch["labels"].numpy().tolist() == [[slot % 2, 1] for slot in slots]
    return rows
