"""From rows of the tile index to tables of decoded tiles: what one read task does. No Ray.

A table's pixels are Arrow's tensors, which go from the task to torch's without a copy. A tile that
cannot be read keeps its row: pixels zero, `valid` False, the reason in `error`.

Letters: N tiles, b of a block, C bands, H height, W width, K classes.
"""

import warnings
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from satray.config.train import CacheOptions
from satray.data.bands import select
from satray.data.cache import CachePlan, open_cache
from satray.data.decode import PixelSpec, read_files, read_pixels
from satray.data.index import TileIndex, versions
from satray.errors import one_line
from satray.storage import Storage, is_remote

Batch = dict[str, Any]

TENSORS = ("pixels", "labels", "row", "copy", "valid")
"""Columns of a table that a batch has."""

REQUESTS = 64
"""Requests to a store under way at once, of one task: 40 ms each are then hidden."""
READS = 16
"""The same of a disk, which gains nothing by more."""


@dataclass(frozen=True)
class TileSource:
    """Tiles of one split of an index as a read task needs them."""

    tiles: pa.Table
    """One row a tile: `row` of the split, `slot` (row of the whole index, its place in the cache),
    `uri`, `mask` (whether a `.msk` lies beside it), `labels` (K uint8), and what its file must
    still be: `bytes`, `etag`, `crc32`."""
    spec: PixelSpec
    """What is delivered: the bands that the network wants in its order, as the index has them."""
    storage: Storage
    """Where tiles are read from."""
    cache: CachePlan | None
    """Decoded tiles kept on the node; None to decode each time."""

    def __len__(self) -> int:
        return int(self.tiles.num_rows)

    @property
    def labels(self) -> NDArray[np.uint8]:
        """Targets (N, K)."""
        return _array(self.tiles.column("labels"))

    @property
    def slots(self) -> NDArray[np.int64]:
        """Row (N,) of each tile in the whole index."""
        return np.asarray(self.tiles.column("slot").to_numpy())

    def rows(self, rows: NDArray[np.int64]) -> "TileSource":
        """The source of some of its tiles, in this order, small enough to travel with a task."""
        return replace(self, tiles=self.tiles.take(pa.array(rows)).combine_chunks())


def tile_source(
    index: TileIndex,
    split: str,
    bands: tuple[str, ...],
    storage: Storage,
    cache: CacheOptions | None = None,
) -> TileSource:
    """Describe one split of an index for reading.

    Args:
        index: the whole index.
        split: `train`, `val` or `test`.
        bands: names, in the order in which the network wants them.
        storage: where the tiles are.
        cache: whether and where decoded tiles are kept.

    Raises:
        InputError: no such split, or a band that the tiles lack.
    """
    part = index.part(split)
    tiles = pa.table(
        {
            "row": pa.array(np.arange(len(part))),
            "slot": pa.array(np.flatnonzero(index.splits == split)),
            "labels": _tensors(part.labels),
            **{name: part.table[name] for name in ("uri", "mask", "bytes", "etag", "crc32")},
        }
    )
    meta = index.meta
    spec = PixelSpec(
        select(meta.bands, bands),
        *meta.tile_shape,
        meta.dtype,
        units=meta.units_of(bands),
        named=len(meta.bands) * meta.named,
        pages=meta.pages,
    )
    plan = None
    if cache is not None and cache.enabled:
        plan = CachePlan(
            identity=f"{index.digest} {' '.join(bands)}",
            rows=len(index),
            shape=spec.shape,
            dtype=spec.dtype,
            gib=cache.gib,
            folder=cache.folder,
        )
    return TileSource(tiles.combine_chunks(), spec, storage, plan)


def read_blocks(
    source: TileSource,
    block: int,
    pseudo_epoch: int = 0,
    copies: NDArray[np.int64] | None = None,
) -> Iterator[pa.Table]:
    """Read and decode tiles; yield a table for each `block` of them, in the source's order.

    Requests stay under way across blocks: while one is waited for, decoded or handed on, those of
    the next are on their way, and tiles that come early are decoded early.

    Args:
        source: the tiles to read, already cut to what is wanted.
        block: tiles a table; the last may have fewer.
        pseudo_epoch: written into each row, so that the consumer can tell.
        copies: (N,) how often each row came before in this pseudo-epoch; None: never.

    Yields:
        tables of `pixels` (C, H, W) and `labels` (K), tensors, `row`, `copy`, `valid`, `error` and
        `pseudo_epoch`.
    """
    total = len(source)
    came_before = np.zeros(total, np.int64) if copies is None else copies
    cache, slots = open_cache(source.cache), source.slots
    kept = np.zeros(total, bool) if cache is None else cache.kept(slots)
    absent = np.flatnonzero(~kept)
    arriving = _decoded(source, absent)
    waited_for = np.bincount(absent // block, minlength=-(-total // block))
    errors = np.full(total, None, object)
    begun: dict[int, NDArray[Any]] = {}

    def pixels_of(number: int) -> NDArray[Any]:
        if number not in begun:
            shape = (min(block, total - number * block), *source.spec.shape)
            begun[number] = np.empty(shape, source.spec.dtype)
        return begun[number]

    try:
        for number, start in enumerate(range(0, total, block)):
            here = slice(start, min(start + block, total))
            while waited_for[number]:
                at, tile = next(arriving)
                waited_for[at // block] -= 1
                errors[at] = tile if isinstance(tile, str) else None
                pixels_of(at // block)[at % block] = 0 if isinstance(tile, str) else tile
                if cache is not None and not isinstance(tile, str):
                    cache.put(int(slots[at]), tile)
            x_bCHW = pixels_of(number)
            if cache is not None:
                for place in np.flatnonzero(kept[here]).tolist():
                    cache.get(int(slots[start + place]), x_bCHW[place])
            del begun[number]
            part = source.tiles.slice(start, len(x_bCHW))
            yield pa.table(
                {
                    "pixels": _tensors(x_bCHW),
                    "labels": part.column("labels"),
                    "row": part.column("row"),
                    "valid": pa.array([error is None for error in errors[here]]),
                    "error": pa.array(errors[here], pa.string()),
                    "pseudo_epoch": pa.array(np.full(len(x_bCHW), pseudo_epoch, np.int64)),
                    "copy": pa.array(came_before[here]),
                }
            )
    finally:
        arriving.close()
        if cache is not None:
            cache.close()


def _decoded(
    source: TileSource, wanted: NDArray[np.int64]
) -> Generator[tuple[int, NDArray[Any] | str], None, None]:
    """Read and decode some of a source's tiles; yields position, and pixels or the reason."""
    tiles = source.tiles.take(pa.array(wanted))
    uris, masked = (tiles.column(name).to_pylist() for name in ("uri", "mask"))
    at_once = REQUESTS if any(is_remote(uri) for uri in uris[:1]) else READS
    arriving = read_files(source.storage, uris, masked, versions(tiles), at_once)
    for position, data, mask in arriving:
        try:
            if isinstance(data, Exception):
                raise data
            pixels_CHW: NDArray[Any] | str = read_pixels(data, source.spec, mask)
        except Exception as error:  # one bad tile costs one row
            pixels_CHW = one_line(error)
        yield int(wanted[position]), pixels_CHW


def to_torch(table: pa.Table) -> Batch:
    """Make torch tensors of a block's slice, without a copy where it lies in one block.

    Tensors over Ray's shared memory are read-only by contract: move or convert, never write.
    """
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "not writable": nobody writes
        return {name: torch.from_numpy(_array(table.column(name))) for name in TENSORS}


def errors_of(table: pa.Table) -> dict[int, str]:
    """Rows of a table that could not be read, and why."""
    bad = table.filter(table.column("error").is_valid())
    return dict(zip(bad.column("row").to_pylist(), bad.column("error").to_pylist(), strict=True))


def _tensors(array: NDArray[Any]) -> pa.FixedShapeTensorArray:
    """Wrap an array (n, ...) as n tensors over the same memory."""
    return pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(array))


def _array(column: pa.ChunkedArray) -> NDArray[Any]:
    """A column of numbers or of tensors (n, ...); a view where it is one chunk."""
    whole = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    if isinstance(whole, pa.FixedShapeTensorArray):
        return np.asarray(whole.to_numpy_ndarray())
    return np.asarray(whole.to_numpy(zero_copy_only=False))
