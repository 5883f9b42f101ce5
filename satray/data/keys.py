"""Which image does a label row mean? Tile ids, and the match of label keys to listed images.

A tile id is the path below `images=` without its image extension. A label key means the image of
that id (given with or without extension, or as the image's full URI); where there is none, the
image with the same base name, if just one image and one label row have it. Of several images of one
id or base name, the key's own extension chooses.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from satray.data.labels import LabelTable
from satray.errors import InputError
from satray.storage import Entry

IMAGE_SUFFIXES = frozenset(
    {"jpg", "jpeg", "jpe", "png", "tif", "tiff", "gtif", "gtiff", "jp2", "bmp", "webp"}
)
"""Extensions, lower case, that say image. What is really inside, decoding tells."""

_SAME = {"jpeg": "jpg", "jpe": "jpg", "tiff": "tif", "gtif": "tif", "gtiff": "tif"}
"""Extensions of one format, which tables mix up."""

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
    beside: tuple[str, ...] = ()
    """Paths of images not taken, since a row means another image of their name (previews)."""


def is_image(key: str) -> bool:
    """Whether a path ends like an image's."""
    return _suffix(key) in IMAGE_SUFFIXES


def taken(entries: Sequence[Entry], extensions: tuple[str, ...] | None) -> list[Entry]:
    """The listed files, without images whose extension is not among those asked for.

    Args:
        entries: what lies under a prefix.
        extensions: `tif`, `.TIF` and the like; None takes all.

    Raises:
        InputError: no image has such an extension, or none is known.
    """
    if extensions is None:
        return list(entries)
    wanted = {extension.lower().lstrip(".") for extension in extensions}
    if not wanted or not wanted <= IMAGE_SUFFIXES:
        strange = ", ".join(sorted(wanted - IMAGE_SUFFIXES)) or "none"
        raise InputError(
            f"extensions: found {strange}; accepted: {', '.join(sorted(IMAGE_SUFFIXES))}"
        )
    there = Counter(_suffix(e.key) for e in entries if is_image(e.key))
    if there and not wanted & there.keys():
        raise InputError(
            f"extensions=[{', '.join(sorted(wanted))}]: no image has it; found: "
            + ", ".join(f"{n:,} .{suffix}" for suffix, n in sorted(there.items()))
        )
    return [e for e in entries if not is_image(e.key) or _suffix(e.key) in wanted]


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
    finder = _Finder(images, entries, (*labels.keys, *labels.left_out))

    owner: dict[str, int] = {}
    named: dict[str, Entry] = {}
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
        other = named.setdefault(tile_id(entry.key), entry)
        if other is not entry:
            raise _two_of_one_id([other, entry])
        rows.append(row)
        found.append(entry)
    left_out = {entry.key for key in labels.left_out if (entry := finder.find(key)) is not None}
    known = owner.keys() | left_out
    # of an image that a row means, a file of the same name and another extension is a preview
    bases = {_base(e.key): _suffix(e.key) for row, e in zip(rows, found, strict=True)
             if _suffix(labels.keys[row]) == _suffix(e.key)}  # fmt: skip
    beside = tuple(
        e.key
        for e in images
        if e.key not in known
        and (tile_id(e.key) in named or bases.get(_base(e.key), _suffix(e.key)) != _suffix(e.key))
    )
    alone = {e.key for e in images} - known - set(beside)
    return Matched(
        rows=np.array(rows, np.int64),
        entries=tuple(found),
        tile_ids=tuple(tile_id(entry.key) for entry in found),
        images=len(images) - len(left_out & {e.key for e in images}) - len(beside),
        label_rows=len(labels),
        images_without_label=tuple(e.key for e in images if e.key in alone),
        labels_without_image=tuple(missing),
        ambiguous=tuple(key for key in missing if finder.is_ambiguous(key)),
        other_files=sum(not is_image(e.key) and e.key not in known for e in entries),
        beside=beside,
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
            f"{_few(matched.ambiguous)}: narrow images=, choose extensions=[...], or give paths"
        )
    used = sorted({_suffix(entry.key) for entry in matched.entries})
    if alone and used and not {_suffix(key) for key in alone} & set(used):
        parts.append(f"extensions=[{', '.join(used)}] leaves those images out")
    if matched.entries:
        # Rounded up, so that the budget named does suffice.
        parts.append(f"unmatched_budget={np.ceil(max(shares) * 1e4) / 1e4:g} would accept this")
    raise InputError(f"images={images}, labels={labels.name}: {'; '.join(parts)}")


class _Finder:
    """Looks label keys up: by id, by path or URI as written, by base name."""

    def __init__(
        self, images: Sequence[Entry], entries: Sequence[Entry], label_keys: Sequence[str]
    ) -> None:
        self._by_id: dict[str, list[Entry]] = {}
        self._by_base: dict[str, list[Entry]] = {}
        for entry in images:
            self._by_id.setdefault(tile_id(entry.key), []).append(entry)
            self._by_base.setdefault(_base(entry.key), []).append(entry)
        self._by_path = {entry.key: entry for entry in entries}
        self._by_uri = {entry.uri: entry for entry in entries}
        self._labels_of = Counter(_base(_plain(key)) for key in label_keys)

    def find(self, key: str) -> Entry | None:
        """The image that a key means; InputError where it means several of one id."""
        plain = _plain(key)
        same = _told(self._by_id.get(tile_id(plain), []), plain)
        if len(same) > 1:
            raise _two_of_one_id(same)
        entry = same[0] if same else self._by_path.get(plain) or self._by_uri.get(key.strip())
        return entry if entry or self.is_ambiguous(key) else self._of_base(plain)

    def is_ambiguous(self, key: str) -> bool:
        """Whether the base name of a key is that of several images, or of several rows."""
        plain = _plain(key)
        same = _told(self._by_base.get(_base(plain), []), plain)
        ids = {tile_id(entry.key) for entry in same}
        return len(ids) > 1 or (bool(ids) and self._labels_of[_base(plain)] > 1)

    def _of_base(self, plain: str) -> Entry | None:
        same = _told(self._by_base.get(_base(plain), []), plain)
        if len(same) > 1:
            raise _two_of_one_id(same)
        return same[0] if same else None


def _told(images: list[Entry], key: str) -> list[Entry]:
    """Of several images, the one of that very path, else those with the key's extension."""
    exact = [entry for entry in images if entry.key == key]
    same = exact or [entry for entry in images if _suffix(entry.key) == _suffix(key)]
    return same or [e for e in images if _format(e.key) == _format(key)] or images


def _two_of_one_id(images: Sequence[Entry]) -> InputError:
    one, other = images[:2]
    first, second = _suffix(one.key), _suffix(other.key)
    ways = f"extensions=[{first}] or [{second}] chooses, or " if first != second else ""
    return InputError(
        f"images: two images of one id {tile_id(one.key)!r}: {one.key} and {other.key}; ids are "
        f"paths without extension and must differ; {ways}a label table that names files with "
        "extension" + ("" if ways else " chooses")
    )


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


def _format(key: str) -> str:
    return _SAME.get(_suffix(key), _suffix(key))


def _few(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return f" ({shown}, ...)" if len(names) > _SHOWN else f" ({shown})"
