"""From rows of the tile index to a table of decoded tiles: what one read task does. No Ray.

A table's pixels are fixed-size binary, so that they go from the task to a torch tensor without a
copy. A tile that cannot be read keeps its row: pixels zero, `valid` False, the reason in `error`.

Letters: b batch, C bands, H height, W width, K classes.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from satray.config.train import CacheOptions
from satray.data.bands import select
from satray.data.cache import CachePlan, TileCache, open_cache
from satray.data.decode import read_pixels
from satray.data.index import TileIndex, version_columns, versions
from satray.data.pages import PagesKey
from satray.data.source import read_files
from satray.data.units import Units
from satray.errors import SatrayError
from satray.storage import Storage

if TYPE_CHECKING:
    import torch

Batch = dict[str, Any]


@dataclass(frozen=True)
class TileSource:
    """One split of a tile index as a read task needs it."""

    uris: pa.Array
    """Where each tile is; row by row."""
    masked: pa.Array
    """Whether a `.msk` lies beside each; null: no."""
    labels: NDArray[np.uint8]
    """Targets (N, K)."""
    slots: NDArray[np.int64]
    """Row of each tile in the whole index, which is its place in the cache."""
    take: tuple[int, ...]
    """Bands to read, 0-based positions among the index's, in the network's input order."""
    named: int
    """How many bands of the archive were named: see `read_pixels`."""
    height: int
    """Rows of a delivered tile, px; others are resampled to it."""
    width: int
    """Columns of a delivered tile, px."""
    dtype: str
    """NumPy dtype of delivered pixels: the stored one."""
    storage: Storage
    """Where tiles are read from."""
    cache: CachePlan | None
    """Decoded tiles kept on the node; None to decode each time."""
    versions: pa.Table
    """`bytes`, `etag`, `crc32` of each tile: a file that is another by now is not read."""
    units: Units = ()
    """What delivered pixels mean, a unit a band."""
    pages: PagesKey = "bands"
    """Which pages of a TIFF are bands."""

    def __len__(self) -> int:
        return len(self.uris)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of a delivered tile."""
        return len(self.take), self.height, self.width

    @property
    def tile_bytes(self) -> int:
        """Bytes of a delivered tile's pixels."""
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize

    def rows(self, rows: NDArray[np.int64]) -> "TileSource":
        """The source of some rows only, small enough to travel with a task."""
        return replace(
            self,
            uris=self.uris.take(pa.array(rows)),
            masked=self.masked.take(pa.array(rows)),
            labels=self.labels[rows],
            slots=self.slots[rows],
            versions=self.versions.take(pa.array(rows)),
        )


def tile_source(
    index: TileIndex,
    split: str,
    bands: tuple[str, ...],
    storage: Storage,
    *,
    digest: str,
    cache: CacheOptions | None = None,
) -> TileSource:
    """Describe one split of an index for reading.

    Args:
        index: the whole index.
        split: `train`, `val` or `test`.
        bands: names, in the order in which the network wants them.
        storage: where the tiles are.
        digest: the index's digest; names its cache.
        cache: whether and where decoded tiles are kept.

    Raises:
        InputError: no such split, or a band that the tiles lack.
    """
    part = index.part(split)
    splits = np.asarray(index.table.column("split").to_pylist(), dtype=object)
    height, width = index.meta.tile_shape
    plan = None
    if cache is not None and cache.enabled:
        plan = CachePlan(
            identity=f"{digest} {' '.join(bands)}",
            rows=len(index),
            shape=(len(bands), height, width),
            dtype=index.meta.dtype,
            room=int(cache.gib * 2**30),
            folder=cache.folder,
        )
    return TileSource(
        uris=part.table.column("uri").combine_chunks(),
        masked=part.table.column("mask").combine_chunks(),
        labels=part.labels,
        slots=np.flatnonzero(splits == split).astype(np.int64),
        take=select(index.meta.bands, bands),
        named=index.meta.count_named,
        height=height,
        width=width,
        dtype=index.meta.dtype,
        storage=storage,
        cache=plan,
        versions=version_columns(part.table),
        units=index.meta.units_of(bands),
        pages=index.meta.pages,
    )


def _reason(error: Exception) -> str:
    text = str(error).strip().splitlines()
    said = text[0] if text else type(error).__name__
    return said if isinstance(error, SatrayError) else f"{type(error).__name__}: {said}"


def _binary(array: NDArray[Any]) -> pa.Array:
    """Wrap an array (n, ...) as n fixed-size binary values over the same memory."""
    n = len(array)
    width = array.nbytes // max(1, n)
    return pa.Array.from_buffers(pa.binary(width), n, [None, pa.py_buffer(array.reshape(-1))])


def read_blocks(
    source: TileSource,
    rows: NDArray[np.int64],
    pseudo_epoch: int,
    block: int,
    copies: NDArray[np.int64] | None = None,
) -> Iterator[pa.Table]:
    """Read and decode tiles; yield a table for each `block` of them.

    Args:
        source: the tiles to read, already cut to `rows`.
        rows: their rows in the split.
        pseudo_epoch: written into each row, so that the consumer can tell.
        block: tiles a table.
        copies: how often each row came before in this pseudo-epoch; None: never.

    Yields:
        tables of `pixels`, `labels` (fixed-size binary), `row`, `copy`, `valid`, `error`, `bytes`
        (read from storage; 0 where the cache had the tile) and `pseudo_epoch`.
    """
    came_before = np.zeros(len(rows), np.int64) if copies is None else copies
    cache = open_cache(source.cache)
    try:
        for start in range(0, len(rows), block):
            stop = min(start + block, len(rows))
            table = _read_block(source, rows, start, stop, pseudo_epoch, cache)
            yield table.append_column("copy", pa.array(came_before[start:stop]))
    finally:
        if cache is not None:
            cache.close()


def _read_block(
    source: TileSource,
    rows: NDArray[np.int64],
    start: int,
    stop: int,
    pseudo_epoch: int,
    cache: TileCache | None,
) -> pa.Table:
    n = stop - start
    pixels_bCHW = np.empty((n, *source.shape), source.dtype)
    sizes = np.zeros(n, np.int64)
    errors: list[str | None] = [None] * n
    missing = list(range(n))
    if cache is not None:
        slots = source.slots[start:stop]
        missing = [i for i in missing if not cache.get(int(slots[i]), pixels_bCHW[i])]
    uris = [source.uris[start + i].as_py() for i in missing]
    rows_read = pa.array([start + i for i in missing], pa.int64())
    masked = source.masked.take(rows_read).to_pylist()
    expected = versions(source.versions.take(rows_read))
    for position, data, mask in read_files(source.storage, uris, masked, expected):
        i = missing[position]
        try:
            if isinstance(data, Exception):
                raise data
            sizes[i] = len(data)
            pixels_bCHW[i] = read_pixels(
                data,
                source.take,
                source.height,
                source.width,
                source.dtype,
                units=source.units,
                pages=source.pages,
                named=source.named,
                mask=mask,
            )
        except Exception as error:  # one bad tile costs one row
            pixels_bCHW[i] = 0
            errors[i] = _reason(error)
            continue
        if cache is not None:
            cache.put(int(source.slots[start + i]), pixels_bCHW[i])
    return pa.table(
        {
            "pixels": _binary(pixels_bCHW),
            "labels": _binary(np.ascontiguousarray(source.labels[start:stop])),
            "row": pa.array(rows[start:stop]),
            "valid": pa.array([error is None for error in errors]),
            "error": pa.array(errors, pa.string()),
            "bytes": pa.array(sizes),
            "pseudo_epoch": pa.array(np.full(n, pseudo_epoch, np.int64)),
        }
    )


def to_torch(table: pa.Table, shape: tuple[int, int, int], dtype: str) -> Batch:
    """Make torch tensors of a block's slice, without a copy where it lies in one block.

    Tensors over Ray's shared memory are read-only by contract: move or convert, never write.
    """
    return {
        "pixels": _tensor(_unwrap(table.column("pixels"), dtype).reshape(-1, *shape)),
        "labels": _tensor(_unwrap(table.column("labels"), "uint8").reshape(len(table), -1)),
        "row": _tensor(table.column("row").to_numpy()),
        "copy": _tensor(table.column("copy").to_numpy()),
        "valid": _tensor(table.column("valid").to_numpy()),
    }


def errors_of(table: pa.Table) -> dict[int, str]:
    """Rows of a table that could not be read, and why."""
    errors = table.column("error")
    if errors.null_count == len(errors):
        return {}
    pairs = zip(table.column("row").to_pylist(), errors.to_pylist(), strict=True)
    return {row: error for row, error in pairs if error is not None}


def _tensor(array: NDArray[Any]) -> "torch.Tensor":
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "not writable": nobody writes
        return torch.from_numpy(array)


def _unwrap(column: pa.ChunkedArray, dtype: str) -> NDArray[Any]:
    """The values of a fixed-size binary column as one flat array; a view where it is one chunk."""
    parts = []
    for chunk in column.chunks:
        width = chunk.type.byte_width
        begin, end = chunk.offset * width, (chunk.offset + len(chunk)) * width
        parts.append(np.frombuffer(chunk.buffers()[1], np.uint8)[begin:end].view(dtype))
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
