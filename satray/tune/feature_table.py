"""Features of frozen backbones: who trains from them, the blocks they are made in, where they lie.

A table is one file of arrays a block of tiles, wherever the sweep keeps them; its record,
`features.json`, is written last. The first use on a node turns the columns that are needed into one
raw file each (`train.rgb_avg`: float32 N x V x D), below the tile cache's folder. Processes of the
node share them through the page cache, and features larger than memory are paged in as they are
asked for. No torch, no Ray: `satray.tune.features` extracts.

Letters: N tiles of a split or block, V views, D numbers of a tower, F of all towers, K classes, B
tiles of a batch.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import mmap
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from satray.config.train import CacheOptions, Pooling, TrainRecipe
from satray.data.cache import MARGIN, boot, cache_folder, locked, make_room
from satray.errors import SatrayError
from satray.models.variant import resolve
from satray.storage import Storage, join, name

POOLINGS: tuple[Pooling, ...] = ("avg", "max", "lse")
"""What is kept of a feature map; each costs next to nothing beside the forward."""
VIEWS = 8
"""Draws of augmentation a tile where nobody says how many."""
SPLITS = ("train", "val")
RECORD = "features.json"
"""Beside the files; written last."""
BLOCK_BYTES, BLOCK_TILES = 16 << 20, 256
"""Decoded bytes and tiles of a block, at the most: what is read, computed and written at a time."""
FEWEST = 8
"""Tiles of a block, at the least."""


# Which recipes can be trained from features, and in how many views


def head_only(recipe: TrainRecipe) -> str | None:
    """None where a recipe's head can be trained from features; else why not, in one line.

    It can where every stage trains the head alone, so that the towers stay as they start, and
    where the head sees a fixed set of pooled features: it is linear, nothing blends inputs (mixup,
    cutmix), validation tiles are always the same (`input.evaluate_flip`), and no snapshots are
    averaged at the end. A moving average of the weights, dropout, class-aware sampling and any
    loss, optimiser and schedule are fine.

    Args:
        recipe: of `train`.
    """
    for number, stage in enumerate(recipe.stages):
        if stage.trainable != "head":
            return f"stages.{number}.trainable={stage.trainable} trains more than the head"
    if resolve(recipe.variant, recipe.pooling).head != "linear":
        return "a dense head sees whole maps, which are larger than tiles"
    for key in ("mixup", "cutmix"):
        if (alpha := getattr(recipe.augment, key)) > 0:
            return f"augment.{key}={alpha:g} blends tiles before the backbone"
    if recipe.input.evaluate_flip:
        return "input.evaluate_flip=true draws validation tiles anew"
    if recipe.average.swa:
        return "average.swa=true averages whole networks"
    return None


def views_of(recipe: TrainRecipe, tile_shape: tuple[int, int]) -> int:
    """Draws of augmentation a tile: the recipe's, else `VIEWS`; 1 if nothing is drawn.

    A recipe without `augment.views` draws anew in every pseudo-epoch: its heads are trained from
    features only when it is given this number of views.

    Args:
        recipe: of a trial.
        tile_shape: height and width of the index's tiles, px.
    """
    augment, size = recipe.augment, recipe.input.size
    height, width = tile_shape
    room = (recipe.input.resize or size) > size or height != width
    drawn = (
        augment.flips != "none"
        or max(augment.brightness, augment.contrast, augment.erase) > 0
        or augment.crop == "resized"
        or (augment.crop == "random" and room)
    )
    return (augment.views or VIEWS) if drawn else 1


# What is computed at a time, and written as a file


@dataclass(frozen=True)
class Block:
    """Tiles whose features are computed, and written to a file, together."""

    split: str
    """`train` or `val`."""
    number: int
    """0 for the split's first."""
    start: int
    """First row of the split."""
    stop: int
    """One past the last."""
    views: int
    """Draws of augmentation a tile; 1 in validation, which has none."""
    size: int
    """Side of the network's input, px."""
    parts: ClassVar[int] = 1

    @property
    def file(self) -> str:
        """Its file; it is there whole or not at all."""
        return f"{self.split}-{self.number:05d}.npz"

    @property
    def images(self) -> int:
        """Views of all its tiles."""
        return (self.stop - self.start) * self.views

    @property
    def px(self) -> int:
        """Px that the network looks at."""
        return self.images * self.size**2


def blocks_of(tiles: Mapping[str, int], tile_bytes: int, views: int, size: int) -> list[Block]:
    """Cut splits into what is computed at a time, whoever computes it.

    Args:
        tiles: split -> its tiles.
        tile_bytes: bytes of a decoded tile.
        views: draws of augmentation of a train tile.
        size: side of the network's input, px.
    """
    found = []
    for split, count in tiles.items():
        # At least 16 blocks, so that several actors and interruptions find pieces of work.
        step = max(FEWEST, min(BLOCK_TILES, BLOCK_BYTES // tile_bytes, -(-count // 16)))
        drawn = views if split == "train" else 1
        for number, start in enumerate(range(0, count, step)):
            found.append(Block(split, number, start, min(start + step, count), drawn, size))
    return found


def to_file(
    block: Block,
    errors: Sequence[str | None],
    features: Mapping[str, NDArray[np.float32]],
    *,
    bf16: bool = False,
) -> bytes:
    """The features of a block as its file (`numpy.savez`); of what could not be read they are 0.

    Args:
        block: of the split.
        errors: why a tile could not be read; None where it could.
        features: column (`TOWER_POOLING`) -> float32 (N, V, D).
        bf16: what they were computed in.
    """
    keep_N11 = np.array([error is None for error in errors])[:, None, None]
    unreadable = {block.start + i: error for i, error in enumerate(errors) if error is not None}
    columns = {column: values.shape[2] for column, values in features.items()}
    notes = json.dumps({"bf16": bf16, "unreadable": unreadable, "columns": columns})
    kept = {column: np.where(keep_N11, v, np.float32(0)) for column, v in features.items()}
    sink = io.BytesIO()
    np.savez(sink, notes=notes, **kept)  # type: ignore[arg-type]
    return sink.getvalue()


def notes_of(data: bytes) -> dict[str, Any]:
    """What a file of `to_file` says beside its numbers.

    Returns:
        `bf16`; `unreadable`: row of the split (as text) -> why; `columns`: column -> D.
    """
    found: dict[str, Any] = json.loads(str(np.load(io.BytesIO(data))["notes"]))
    return found


# The table: in storage, and mapped on a node


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
    """Its folder: files of blocks and `features.json`."""
    storage: Storage
    """How it is reached."""
    cache: CacheOptions
    """Where maps are kept on a node, and the room that caches of tiles may take beside them."""
    record: dict[str, Any]
    """`columns`: `TOWER_POOLING` -> D, towers in the network's order; by split `rows` (N), `views`
    (V) and `unreadable` (row -> why); `files`; `bf16`: whether any train tile was computed in it;
    `seconds`."""
    digest: str
    """Of the record: features that were extracted again are others."""

    @classmethod
    def find(cls, uri: str, storage: Storage, cache: CacheOptions) -> FeatureTable | None:
        """The finished table in a folder; None where there is none."""
        if not storage.exists(join(uri, RECORD)):
            return None
        data = storage.read(join(uri, RECORD))
        return cls(uri, storage, cache, json.loads(data), hashlib.sha256(data).hexdigest()[:16])

    @property
    def width(self) -> int:
        """F: numbers of a tile, all towers side by side, of one pooling."""
        widths: dict[str, int] = self.record["columns"]
        return sum(widths.values()) // len(POOLINGS)

    def open(self, split: str, pooling: str, labels_NK: NDArray[np.uint8]) -> Features:
        """Map one split, making the node's files where they are not there yet.

        Args:
            split: `train` or `val`.
            pooling: whose columns: avg, max or lse.
            labels_NK: the split's.

        Raises:
            InputError: a file of the table is gone.
            SatrayError: the node has no room for the maps.
        """
        widths: dict[str, int] = self.record["columns"]
        columns = [column for column in widths if column.endswith(f"_{pooling}")]
        tiles, views = self.record["rows"][split], self.record["views"][split]
        root = cache_folder(self.cache.folder)
        home = root / f"features-{name(self.uri)}-{self.digest}-{boot()}"
        try:
            with locked(root):  # of the processes of a node one builds, the others wait for it
                home.mkdir(exist_ok=True)
                absent = [c for c in columns if not (home / f"{split}.{c}").exists()]
                if absent:
                    need = 4 * tiles * views * sum(widths[column] for column in absent)
                    self._make_room(root, home, need)
                    self._build(home, split, absent)
                os.utime(home)  # in use: caches that want room leave it alone
                parts = [_mapped(home / f"{split}.{c}", (tiles, views, widths[c])) for c in columns]
        except OSError as error:
            raise SatrayError(
                f"features cannot be kept in {root}: {error.strerror or error}; cache.folder names "
                "another folder"
            ) from error
        valid = np.ones(tiles, bool)
        valid[[int(row) for row in self.record["unreadable"][split]]] = False
        return Features(tuple(parts), labels_NK, valid)

    def _make_room(self, root: Path, home: Path, need: int) -> None:
        # What caches may take does not bind features, without which no trial can run.
        make_room(root, home.name, need, self.cache.gib)
        free = shutil.disk_usage(root).free
        if free < need + MARGIN:
            raise SatrayError(
                f"features {name(self.uri)}: {need / 2**30:.1f} GiB wanted in {root}, "
                f"{free / 2**30:.1f} GiB free of which {MARGIN / 2**30:.0f} is left alone; "
                "cache.folder names another"
            )

    def _build(self, home: Path, split: str, columns: Sequence[str]) -> None:
        """Fill the maps from the files, one of these in memory at a time."""
        with contextlib.ExitStack() as ends:
            parts = {c: ends.enter_context(open(home / f"{split}.{c}.part", "wb")) for c in columns}
            for file in (each for each in self.record["files"] if each.startswith(f"{split}-")):
                found = np.load(io.BytesIO(self.storage.read(join(self.uri, file))))
                for column, part in parts.items():
                    part.write(found[column].data)
        for column in columns:  # in one step: what has its name is whole
            (home / f"{split}.{column}.part").rename(home / f"{split}.{column}")


def _mapped(path: Path, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """A plain array over a file: numpy's own subclass costs time at each use."""
    with path.open("rb") as file:
        kept = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    # Rows are asked for in random order: of a file that memory cannot hold the system would read
    # 128 KiB for each, in vain.
    kept.madvise(mmap.MADV_RANDOM)
    return np.frombuffer(kept, np.float32).reshape(shape)
