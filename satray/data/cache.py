"""Decoded tiles on the node's own disk, so that a tile is fetched and decoded once.

One cache is a folder: `pixels` (tiles of a fixed size, by row of the index) and `flags` (one byte
a tile, 1 = present). Many processes of a node write to it at once without locks: a tile's bytes
are the same whoever writes them, and its flag is written after them. A process killed in between
leaves the flag at 0. After a crash of the machine the two files could disagree, so the name of a
cache holds the machine's boot id and a cache never outlives a boot.

The files are sparse: a node's cache takes the disk that the tiles read there take. Where there is
no room for all tiles of an index, those of its first rows are kept and the others decoded each
time: any part serves a shuffled order as well as any other.
"""

import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from satray import __version__

MARGIN = 1 << 30
"""Bytes of free disk that a cache leaves alone."""
SHARE = 0.5
"""Share of the free disk that all caches of a node take together where nobody says how much."""
IN_USE = 600.0
"""Seconds since its last opening for which a cache counts as in use (each read task opens it)."""


def cache_folder(named: str | None) -> Path:
    """The folder that caches live in, and nothing else: this user's, below one that may be named.

    Args:
        named: `cache.folder`; None: the system's temporary folder.
    """
    return Path(named or tempfile.gettempdir()) / f"satray-{os.getuid()}" / "tiles"


def boot() -> str:
    """A name of the machine's current run, from its last start on."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


@dataclass(frozen=True)
class CachePlan:
    """Which cache, and how much room it may take; small, travels to the read tasks."""

    identity: str
    """What the rows are: the index's digest and the bands taken."""
    rows: int
    """Tiles in the index."""
    shape: tuple[int, int, int]
    """Bands, height, width of a stored tile."""
    dtype: str
    """NumPy dtype of the stored pixels."""
    gib: float | None = None
    """Room that all caches of a node may take together, GiB; None: `SHARE` of its free disk."""
    folder: str | None = None
    """Where caches live, as `cache_folder` takes it."""

    @property
    def root(self) -> Path:
        """Folder that caches live in."""
        return cache_folder(self.folder)

    @property
    def tile_bytes(self) -> int:
        """Bytes of one stored tile."""
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize

    @property
    def bytes(self) -> int:
        """Bytes that the whole cache takes once full."""
        return self.rows * (self.tile_bytes + 1)

    @property
    def name(self) -> str:
        """Folder name: differs whenever a stored byte could."""
        text = repr((__version__, self.identity, self.rows, self.shape, self.dtype, boot()))
        return hashlib.sha256(text.encode()).hexdigest()[:24]


class TileCache:
    """An open cache; one per read task. Not thread-safe across `close`."""

    def __init__(self, plan: CachePlan) -> None:
        self._size, self._rows = plan.tile_bytes, plan.rows
        self._pixels, self._flags = (
            os.open(plan.root / plan.name / name, os.O_RDWR) for name in ("pixels", "flags")
        )
        self._full = False

    def __len__(self) -> int:
        """Tiles that there is room for: those of the index's first rows."""
        return os.fstat(self._pixels).st_size // self._size

    def kept(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Tell which tiles are present, of some rows (n,)."""
        flags = np.frombuffer(os.pread(self._flags, self._rows, 0), np.uint8)
        return np.asarray(flags[rows] == 1)

    def get(self, row: int, out: NDArray[np.generic]) -> None:
        """Copy the tile of `row`, which is kept, into `out` (C, H, W, contiguous)."""
        # arrays of unsigned 16 bits and the like are not byte buffers by themselves
        view = out.reshape(-1).view(np.uint8).data
        if os.preadv(self._pixels, [view], row * self._size) != self._size:
            raise OSError(f"the tile cache lacks bytes of row {row}")

    def put(self, row: int, pixels: NDArray[np.generic]) -> None:
        """Keep the tile of `row` where there is room; a full disk ends keeping, not the task."""
        if self._full or row >= len(self):
            return
        view = np.ascontiguousarray(pixels).reshape(-1).view(np.uint8).data
        try:
            if os.pwrite(self._pixels, view, row * self._size) == self._size:
                os.pwrite(self._flags, b"\x01", row)
        except OSError:
            self._full = True

    def close(self) -> None:
        """Close the files; the cache stays."""
        os.close(self._pixels)
        os.close(self._flags)


def open_cache(plan: CachePlan | None) -> TileCache | None:
    """Open the cache that `plan` names, making it and room for it where needed.

    Returns:
        the cache, or None where caching is off, there is no room for a single tile, or the disk
        cannot be written: each tile is then decoded each time.
    """
    if plan is None or plan.rows == 0:
        return None
    folder = plan.root / plan.name
    try:
        with locked(plan.root):
            if not (folder / "flags").exists():
                shutil.rmtree(folder, ignore_errors=True)
                room = make_room(plan.root, plan.name, plan.bytes, plan.gib)
                tiles = room // (plan.tile_bytes + 1)
                if tiles == 0:
                    return None
                new = plan.root / "new"  # its name comes last: what has it is whole
                shutil.rmtree(new, ignore_errors=True)
                new.mkdir()
                for name, size in (("pixels", tiles * plan.tile_bytes), ("flags", plan.rows)):
                    with open(new / name, "wb") as file:
                        file.truncate(size)
                new.rename(folder)
            os.utime(folder)
            return TileCache(plan)
    except OSError:
        return None


def cache_lines(plan: CachePlan | None) -> list[str]:
    """What to say of a cache that does not hold its whole index, by this node's disk."""
    if plan is None:
        return []
    tiles, cache = 0, open_cache(plan)
    if cache is not None:
        tiles = len(cache)
        cache.close()
    if tiles >= plan.rows:
        return []
    limit = "half of the free disk" if plan.gib is None else f"cache.gib={plan.gib:g}"
    return [
        f"tile cache: keeps {tiles:,} of {plan.rows:,} tiles on a node, by {limit} in {plan.root}; "
        f"all need {plan.bytes / 2**30:.2g} GiB; the others are read and decoded each time "
        "(cache.gib and cache.folder say how much and where)"
    ]


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """Hold the lock of the folder that caches live in, made where absent, against all processes."""
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    with open(root / ".lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def make_room(root: Path, keep: str, need: int, gib: float | None) -> int:
    """Remove caches, least recently used first, until `need` more bytes fit; under the lock.

    One in use stays: two jobs of one node would else undo each other's at every read task.

    Args:
        root: folder that caches live in.
        keep: name of the cache that room is made for.
        need: bytes.
        gib: what all caches may take together, GiB; None: `SHARE` of the node's free disk.

    Returns:
        Bytes that fit, at most `need`.
    """
    room = int((gib or 0) * 2**30)
    if gib is None:
        taken = sum(f.stat().st_blocks * 512 for f in root.rglob("*") if f.is_file())
        room = int(SHARE * (shutil.disk_usage(root).free + taken))
    others = [f for f in root.iterdir() if f.is_dir() and f.name != keep]
    others.sort(key=lambda folder: folder.stat().st_mtime)
    # What a sparse cache has not written yet is promised to it all the same.
    sizes = [sum(f.stat().st_size for f in each.iterdir() if f.is_file()) for each in others]

    def fits() -> int:
        return min(need, room - sum(sizes), shutil.disk_usage(root).free - MARGIN)

    while others and fits() < need and time.time() - others[0].stat().st_mtime >= IN_USE:
        # A process that still reads it keeps its open files; they vanish when it closes them.
        shutil.rmtree(others.pop(0), ignore_errors=True)
        sizes.pop(0)
    return max(0, fits())
