"""Extracted features: Parquet files wherever the sweep keeps them, memory maps on each node.

The first use of a table on a node turns the columns that it needs into one file each, below the
tile cache's folder. Processes of the node share them through the page cache, and features larger
than memory are paged in as they are asked for. The files are raw, split by split:

    train.rgb_avg   float32 (N, V, D)     train.labels   uint8 (N, K)     train.valid   bool (N,)

Letters: N tiles of a split, V views, D numbers of a tower, F of all towers, K classes, B a batch.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import mmap
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from satray.data.cache import MARGIN, boot, default_folder, locked, make_room
from satray.errors import InputError, SatrayError
from satray.storage import Storage, join
from satray.tune.feature_file import LABELS, VALID
from satray.tune.feature_plan import FORMAT, RECORD
from satray.tune.memory import node_memory

LARGE = 0.5
"""Share of the node's memory from which a file counts as one that may not stay there."""


@dataclass(frozen=True)
class Features:
    """One split of a table on this node."""

    parts: tuple[NDArray[np.float32], ...]
    """A memory map (N, V, D) a tower, in order."""
    labels: NDArray[np.uint8]
    """0 or 1: (N, K)."""
    valid: NDArray[np.bool_]
    """(N,) whether the tile could be read; else its features are 0."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def views(self) -> int:
        """V."""
        return int(self.parts[0].shape[1])

    @property
    def width(self) -> int:
        """F: numbers of a tile, all towers side by side."""
        return sum(part.shape[2] for part in self.parts)

    def batch(self, rows: NDArray[np.int64], views: NDArray[np.int64]) -> dict[str, Any]:
        """Some rows of the split, each in one of its views.

        Args:
            rows: (B,) rows; may repeat.
            views: (B,) 0 to V - 1.

        Returns:
            `pixels` float32 (B, F), `labels` uint8 (B, K), `row` int64 (B,), `valid` bool (B,).
        """
        at_B = rows * self.views + views
        taken = [part.reshape(-1, part.shape[2]).take(at_B, axis=0) for part in self.parts]
        return {
            "pixels": taken[0] if len(taken) == 1 else np.concatenate(taken, axis=1),
            "labels": self.labels.take(rows, axis=0),
            "row": rows,
            "valid": self.valid.take(rows),
        }


@dataclass(frozen=True)
class FeatureTable:
    """A finished extraction, by name: small, travels to trials, opened where it is used."""

    uri: str
    """Its folder: Parquet files and `features.json`."""
    storage: Storage
    """How it is reached."""
    key: str
    """Of its `FeatureSpec`."""
    digest: str
    """Of its record: features that were extracted again are others."""
    towers: tuple[str, ...]
    """Names, in the network's order."""
    widths: dict[str, int]
    """Column (`TOWER_POOLING`) -> D."""
    rows: dict[str, int]
    """Split -> tiles."""
    views: dict[str, int]
    """Split -> V; validation has one."""
    classes: tuple[str, ...]
    """Class names, in the order of the labels."""
    files: tuple[str, ...]
    """Names of its Parquet files."""
    folder: str | None = None
    """Where nodes keep their maps; None: this user's folder under the system's."""
    gib: float | None = None
    """Room that caches of tiles may take beside the maps on a node; None: by its disk."""

    @classmethod
    def find(
        cls, uri: str, storage: Storage, *, folder: str | None = None, gib: float | None = None
    ) -> FeatureTable | None:
        """The finished table in a folder; None where there is none.

        Raises:
            InputError: its record cannot be read.
        """
        record = join(uri, RECORD)
        if not storage.exists(record):
            return None
        try:
            data = storage.read(record)
            found = json.loads(data)
            if found["format"] != FORMAT:
                raise ValueError(f"format {found['format']}")
            return cls(
                uri=uri,
                storage=storage,
                key=found["key"],
                digest=hashlib.sha256(data).hexdigest()[:16],
                towers=tuple(tower[0] for tower in found["spec"]["towers"]),
                widths={name: int(width) for name, width in found["columns"].items()},
                rows={split: int(rows) for split, rows in found["rows"].items()},
                views={split: int(views) for split, views in found["views"].items()},
                classes=tuple(found["classes"]),
                files=tuple(found["files"]),
                folder=folder,
                gib=gib,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{record}: no record of features of this version ({error!r}); remove its folder"
            ) from error

    def open(self, split: str, pooling: str) -> Features:
        """Map one split, making the node's files where they are not there yet.

        Args:
            split: `train` or `val`.
            pooling: whose columns: avg, max, lse, or flat (whole maps).

        Raises:
            InputError: the table has no such pooling, or a file of it is gone.
            SatrayError: the node has no room for the maps.
        """
        columns = self._columns(pooling)
        root = Path(self.folder) if self.folder else default_folder()
        home = root / f"features-{self.key}-{self.digest}-{boot()}"
        names = {name: self._shape(split, name) for name in (*columns, LABELS, VALID)}
        try:
            with _building(root, self.key):
                home.mkdir(exist_ok=True)
                absent = {n: s for n, s in names.items() if not (home / f"{split}.{n}").exists()}
                if absent:
                    self._room(root, home, absent)
                    self._build(home, split, absent)
                os.utime(home)  # in use: caches that want room leave it alone
                maps = {n: mapped(home / f"{split}.{n}", *shape) for n, shape in names.items()}
        except OSError as error:
            raise SatrayError(
                f"features cannot be kept in {root}: {error.strerror or error}; cache.folder names "
                "another folder"
            ) from error
        return Features(tuple(maps[n] for n in columns), maps[LABELS], maps[VALID])

    def _columns(self, pooling: str) -> tuple[str, ...]:
        names = tuple(f"{tower}_{pooling}" for tower in self.towers)
        if any(name not in self.widths for name in names):
            raise InputError(
                f"features {self.key}: no {names[0]}; there are {', '.join(self.widths)}"
            )
        return names

    def _shape(self, split: str, name: str) -> tuple[tuple[int, ...], str]:
        tiles = self.rows[split]
        if name == LABELS:
            return (tiles, len(self.classes)), "uint8"
        if name == VALID:
            return (tiles,), "bool"
        return (tiles, self.views[split], self.widths[name]), "float32"

    def _room(self, root: Path, home: Path, absent: Mapping[str, tuple[Any, str]]) -> None:
        need = sum(int(np.prod(s)) * np.dtype(dtype).itemsize for s, dtype in absent.values())
        with locked(root):
            # What caches may take does not bind features, without which no trial can run.
            make_room(root, home.name, need, self.gib)
        free = shutil.disk_usage(root).free
        if free < need + MARGIN:
            raise SatrayError(
                f"features {self.key}: {need / 2**30:.1f} GiB wanted in {root}, {free / 2**30:.1f} "
                f"GiB free of which {MARGIN / 2**30:.0f} is left alone; cache.folder names another"
            )

    def _build(self, home: Path, split: str, absent: Mapping[str, tuple[Any, str]]) -> None:
        """Fill the files from the Parquet ones, one of these in memory at a time."""
        parts = {n: home / f"{split}.{n}.part" for n in absent}
        maps = {n: np.memmap(parts[n], dtype, "w+", shape=s) for n, (s, dtype) in absent.items()}
        columns = ["row", "view", *absent]
        for file in (name for name in self.files if name.startswith(f"{split}-")):
            table = pq.read_table(
                io.BytesIO(self.storage.read(join(self.uri, file))), columns=columns
            )
            rows, views = (table.column(name).to_numpy() for name in ("row", "view"))
            for name, target in maps.items():
                column = table.column(name).combine_chunks()
                if name == VALID:
                    target[rows] = column.to_numpy(zero_copy_only=False)
                    continue
                values = column.flatten().to_numpy().reshape(len(rows), -1)
                if name == LABELS:
                    target[rows] = values
                else:
                    target[rows, views] = values
        for name in absent:
            parts[name].rename(home / f"{split}.{name}")  # in one step: what has its name is whole


def mapped(path: Path, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    """A plain array over a file: numpy's own subclass costs time at each use.

    Rows are asked for in random order. Of a file that memory cannot hold the system would read 128
    KiB for each, in vain; one that fits is better read ahead, once.
    """
    found = np.memmap(path, dtype, "r", shape=shape)
    if found.nbytes > LARGE * node_memory():
        kept: Any = found._mmap  # type: ignore[attr-defined]  # numpy has no other way to it
        kept.madvise(mmap.MADV_RANDOM)
    return found.view(np.ndarray)


@contextmanager
def _building(root: Path, key: str) -> Iterator[None]:
    """Of the processes of a node one builds, the others wait for it."""
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    with open(root / f".features-{key}.lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
