"""Which image does a label row mean? Tile ids, and the match of label keys to listed images.

A tile id is the path below `images=` without its image extension. A label key means the image of
that id (given with or without extension, or as the image's full URI); where there is none, the
image with the same base name, if just one image and one label row have it.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from satray.errors import InputError
from satray.storage.entry import Entry
from satray.tiles.labels import LabelTable

IMAGE_SUFFIXES = frozenset(
    {"jpg", "jpeg", "jpe", "png", "tif", "tiff", "gtif", "gtiff", "jp2", "bmp", "webp"}
)
"""Extensions, lower case, that say image. What is really inside, decoding tells."""

_SHOWN = 3  # names that a message gives as examples


@dataclass(frozen=True)
class Matched:
    """Label rows and images that belong together, in the label table's order."""

    rows: NDArray[np.int64]
    """(M,) rows of the label table, rising."""
    entries: tuple[Entry, ...]
    """M images, one a row."""
    tile_ids: tuple[str, ...]
    """M ids, one a row; all different."""
    images: int
    """Number of images under the prefix, those left out by `classes=` not counted."""
    label_rows: int
    """Number of rows of the label table."""
    images_without_label: tuple[str, ...]
    """Paths of images that no label row means."""
    labels_without_image: tuple[str, ...]
    """Keys of label rows that mean no image."""
    ambiguous: tuple[str, ...]
    """Those of `labels_without_image` whose base name is that of several images or label rows."""
    other_files: int
    """Number of files under the prefix that are no images (by extension) and no row means."""


def is_image(key: str) -> bool:
    """Whether a path ends like an image's."""
    return _suffix(key) in IMAGE_SUFFIXES


def tile_id(key: str) -> str:
    """Path without its image extension; other dots belong to the name."""
    return key[: key.rindex(".")] if is_image(key) else key


def match(labels: LabelTable, entries: Sequence[Entry]) -> Matched:
    """Find each label row's image.

    Args:
        labels: N label rows.
        entries: what lies under `images=`; files that are no images are passed over unless a
            label key names them with their extension.

    Raises:
        InputError: two images of one id; two label rows that mean one image.
    """
    images = [entry for entry in entries if is_image(entry.key)]
    by_id = _by_id(images)
    finder = _Finder(by_id, entries, (*labels.keys, *labels.left_out))

    owner: dict[str, int] = {}
    rows: list[int] = []
    found: list[Entry] = []
    missing: list[str] = []
    for row, key in enumerate(labels.keys):
        entry = finder.find(key)
        if entry is None:
            missing.append(key)
            continue
        before = owner.setdefault(entry.key, row)
        if before != row:
            raise InputError(
                f"labels={labels.name}: {labels.keys[before]!r} and {key!r} both mean the image "
                f"{entry.key}; one row a tile is accepted"
            )
        rows.append(row)
        found.append(entry)
    left_out = {entry.key for key in labels.left_out if (entry := finder.find(key)) is not None}
    known = owner.keys() | left_out
    return Matched(
        rows=np.array(rows, np.int64),
        entries=tuple(found),
        tile_ids=tuple(tile_id(entry.key) for entry in found),
        images=sum(entry.key not in left_out for entry in images),
        label_rows=len(labels),
        images_without_label=tuple(e.key for e in images if e.key not in known),
        labels_without_image=tuple(missing),
        ambiguous=tuple(key for key in missing if finder.is_ambiguous(key)),
        other_files=sum(not is_image(e.key) and e.key not in known for e in entries),
    )


def refuse_unmatched(matched: Matched, labels: LabelTable, images: str, budget: float) -> None:
    """Refuse more unmatched images or label rows than the recipe accepts, and no match at all.

    Args:
        matched: result of `match`.
        labels: the label table.
        images: the prefix, for the message.
        budget: share of images, and share of label rows, that may stay unmatched.

    Raises:
        InputError: saying how many of how many, the first few, and which budget would do.
    """
    alone, missing = matched.images_without_label, matched.labels_without_image
    shares = (
        len(alone) / matched.images if matched.images else 0.0,
        len(missing) / matched.label_rows if matched.label_rows else 0.0,
    )
    if matched.entries and max(shares) <= budget:
        return
    if not matched.images and not matched.entries:
        raise InputError(f"images={images} holds no image (JPEG, PNG or GeoTIFF, by extension)")
    parts = []
    if missing:
        parts.append(
            f"{len(missing)} of {matched.label_rows} label rows have no image{_few(missing)}"
        )
    if alone:
        parts.append(f"{len(alone)} of {matched.images} images have no label row{_few(alone)}")
    if matched.ambiguous:
        parts.append(
            f"the base name of {len(matched.ambiguous)} label rows is not unique"
            f"{_few(matched.ambiguous)}: narrow images= or give paths"
        )
    if matched.entries:
        # Rounded up, so that the budget named does suffice.
        parts.append(f"unmatched_budget={np.ceil(max(shares) * 1e4) / 1e4:g} would accept this")
    raise InputError(f"images={images}, labels={labels.name}: {'; '.join(parts)}")


class _Finder:
    """Looks label keys up: by id, by path or URI as written, by base name."""

    def __init__(
        self, by_id: dict[str, Entry], entries: Sequence[Entry], label_keys: Sequence[str]
    ) -> None:
        self._by_id = by_id
        self._by_path = {entry.key: entry for entry in entries}
        self._by_uri = {entry.uri: entry for entry in entries}
        self._images_of = Counter(_base(name) for name in by_id)
        self._labels_of = Counter(_base(_plain(key)) for key in label_keys)
        self._by_base = {_base(name): entry for name, entry in by_id.items()}

    def find(self, key: str) -> Entry | None:
        plain = _plain(key)
        entry = self._by_id.get(tile_id(plain)) or self._by_path.get(plain)
        entry = entry or self._by_uri.get(key.strip())
        if entry is None and not self.is_ambiguous(key):
            entry = self._by_base.get(_base(plain))
        return entry

    def is_ambiguous(self, key: str) -> bool:
        base = _base(_plain(key))
        return self._images_of[base] > 1 or (base in self._by_base and self._labels_of[base] > 1)


def _by_id(images: Sequence[Entry]) -> dict[str, Entry]:
    by_id: dict[str, Entry] = {}
    twice: list[tuple[str, str]] = []
    for entry in images:
        before = by_id.setdefault(tile_id(entry.key), entry)
        if before is not entry:
            twice.append((before.key, entry.key))
    if twice:
        first, second = twice[0]
        raise InputError(
            f"images: two images of one id {tile_id(first)!r}: {first} and {second} "
            f"({len(twice)} such); ids are paths without extension and must differ"
        )
    return by_id


def _plain(key: str) -> str:
    """A key as a relative path: `/` between folders, no `./` or `/` before."""
    path = key.strip().replace("\\", "/")
    while path.startswith("./"):
        path = path[2:]
    return path.lstrip("/")


def _base(path: str) -> str:
    return tile_id(path.rsplit("/", 1)[-1])


def _suffix(key: str) -> str:
    name = key.rsplit("/", 1)[-1]
    stem, dot, suffix = name.rpartition(".")
    return suffix.lower() if dot and stem else ""


def _few(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return f" ({shown}, ...)" if len(names) > _SHOWN else f" ({shown})"
