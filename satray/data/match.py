"""Which image does a label row mean? Tile ids, and the match of label keys to listed images.

A tile id is the path below `images=` without its image extension. A label key means the image of
that id (given with or without extension, or as the image's full URI); where there is none, the
image with the same base name, if just one image and one label row have it. Of several images of one
id or base name, the key's own extension chooses.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from satray.errors import InputError
from satray.storage import Entry

if TYPE_CHECKING:
    from satray.data.labels import LabelTable

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
    """M images, one a row; their ids differ."""
    images: int
    """Number of images under the prefix, without those left out by `classes=` and `beside`."""
    images_without_label: tuple[str, ...]
    """Paths of images that no label row means."""
    labels_without_image: tuple[str, ...]
    """Keys of label rows that mean no image."""
    ambiguous: tuple[str, ...]
    """Those of `labels_without_image` whose base name is that of several images or label rows."""
    beside: tuple[str, ...] = ()
    """Paths of images not taken, since a row means another image of their name (previews)."""

    @property
    def tile_ids(self) -> tuple[str, ...]:
        """M ids, all different."""
        return tuple(tile_id(entry.key) for entry in self.entries)


def is_image(key: str) -> bool:
    """Whether a path ends like an image's."""
    return _suffix(key) in IMAGE_SUFFIXES


def tile_id(key: str) -> str:
    """Path without its image extension; other dots belong to the name."""
    return key[: key.rindex(".")] if is_image(key) else key


def with_extensions(entries: Sequence[Entry], extensions: tuple[str, ...] | None) -> list[Entry]:
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


def match_images(labels: "LabelTable", entries: Sequence[Entry]) -> Matched:
    """Find each label row's image.

    Args:
        labels: N label rows.
        entries: what lies under `images=`; files that are no images are passed over unless a
            label key names them with their extension.

    Raises:
        InputError: two images of one id; two label rows that mean one image.
    """
    names = _Names(entries, (*labels.keys, *labels.left_out))
    row_of: dict[str, int] = {}
    found: dict[str, Entry] = {}
    missing: list[str] = []
    for row, key in enumerate(labels.keys):
        entry = names.find(key)
        if entry is None:
            missing.append(key)
            continue
        before = row_of.setdefault(entry.key, row)
        if before != row:
            raise InputError(
                f"labels={labels.name}: {labels.keys[before]!r} and {key!r} both mean the image "
                f"{entry.key}; one row a tile is accepted"
            )
        other = found.setdefault(tile_id(entry.key), entry)
        if other is not entry:
            raise _two_of_one_id([other, entry])
    left_out = {entry.key for key in labels.left_out if (entry := names.find(key)) is not None}
    alone = [e.key for e in names.images if e.key not in row_of and e.key not in left_out]
    beside = tuple(key for key in alone if tile_id(key) in found)
    return Matched(
        rows=np.array(list(row_of.values()), np.int64),
        entries=tuple(found.values()),
        images=len(names.images) - sum(map(is_image, left_out)) - len(beside),
        images_without_label=tuple(key for key in alone if tile_id(key) not in found),
        labels_without_image=tuple(missing),
        ambiguous=tuple(key for key in missing if names.same_base(key)),
        beside=beside,
    )


def refuse_unmatched(matched: Matched, labels: "LabelTable", images: str, budget: float) -> None:
    """Refuse more unmatched images or label rows than the recipe accepts, and no match at all.

    Args:
        matched: result of `match_images`.
        labels: the label table.
        images: the prefix, for the message.
        budget: share of images, and share of label rows, that may stay unmatched.

    Raises:
        InputError: saying how many of how many, the first few, and which budget would do.
    """
    alone, missing = matched.images_without_label, matched.labels_without_image
    share = max(len(alone) / max(matched.images, 1), len(missing) / max(len(labels), 1))
    if matched.entries and share <= budget:
        return
    if not matched.images and not matched.entries:
        raise InputError(f"images={images} holds no image (JPEG, PNG or GeoTIFF, by extension)")
    parts = []
    if missing:
        parts.append(f"{len(missing)} of {len(labels)} label rows have no image{_few(missing)}")
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
        parts.append(f"unmatched_budget={np.ceil(share * 1e4) / 1e4:g} would accept this")
    raise InputError(f"images={images}, labels={labels.name}: {'; '.join(parts)}")


class _Names:
    """The names that images go by."""

    def __init__(self, entries: Sequence[Entry], keys: Iterable[str]) -> None:
        self.images = [entry for entry in entries if is_image(entry.key)]
        self._keys = keys
        self._root = entries[0].uri.removesuffix(entries[0].key) if entries else ""
        self._by_id = _grouped(entries, tile_id)

    def find(self, key: str) -> Entry | None:
        """The image that a label key means; InputError where it means several of one id."""
        path = self._path(key)
        same = _closest(self._by_id.get(tile_id(path), ()), path)
        if not same:
            same = self.same_base(key)
            ids = {tile_id(entry.key) for entry in same}
            if len(ids) > 1 or self._rows_of_base[_base(path)] > 1:
                return None
        if len(same) > 1:
            raise _two_of_one_id(same)
        return same[0] if same else None

    def same_base(self, key: str) -> Sequence[Entry]:
        """The images of a label key's base name."""
        path = self._path(key)
        return _closest(self._by_base.get(_base(path), ()), path)

    def _path(self, key: str) -> str:
        """A key as a path below the archive: `/` between folders, no `./` or `/` before."""
        path = key.strip().removeprefix(self._root or "/").replace("\\", "/")
        while path.startswith("./"):
            path = path[2:]
        return path.lstrip("/")

    # Of no use, and of some size, where keys are ids.

    @cached_property
    def _by_base(self) -> dict[str, list[Entry]]:
        return _grouped(self.images, _base)

    @cached_property
    def _rows_of_base(self) -> Counter[str]:
        return Counter(_base(self._path(key)) for key in self._keys)


def _grouped(entries: Sequence[Entry], name: Callable[[str], str]) -> dict[str, list[Entry]]:
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(name(entry.key), []).append(entry)
    return groups


def _closest(images: Sequence[Entry], path: str) -> Sequence[Entry]:
    """Of several images, the one of that very path, else those with the extension."""
    for name in (str, _suffix) if len(images) > 1 else ():
        if same := [entry for entry in images if name(entry.key) == name(path)]:
            return same
    return images


def _two_of_one_id(images: Sequence[Entry]) -> InputError:
    one, other = images[:2]
    first, second = _suffix(one.key), _suffix(other.key)
    ways = f"extensions=[{first}] or [{second}] chooses, or " if first != second else ""
    return InputError(
        f"images: two images of one id {tile_id(one.key)!r}: {one.key} and {other.key}; ids are "
        f"paths without extension and must differ; {ways}a label table that names files with "
        "extension" + ("" if ways else " chooses")
    )


def _base(path: str) -> str:
    return tile_id(path.rsplit("/", 1)[-1])


def _suffix(key: str) -> str:
    name = key.rsplit("/", 1)[-1]
    stem, dot, suffix = name.rpartition(".")
    return suffix.lower() if dot and stem else ""


def _few(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return f" ({shown}, ...)" if len(names) > _SHOWN else f" ({shown})"
