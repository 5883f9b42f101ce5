"""Which image does a label row mean? Tile ids, and the match of label keys to listed images.

A tile id is the path below `images=` without its image extension. A label key means the image of
that id (given with or without extension, or as the image's full URI); where there is none, the
image with the same base name, if just one image and one label row have it. Of several images of one
id or base name, the key's own extension chooses.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from satray.errors import InputError, listed
from satray.storage import Entry

if TYPE_CHECKING:
    from satray.data.labels import LabelTable

IMAGE_SUFFIXES = frozenset(
    {"jpg", "jpeg", "jpe", "png", "tif", "tiff", "gtif", "gtiff", "jp2", "bmp", "webp"}
)
"""Extensions, lower case, that say image. What is really inside, decoding tells."""


@dataclass(frozen=True)
class Matched:
    """Label rows and images that belong together, in the label table's order."""

    rows: NDArray[np.int64]
    """(M,) rows of the label table, rising."""
    entries: tuple[Entry, ...]
    """M images, one a row; their ids differ."""
    images_without_label: tuple[str, ...]
    """Paths of images that no label row means."""
    labels_without_image: tuple[str, ...]
    """Keys of label rows that mean no image."""
    ambiguous: tuple[str, ...]
    """Those of `labels_without_image` whose base name is that of several images or label rows."""
    beside: tuple[str, ...] = ()
    """Paths of images not taken, since a row means another image of their name (previews)."""


def suffix_of(key: str) -> str:
    """Lower-case extension of a path, without its dot; empty where it has none."""
    stem, dot, suffix = key.rsplit("/", 1)[-1].rpartition(".")
    return suffix.lower() if dot and stem else ""


def is_image(key: str) -> bool:
    """Whether a path ends like an image's."""
    return suffix_of(key) in IMAGE_SUFFIXES


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
    there = Counter(suffix_of(e.key) for e in entries if is_image(e.key))
    if not wanted or not wanted <= IMAGE_SUFFIXES or (there and not wanted & there.keys()):
        found = ", ".join(f"{n:,} .{suffix}" for suffix, n in sorted(there.items()))
        raise InputError(
            f"extensions=[{', '.join(sorted(wanted))}]: accepted: "
            f"{', '.join(sorted(IMAGE_SUFFIXES))}; found: {found or 'no image'}"
        )
    return [e for e in entries if not is_image(e.key) or suffix_of(e.key) in wanted]


def match_images(labels: "LabelTable", entries: Sequence[Entry]) -> Matched:
    """Find each label row's image.

    Args:
        labels: N label rows.
        entries: what lies under `images=`; files that are no images are passed over unless a
            label key names them with their extension.

    Raises:
        InputError: two images of one id; two label rows that mean one image.
    """
    root = entries[0].uri.removesuffix(entries[0].key) if entries else ""
    paths = [_path(key, root) for key in (*labels.keys, *labels.left_out)]
    by_id, by_base = defaultdict[str, list[Entry]](list), defaultdict[str, list[Entry]](list)
    for entry in entries:
        by_id[tile_id(entry.key)].append(entry)
    rows_of_base = Counter[str]()
    if any(tile_id(path) not in by_id for path in paths):  # large, and of no use where keys are ids
        rows_of_base.update(map(_base, paths))
        for entry in filter(lambda entry: is_image(entry.key), entries):
            by_base[_base(entry.key)].append(entry)

    def image_of(path: str) -> tuple[Entry | None, bool]:
        """The image that a key's path means, and whether others may be meant."""
        same = _closest(by_id.get(tile_id(path), []), path)
        if not same:
            same = _closest(by_base.get(_base(path), []), path)
            if len({tile_id(e.key) for e in same}) > 1 or (same and rows_of_base[_base(path)] > 1):
                return None, True
        if len(same) > 1:
            raise _two_of_one_id(same)
        return (same[0] if same else None), False

    row_of: dict[str, int] = {}
    found: dict[str, Entry] = {}
    missing: dict[str, bool] = {}
    for row, key in enumerate(labels.keys):
        image, ambiguous = image_of(paths[row])
        if image is None:
            missing[key] = ambiguous
            continue
        before = row_of.setdefault(image.key, row)
        if before != row:
            raise InputError(
                f"labels={labels.name}: {labels.keys[before]!r} and {key!r} both mean the image "
                f"{image.key}; one row a tile is accepted"
            )
        if found.setdefault(tile_id(image.key), image) is not image:
            raise _two_of_one_id([found[tile_id(image.key)], image])
    left_out = map(image_of, paths[len(labels.keys) :])
    meant = {*row_of, *(image.key for image, _ in left_out if image is not None)}
    alone = [e.key for e in entries if is_image(e.key) and e.key not in meant]
    return Matched(
        rows=np.array(list(row_of.values()), np.int64),
        entries=tuple(found.values()),
        images_without_label=tuple(key for key in alone if tile_id(key) not in found),
        labels_without_image=tuple(missing),
        ambiguous=tuple(key for key, ambiguous in missing.items() if ambiguous),
        beside=tuple(key for key in alone if tile_id(key) in found),
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
    there = len(matched.entries) + len(alone)
    share = max(len(alone) / max(there, 1), len(missing) / max(len(labels), 1))
    if matched.entries and share <= budget:
        return
    if not there:
        raise InputError(f"images={images} holds no image (JPEG, PNG or GeoTIFF, by extension)")
    parts = []
    if missing:
        parts.append(f"{len(missing)} of {len(labels)} label rows have no image{_few(missing)}")
    if alone:
        parts.append(
            f"{len(alone)} of {there} images have no label row{_few(alone)}; extensions=[...] "
            "leaves others out"
        )
    if matched.ambiguous:
        parts.append(
            f"the base name of {len(matched.ambiguous)} label rows is not unique"
            f"{_few(matched.ambiguous)}: narrow images=, choose extensions=[...], or give paths"
        )
    if matched.entries:
        # rounded up, so that the budget named does suffice
        parts.append(f"unmatched_budget={np.ceil(share * 1e4) / 1e4:g} would accept this")
    raise InputError(f"images={images}, labels={labels.name}: {'; '.join(parts)}")


def _path(key: str, root: str) -> str:
    """A key as a path below the archive: `/` between folders, no `./` or `/` before."""
    path = key.strip().removeprefix(root or "/").replace("\\", "/")
    while path.startswith("./"):
        path = path[2:]
    return path.lstrip("/")


def _closest(images: list[Entry], path: str) -> list[Entry]:
    """Of several images, the one of that very path, else those with the extension."""
    for name in (str, suffix_of) if len(images) > 1 else ():
        if same := [entry for entry in images if name(entry.key) == name(path)]:
            return same
    return images


def _two_of_one_id(images: Sequence[Entry]) -> InputError:
    return InputError(
        f"images: two images of one id {tile_id(images[0].key)!r}: {images[0].key} and "
        f"{images[1].key}; ids are paths without extension and must differ; extensions=[...], or a "
        "label table that names files with extension, chooses"
    )


def _base(path: str) -> str:
    return tile_id(path.rsplit("/", 1)[-1])


def _few(names: tuple[str, ...]) -> str:
    return f" ({listed(names, 3)})"
