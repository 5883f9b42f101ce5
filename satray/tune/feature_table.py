"""Features of frozen backbones as a table: what decides them, who can use them, where they lie.

A table is Parquet files below a key, wherever the sweep keeps them, a row a tile and view; its
record, `features.json`, is written last. The first use on a node turns the columns that are needed
into one raw file each, below the tile cache's folder. Processes of the node share them through the
page cache, and features larger than memory are paged in as they are asked for:

    train.rgb_avg   float32 (N, V, D)     train.labels   uint8 (N, K)     train.valid   bool (N,)

No torch, no Ray: `satray.tune.features` extracts.

Letters: N tiles of a split or block, V views, D numbers of a tower, F of all towers, K classes, B
tiles of a batch, M rows of a file.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import mmap
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from satray import __version__
from satray.config.train import AugmentOptions, InputOptions, TrainRecipe, VariantOptions
from satray.data.cache import MARGIN, boot, default_folder, locked, make_room
from satray.errors import SatrayError
from satray.storage import Storage, join, name

if TYPE_CHECKING:
    from satray.train.setup import Setup

FORMAT = 2
"""Of the files, and of what is computed; another one makes other keys."""
POOLINGS = ("avg", "max", "lse")
"""What is kept of a feature map for linear heads; each costs next to nothing beside the forward."""
FLAT = "flat"
"""For dense heads: the whole map."""
VIEWS = 8
"""Draws of augmentation a tile where nobody says how many."""
SPLITS = ("train", "val")
RECORD = "features.json"
"""Beside the files; written last."""
BLOCK_BYTES, BLOCK_TILES = 16 << 20, 256
"""Decoded bytes and tiles of a block, at the most: what is read, computed and written at a time."""
FEWEST = 8
"""Tiles of a block, at the least; and of one of whole maps, which are larger than tiles."""
LABELS, VALID = "labels", "valid"
_MARK = b"satray"


# Which recipes can be trained from features


def head_only(recipe: TrainRecipe) -> str | None:
    """None where a recipe's head can be trained from features; else why not, in one line.

    It can where every stage trains the head alone, so that the towers stay as they start, and
    where the head sees a fixed set of features: nothing blends inputs (mixup, cutmix), validation
    tiles are always the same (`input.evaluate_flip`), and no snapshots are combined at the end. A
    moving average of the weights, dropout, class-aware sampling and any loss, optimiser and
    schedule are fine, and so is a dense head, whose features are whole maps.

    Args:
        recipe: of `train`.
    """
    for number, stage in enumerate(recipe.stages):
        if stage.trainable != "head":
            return f"stages.{number}.trainable={stage.trainable} trains more than the head"
    for key in ("mixup", "cutmix"):
        if (alpha := getattr(recipe.augment, key)) > 0:
            return f"augment.{key}={alpha:g} blends tiles before the backbone"
    if recipe.input.evaluate_flip:
        return "input.evaluate_flip=true draws validation tiles anew"
    if recipe.average.swa:
        return "average.swa=true averages whole networks"
    return None


def draws(augment: AugmentOptions, given: InputOptions, tile_shape: tuple[int, int]) -> bool:
    """Whether augmentation draws anything that changes a tile of that shape (height, width; px).

    Mixup and cutmix are no part of it: they blend what has been drawn.
    """
    if augment.flips != "none" or max(augment.brightness, augment.contrast, augment.erase) > 0:
        return True
    if augment.crop == "resized":
        return True
    height, width = tile_shape
    short = given.resize or given.size
    return augment.crop == "random" and (short > given.size or height != width)


def views_of(recipe: TrainRecipe, tile_shape: tuple[int, int]) -> int:
    """Draws of augmentation a tile: the recipe's; where it has none, 8, or 1 if nothing is drawn.

    A recipe without `augment.views` draws anew in every pseudo-epoch: its heads are trained from
    features only when it is given this number of views (`with_views`).

    Args:
        recipe: of a trial.
        tile_shape: height and width of the index's tiles, px.
    """
    if not draws(recipe.augment, recipe.input, tile_shape):
        return 1
    return recipe.augment.views or VIEWS


def with_views(recipe: TrainRecipe, tile_shape: tuple[int, int]) -> TrainRecipe:
    """The recipe with the number of views that it is trained with from features."""
    augment = recipe.augment.model_copy(update={"views": views_of(recipe, tile_shape)})
    return recipe.model_copy(update={"augment": augment})


def pooling_of(variant: VariantOptions) -> str:
    """The pooling whose columns a variant's head sees."""
    return variant.pooling if variant.head == "linear" else FLAT


# What decides the features of an index


@dataclass(frozen=True)
class FeatureBlock:
    """Tiles whose features are computed, and written to a file, together."""

    split: str
    """`train` or `val`."""
    number: int
    """0 for the split's first."""
    start: int
    """First row of the split."""
    stop: int
    """One past the last."""

    @property
    def file(self) -> str:
        """Its file; it is there whole or not at all."""
        return f"{self.split}-{self.number:05d}.parquet"

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class FeatureSpec:
    """What features of a frozen network are wanted over the tiles of an index."""

    key: str
    """Names them: 16 hexadecimal digits of a SHA-256 over all that decides them."""
    decided_by: dict[str, Any]
    """All of that, by name."""
    tiles: tuple[int, int]
    """Tiles of the train and of the validation split."""
    views: int
    """Draws of augmentation of each train tile; a validation tile has one view."""
    poolings: tuple[str, ...]
    """What is kept of each map."""

    def views_in(self, split: str) -> int:
        """Views of a tile of that split; validation has one, without augmentation."""
        return self.views if split == "train" else 1

    def blocks(self, tile_bytes: int) -> tuple[FeatureBlock, ...]:
        """Cut both splits into what is computed at a time, whoever computes it.

        Args:
            tile_bytes: bytes of a decoded tile.
        """
        found = []
        for split, tiles in zip(SPLITS, self.tiles, strict=True):
            # At least 16 blocks, so that several actors and interruptions find pieces of work.
            most = min(BLOCK_TILES, BLOCK_BYTES // max(1, tile_bytes), -(-tiles // 16))
            step = FEWEST if FLAT in self.poolings else max(FEWEST, most)
            for number, start in enumerate(range(0, tiles, step)):
                found.append(FeatureBlock(split, number, start, min(start + step, tiles)))
        return tuple(found)


def feature_spec(setup: Setup, weights: str) -> FeatureSpec:
    """What features a run's heads can be trained from.

    Args:
        setup: the run, resolved and measured (mean and deviation are known).
        weights: digest of the towers' first weights.

    Raises:
        ValueError: mean and deviation are not measured yet.
    """
    if not setup.mean:
        raise ValueError("mean and deviation are not measured yet")
    recipe, shape = setup.recipe, setup.index.meta.tile_shape
    tiles, views = (setup.train_tiles, setup.val_tiles), views_of(recipe, shape)
    poolings = POOLINGS if setup.variant.head == "linear" else (FLAT,)
    decided_by = {
        "format": FORMAT,
        "towers": [(tower.name, tower.backbone, tower.bands) for tower in setup.variant.towers],
        "weights": weights,
        "index": setup.digest,
        "tiles": tiles,
        "bands": setup.bands,
        "input": recipe.input.model_dump(include={"size", "resize", "evaluate"}),
        "radiometry": vars(setup.radiometry),
        "mean": setup.mean,
        "std": setup.std,
        "augment": _effective(recipe.augment),
        "seed": recipe.seed if draws(recipe.augment, recipe.input, shape) else None,
        "views": views,
        "poolings": poolings,
        "precision": recipe.precision,  # of train tiles; the record says what `auto` came to
        "versions": [__version__, *map(version, ("torch", "torchvision", "timm"))],
    }
    text = json.dumps(decided_by, sort_keys=True)
    key = hashlib.sha256(text.encode()).hexdigest()[:16]
    return FeatureSpec(key, decided_by, tiles, views, poolings)


def _effective(augment: AugmentOptions) -> dict[str, Any]:
    """Keys that change a view; those of `crop=resized` only with it."""
    idle = {"mixup", "cutmix", "views"}
    return augment.model_dump(
        exclude=idle if augment.crop == "resized" else idle | {"scale", "ratio"}
    )


# A file: what a block of tiles gave


def to_parquet(
    rows_N: NDArray[np.int64],
    labels_NK: NDArray[np.uint8],
    errors: Sequence[str | None],
    features: Mapping[str, NDArray[np.float32]],
    *,
    bf16: bool = False,
) -> bytes:
    """A block of tiles as the file that `FeatureTable` reads.

    Args:
        rows_N: rows of the split.
        labels_NK: 0 or 1.
        errors: why a tile could not be read; None where it could. It has one row, of zeros.
        features: column -> float32 (N, V, D).
        bf16: what they were computed in, noted beside the columns.
    """
    views = next(iter(features.values())).shape[1]
    at_N = np.array([error is None for error in errors])
    # every view of what could be read, the first one of what could not
    tile_M, view_M = np.nonzero(at_N[:, None] | (np.arange(views) == 0))
    table = {
        "row": pa.array(rows_N[tile_M]),
        "view": pa.array(view_M.astype(np.int32)),
        VALID: pa.array(at_N[tile_M]),
        LABELS: _fixed(labels_NK[tile_M]),
    }
    for column, values_NVD in features.items():
        readable_NVD = np.where(at_N[:, None, None], values_NVD, np.float32(0))
        table[column] = _fixed(readable_NVD[tile_M, view_M])
    unreadable = {str(row): e for row, e in zip(rows_N, errors, strict=True) if e is not None}
    notes = {
        "bf16": bf16,
        "unreadable": unreadable,
        "widths": {column: values_NVD.shape[2] for column, values_NVD in features.items()},
    }
    whole = pa.table(table).replace_schema_metadata({_MARK: json.dumps(notes)})
    sink = io.BytesIO()
    pq.write_table(whole, sink, compression="none", use_dictionary=False)
    return sink.getvalue()


def _fixed(values_MD: NDArray[Any]) -> pa.Array:
    flat = np.ascontiguousarray(values_MD).reshape(-1)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat), values_MD.shape[1])


def notes_of(data: bytes) -> dict[str, Any]:
    """What a file of `to_parquet` says beside its numbers.

    Returns:
        `bf16`: whether they were computed in it; `unreadable`: row of the split (as text) -> why;
        `widths`: column of features (`TOWER_POOLING`) -> D.
    """
    found: dict[str, Any] = json.loads(pq.read_schema(io.BytesIO(data)).metadata[_MARK])
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
    """Its folder: Parquet files and `features.json`."""
    storage: Storage
    """How it is reached."""
    digest: str
    """Of its record: features that were extracted again are others."""
    widths: dict[str, int]
    """Column (`TOWER_POOLING`) -> D; towers in the network's order."""
    shapes: dict[str, tuple[int, int]]
    """Split -> N, V."""
    classes: int
    """K."""
    files: tuple[str, ...]
    """Names of its Parquet files."""
    folder: str | None = None
    """Where maps are kept on a node; None: the default folder under the system's."""
    gib: float | None = None
    """Room that caches of tiles may take beside the maps on a node; None: by its disk."""

    @property
    def key(self) -> str:
        """Of its `FeatureSpec`."""
        return name(self.uri)

    @classmethod
    def find(
        cls, uri: str, storage: Storage, *, folder: str | None = None, gib: float | None = None
    ) -> FeatureTable | None:
        """The finished table in a folder; None where there is none."""
        record = join(uri, RECORD)
        if not storage.exists(record):
            return None
        data = storage.read(record)
        found = json.loads(data)
        return cls(
            uri=uri,
            storage=storage,
            digest=hashlib.sha256(data).hexdigest()[:16],
            widths=found["columns"],
            shapes={split: (found["rows"][split], found["views"][split]) for split in SPLITS},
            classes=len(found["classes"]),
            files=tuple(found["files"]),
            folder=folder,
            gib=gib,
        )

    def open(self, split: str, pooling: str) -> Features:
        """Map one split, making the node's files where they are not there yet.

        Args:
            split: `train` or `val`.
            pooling: whose columns: avg, max, lse, or flat (whole maps).

        Raises:
            InputError: a file of the table is gone.
            SatrayError: the node has no room for the maps.
        """
        columns = [column for column in self.widths if column.endswith(f"_{pooling}")]
        tiles, views = self.shapes[split]
        wanted: dict[str, tuple[tuple[int, ...], str]] = {
            **{column: ((tiles, views, self.widths[column]), "float32") for column in columns},
            LABELS: ((tiles, self.classes), "uint8"),
            VALID: ((tiles,), "bool"),
        }
        root = Path(self.folder) if self.folder else default_folder()
        home = root / f"features-{self.key}-{self.digest}-{boot()}"
        try:
            with _building(root, self.key):
                home.mkdir(exist_ok=True)
                absent = {n: s for n, s in wanted.items() if not (home / f"{split}.{n}").exists()}
                if absent:
                    self._make_room(root, home, absent)
                    self._build(home, split, absent)
                os.utime(home)  # in use: caches that want room leave it alone
                maps = {n: _mapped(home / f"{split}.{n}", *shape) for n, shape in wanted.items()}
        except OSError as error:
            raise SatrayError(
                f"features cannot be kept in {root}: {error.strerror or error}; cache.folder names "
                "another folder"
            ) from error
        return Features(tuple(maps[column] for column in columns), maps[LABELS], maps[VALID])

    def _make_room(self, root: Path, home: Path, absent: Mapping[str, tuple[Any, str]]) -> None:
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
        for file in (each for each in self.files if each.startswith(f"{split}-")):
            data = io.BytesIO(self.storage.read(join(self.uri, file)))
            table = pq.read_table(data, columns=["row", "view", *absent]).combine_chunks()
            rows, views = (table.column(column).to_numpy() for column in ("row", "view"))
            for column, target in maps.items():
                values = table.column(column)
                if column == VALID:
                    target[rows] = values.to_numpy()
                    continue
                flat_MD = values.chunk(0).flatten().to_numpy().reshape(len(rows), -1)
                target[rows if column == LABELS else (rows, views)] = flat_MD
        for column in absent:  # in one step: what has its name is whole
            parts[column].rename(home / f"{split}.{column}")


def _mapped(path: Path, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    """A plain array over a file: numpy's own subclass costs time at each use."""
    with path.open("rb") as file:
        kept = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    # Rows are asked for in random order: of a file that memory cannot hold the system would read
    # 128 KiB for each, in vain.
    kept.madvise(mmap.MADV_RANDOM)
    return np.frombuffer(kept, dtype).reshape(shape)


@contextmanager
def _building(root: Path, key: str) -> Iterator[None]:
    """Of the processes of a node one builds, the others wait for it."""
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    with open(root / f".features-{key}.lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
