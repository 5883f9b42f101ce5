"""What prepare knows before it opens an image: images, labels, their match, the split."""

import hashlib
import json
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from satray.config.prepare import PrepareRecipe
from satray.data.footprints import Footprints, ground_blocks, read_footprints
from satray.data.georeference import world_files
from satray.data.labels import LabelTable, labels_from_folders, read_labels
from satray.data.match import Matched, is_image, match, refuse_unmatched, with_extensions
from satray.data.raster import MASK
from satray.data.split import assign_parts, split_by_ground
from satray.errors import InputError
from satray.runs.run import digest_entries
from satray.storage import Storage

TILES = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("split", pa.dictionary(pa.int8(), pa.string()), nullable=False),
        pa.field("labels", pa.list_(pa.uint8()), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("etag", pa.string()),
        pa.field("mask", pa.bool_(), nullable=False),
        pa.field("world", pa.string()),
    ]
)
"""An image of an archive. `key`: its path below the archive, of which `match.tile_id` makes its id;
`size`, `etag`: as listed; `mask`: whether a `.msk` lies beside it; `world`: URI of the world file
that does."""


@dataclass(frozen=True)
class Survey:
    """An archive as its listing and its label table describe it."""

    tiles: pa.Table
    """The labelled images, in the label table's order: `TILES`. A column takes a tenth of the
    memory of objects, and archives have millions of images."""
    labels: LabelTable
    """The label table, without its rows: these are in `tiles`."""
    matched: Matched
    """What has no partner; those that belong together are in `tiles`."""
    digests: dict[str, str]
    """Digest of each input."""

    def __len__(self) -> int:
        return int(self.tiles.num_rows)

    @property
    def size(self) -> int:
        """Of all images, as listed."""
        return int(pc.sum(self.tiles.column("size")).as_py() or 0)

    @property
    def split_counts(self) -> dict[str, int]:
        """Part -> number of images."""
        counts = self.tiles.column("split").value_counts().to_pylist()
        return {one["values"]: one["counts"] for one in counts}

    def labels_of(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Targets (M, K) of some images."""
        flat = self.tiles.column("labels").combine_chunks().values
        return np.asarray(flat).reshape(len(self), len(self.labels.classes))[rows]

    def key(self, row: int) -> str:
        """Path of an image below the archive."""
        return str(self.tiles.column("key")[row].as_py())

    def block(self, rows: NDArray[np.int64]) -> pa.Table:
        """What reads some images: `row`, `uri`, `counted` (its pixels are), `mask`, `world`."""
        some = self.tiles.select(["uri", "split", "mask", "world"]).take(pa.array(rows))
        counted = pc.equal(some.column("split"), "train")
        some = some.append_column("counted", counted).append_column("row", pa.array(rows))
        return some.drop_columns(["split"]).combine_chunks()

    def unmatched_json(self) -> bytes:
        """What has no partner, as JSON."""
        return json.dumps(
            {
                "images_without_label": self.matched.images_without_label,
                "labels_without_image": self.matched.labels_without_image,
                "ambiguous_labels": self.matched.ambiguous,
                "left_out_by_classes": self.labels.left_out,
            },
            indent=1,
        ).encode()


def survey(recipe: PrepareRecipe, storage: Storage) -> Survey:
    """List the images, read the label table, match them, and split the rows.

    Raises:
        InputError: nothing to prepare, a label table that is wrong, too many without partner.
    """
    entries = with_extensions(storage.list(recipe.images), recipe.extensions)
    images = [entry for entry in entries if is_image(entry.key)]
    if not entries or (recipe.labels is None and not images):
        what = f"{len(entries)} files, no image among them" if entries else "nothing"
        raise InputError(
            f"images={recipe.images}: holds {what}; accepted: a folder or prefix with JPEG, PNG "
            "or GeoTIFF files"
        )
    digests = {}
    if recipe.labels is None:
        labels = labels_from_folders([entry.key for entry in images], recipe)
    else:
        data = storage.read(recipe.labels)
        labels = read_labels(data, recipe.labels, recipe)
        digests["labels"] = hashlib.sha256(data).hexdigest()
    matched = match(labels, entries)
    refuse_unmatched(matched, labels, recipe.images, recipe.unmatched_budget)
    # labels beside the images, or an `out` below them, change nothing that is made
    used = {entry.key for entry in matched.entries}
    masks = {e.key for e in entries if e.key.removesuffix(MASK) in used} - used
    beside = world_files(entries)
    used |= masks | {entry.key for entry in beside.values()}
    digests["images"] = digest_entries(e for e in entries if e.key in used or is_image(e.key))
    by_ground = recipe.split.by == "ground"
    parts = () if by_ground else assign_parts(labels, recipe.split)
    images_M = matched.entries
    tiles = pa.table(
        {
            "key": [entry.key for entry in images_M],
            "uri": [entry.uri for entry in images_M],
            "split": [parts[row] for row in matched.rows] if parts else ["train"] * len(images_M),
            "labels": pa.FixedSizeListArray.from_arrays(
                labels.labels[matched.rows].ravel(), len(labels.classes)
            ),
            "size": [entry.size for entry in images_M],
            "etag": [entry.etag for entry in images_M],
            "mask": [entry.key + MASK in masks for entry in images_M],
            "world": [beside[e.uri].uri if e.uri in beside else None for e in images_M],
        },
        schema=TILES,
    )
    found = Survey(
        tiles,
        replace(
            labels,
            keys=(),
            labels=labels.labels[:0],
            columns=dict.fromkeys(labels.columns, ()),
        ),
        replace(matched, rows=matched.rows[:0], entries=()),
        digests,
    )
    return _split_by_ground(found, recipe, storage) if by_ground else found


def places_of(
    found: Survey, recipe: PrepareRecipe, storage: Storage
) -> tuple[NDArray[np.int64], Footprints]:
    """Open all images for where they lie: the rows of those that can be read, and their places."""
    uris, worlds = (found.tiles[name].to_pylist() for name in ("uri", "world"))
    return read_footprints(uris, worlds, storage, recipe.bands, recipe.pages)


def _split_by_ground(found: Survey, recipe: PrepareRecipe, storage: Storage) -> Survey:
    """With parts by blocks of ground; images that cannot be read, set aside later, are in train."""
    rows_M, tiles = places_of(found, recipe, storage)
    blocks_M = ground_blocks(tiles, recipe.split.block)
    nowhere_M = rows_M[blocks_M < 0]
    if len(nowhere_M):
        raise InputError(
            f"split.by=ground: {len(nowhere_M):,} of {len(rows_M):,} images have no georeference, "
            f"e.g. {found.key(nowhere_M[0])}; accepted: images with a CRS and a transform "
            "(split.group=COLUMN keeps those of one scene together without)"
        )
    parts_N = np.full(len(found), "train", dtype=object)
    if len(rows_M):
        labels_MK = found.labels_of(rows_M)
        parts_N[rows_M] = split_by_ground(labels_MK, found.labels.task, blocks_M, recipe.split)
    split = pa.array(parts_N, pa.string()).cast(TILES.field("split").type)
    place = TILES.get_field_index("split")
    return replace(found, tiles=found.tiles.set_column(place, "split", split))
