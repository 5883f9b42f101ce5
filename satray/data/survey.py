"""What prepare knows before it opens an image: images, labels, their match, the split."""

import hashlib
import json
from dataclasses import dataclass, replace

import numpy as np
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
from satray.storage import Entry, Storage


@dataclass(frozen=True)
class Survey:
    """An archive as its listing and its label table describe it."""

    labels: LabelTable
    """The label table, all rows."""
    matched: Matched
    """Rows and images that belong together."""
    parts: tuple[str, ...]
    """train, val or test: of each matched row."""
    masked: tuple[bool, ...]
    """Whether a `.msk` lies beside each matched image."""
    worlds: tuple[str | None, ...]
    """URI of the world file beside each image; None where there is none."""
    digests: dict[str, str]
    """Digest of each input."""

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The images, in the label table's order."""
        return self.matched.entries

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
    found = Survey(
        labels,
        matched,
        tuple(parts[row] for row in matched.rows) if parts else (),
        tuple(entry.key + MASK in masks for entry in matched.entries),
        tuple(beside[e.uri].uri if e.uri in beside else None for e in matched.entries),
        digests,
    )
    return replace(found, parts=_parts_by_ground(found, recipe, storage)) if by_ground else found


def places_of(
    found: Survey, recipe: PrepareRecipe, storage: Storage
) -> tuple[NDArray[np.int64], Footprints]:
    """Open all images for where they lie: the rows of those that can be read, and their places."""
    uris = [entry.uri for entry in found.entries]
    return read_footprints(uris, found.worlds, storage, recipe.bands, recipe.pages)


def _parts_by_ground(found: Survey, recipe: PrepareRecipe, storage: Storage) -> tuple[str, ...]:
    """Parts of the matched rows; images that cannot be read, set aside later, count as train."""
    rows_M, tiles = places_of(found, recipe, storage)
    blocks_M = ground_blocks(tiles, recipe.split.block)
    nowhere_M = rows_M[blocks_M < 0]
    if len(nowhere_M):
        raise InputError(
            f"split.by=ground: {len(nowhere_M):,} of {len(rows_M):,} images have no georeference, "
            f"e.g. {found.entries[nowhere_M[0]].key}; accepted: images with a CRS and a transform "
            "(split.group=COLUMN keeps those of one scene together without)"
        )
    parts_N = np.full(len(found.entries), "train", dtype=object)
    if len(rows_M):
        labels_MK = found.labels.labels[found.matched.rows[rows_M]]
        parts_N[rows_M] = split_by_ground(labels_MK, found.labels.task, blocks_M, recipe.split)
    return tuple(parts_N.tolist())
