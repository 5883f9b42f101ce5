"""Which image does a label row mean? Tile ids, and the match of label keys to listed images.

A listing and a label table of millions are held in columns, and matched some names at a time: as
objects they would take ten times the memory.

A tile id is the path below `images=` without its image extension. A label key means the image of
that id (given with or without extension, or as the image's full URI); where there is none, the
image with the same base name, if just one image and one label row have it. Of several images of one
id or base name, the key's own extension chooses.
"""

import itertools
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from satray.data.label_table import BLOCK, texts
from satray.errors import InputError, listed
from satray.storage import Entry

if TYPE_CHECKING:
    from satray.data.labels import LabelTable

IMAGE_SUFFIXES = frozenset(
    {"jpg", "jpeg", "jpe", "png", "tif", "tiff", "gtif", "gtiff", "geotiff", "jp2", "bmp", "webp"}
)
"""Extensions, lower case, that say image. What is really inside, decoding tells."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_COLUMNS = {"key": pa.large_string(), "size": pa.int64(), "etag": pa.large_string()}
_MODIFIED = pa.timestamp("us", "UTC")


@dataclass(frozen=True)
class Listing:
    """The F files under a prefix, in no order: columns in another are there twice in the making."""

    root: str
    """What all URIs begin with; the key follows."""
    columns: pa.RecordBatch
    """Columns key, size and etag, as of `Entry`; modified, of files without an etag only."""

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> "Listing":
        """From entries in any order, of which few are held at a time.

        A name that is no text, as disks may have, becomes one that cannot be read.
        """
        root, every = "", iter(entries)
        parts: dict[str, list[pa.Array]] = {name: [] for name in (*_COLUMNS, "modified")}
        while some := list(itertools.islice(every, BLOCK)):
            root = some[0].uri.removesuffix(some[0].key)
            keys = [entry.key.encode(errors="replace").decode() for entry in some]
            cells = {"key": keys} | {n: [getattr(e, n) for e in some] for n in ("size", "etag")}
            for name, kind in _COLUMNS.items():
                parts[name].append(pa.array(cells[name], kind))
            times = [None if entry.etag else entry.modified for entry in some]
            parts["modified"].append(pa.array(times, _MODIFIED if any(times) else pa.null()))
        if all(part.type == pa.null() for part in parts["modified"]):  # takes no memory
            kinds = _COLUMNS | {"modified": pa.null()}
        else:
            kinds = _COLUMNS | {"modified": _MODIFIED}
            parts["modified"] = [part.cast(_MODIFIED) for part in parts["modified"]]
        columns = {}
        for name, kind in kinds.items():  # one after another, so that none but one is there twice
            columns[name] = pa.chunked_array(parts.pop(name), kind).combine_chunks()
            pa.default_memory_pool().release_unused()  # else the system does not have it back
        return cls(root, pa.RecordBatch.from_pydict(columns))

    def __len__(self) -> int:
        return int(self.columns.num_rows)

    @property
    def keys(self) -> pa.LargeStringArray:
        """Paths below the prefix."""
        return self.columns["key"]

    @cached_property
    def images(self) -> NDArray[np.bool_]:
        """(F,) whether a file's name is an image's."""
        return np.fromiter(map(is_image, texts(self.keys)), bool, len(self))

    def by_key(self, some_F: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Rows of some files, in order of their keys."""
        order_F = np.asarray(pc.sort_indices(self.keys)).view(np.int64)
        return order_F[some_F[order_F]]

    def entries(self, rows: NDArray[np.int64]) -> Iterator[Entry]:
        """Some files as entries, whose time is 1970 where they have an etag."""
        for start in range(0, len(rows), BLOCK):
            some = self.columns.take(pa.array(rows[start : start + BLOCK]))
            ticks = some["modified"].cast(pa.int64()).fill_null(0).to_pylist()
            cells = [some[name].to_pylist() for name in ("key", "size", "etag")]
            for key, size, etag, tick in zip(*cells, ticks, strict=True):
                modified = _EPOCH + timedelta(microseconds=tick)
                yield Entry(self.root + key, key, size, etag, modified)

    def texts(self, column: str, rows: NDArray[np.int64], before: str = "") -> pa.ChunkedArray:
        """Some files' key or etag as strings, after another text; null for rows below 0."""
        found, cells = [], self.columns[column]
        for start in range(0, len(rows), BLOCK):
            some = rows[start : start + BLOCK]
            part = cells.take(pa.array(some, mask=some < 0)).cast(pa.string())
            found.append(pc.binary_join_element_wise(before, part, "") if before else part)
        return pa.chunked_array(found, pa.string())


@dataclass(frozen=True)
class Matched:
    """Label rows and images that belong together, in the label table's order."""

    rows: NDArray[np.int64]
    """(M,) rows of the label table, rising."""
    images: NDArray[np.int64]
    """(M,) rows of the listing, one a label row; their ids differ."""
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


def with_extensions(
    entries: Iterable[Entry], extensions: tuple[str, ...] | None
) -> Iterator[Entry]:
    """The listed files, without images whose extension is not among those asked for.

    Args:
        entries: what lies under a prefix.
        extensions: `tif`, `.TIF` and the like; None takes all.

    Raises:
        InputError: after the last, no image has such an extension, or none is known.
    """
    if extensions is None:
        yield from entries
        return
    wanted = {extension.lower().lstrip(".") for extension in extensions}
    taken, other = False, ""
    for entry in entries:
        suffix = suffix_of(entry.key)
        if suffix in wanted or suffix not in IMAGE_SUFFIXES:
            taken |= suffix in wanted
            yield entry
        else:
            other = entry.key
    if not wanted <= IMAGE_SUFFIXES or (other and not taken):
        raise InputError(
            f"extensions=[{', '.join(sorted(wanted))}]: accepted: "
            f"{', '.join(sorted(IMAGE_SUFFIXES))}; found: {other or 'no other'}"
        )


def some_at_a_time(
    *columns: tuple[pa.Array, Callable[[str], str]],
) -> Iterator[tuple[NDArray[np.int64], ...]]:
    """Rows of columns, some of each at a time: those whose texts have a name in common together.

    Args:
        columns: texts, and what gives the name of one.
    """
    count = min(1 + sum(len(cells) for cells, _ in columns) // (2 * BLOCK), 255)
    parts = [
        np.fromiter((zlib.crc32(n.encode()) % count for n in map(name, texts(cells))), np.uint8)
        for cells, name in columns
    ]
    for number in range(count):
        yield tuple(np.flatnonzero(part_N == number) for part_N in parts)


def match_images(labels: "LabelTable", listing: Listing) -> Matched:
    """Find each label row's image.

    Args:
        labels: N label rows.
        listing: what lies under `images=`; files that are no images are passed over unless a
            label key names them with their extension.

    Raises:
        InputError: two images of one id; two label rows that mean one image.
    """
    keys = labels.keys
    if labels.left_out:
        keys = pa.concat_arrays([keys, pa.array(labels.left_out, keys.type)])
    image_N, ambiguous_N = np.full(len(keys), -1), np.zeros(len(keys), bool)
    meant_F, taken_F = np.zeros((2, len(listing)), bool)

    def of_files(some: NDArray[np.int64]) -> list[str]:
        found: list[str] = listing.keys.take(pa.array(some)).to_pylist()
        return found

    # all that a row can mean, and all rows that can mean it, have one base name
    parts = some_at_a_time(
        (keys, lambda key: _base(_path(key, listing.root))), (listing.keys, _base)
    )
    for rows, files in parts:
        names = keys.take(pa.array(rows)).to_pylist()
        paths = [_path(name, listing.root) for name in names]
        file_of = dict(zip(of_files(files), files.tolist(), strict=True))
        image_of = _finder(paths, list(file_of))
        name_of: dict[str, str] = {}
        found: dict[str, str] = {}
        for row, name, path in zip(rows.tolist(), names, paths, strict=True):
            image, ambiguous_N[row] = image_of(path)
            if image is None:
                continue
            meant_F[file_of[image]] = True
            if row >= len(labels):  # left out
                continue
            image_N[row] = file_of[image]
            if image in name_of:
                raise InputError(
                    f"labels={labels.name}: {name_of[image]!r} and {name!r} both mean the image "
                    f"{image}; one row a tile is accepted"
                )
            name_of[image] = name
            if (other := found.setdefault(tile_id(image), image)) != image:
                raise _two_of_one_id([other, image])
        alone = files[listing.images[files] & ~meant_F[files]]
        taken_F[alone] = [tile_id(key) in found for key in of_files(alone)]
    image_N, ambiguous_N = image_N[: len(labels)], ambiguous_N[: len(labels)]
    rows, alone_F = np.flatnonzero(image_N >= 0), listing.images & ~meant_F

    def named(cells: pa.Array, some: NDArray[np.bool_]) -> tuple[str, ...]:
        return tuple(cells.filter(pa.array(some)).to_pylist())

    return Matched(
        rows=rows,
        images=image_N[rows],
        images_without_label=tuple(sorted(named(listing.keys, alone_F & ~taken_F))),
        labels_without_image=named(labels.keys, image_N < 0),
        ambiguous=named(labels.keys, ambiguous_N),
        beside=tuple(sorted(named(listing.keys, alone_F & taken_F))),
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
    there = len(matched.rows) + len(alone)
    share = max(len(alone) / max(there, 1), len(missing) / max(len(labels), 1))
    if len(matched.rows) and share <= budget:
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
    if len(matched.rows):
        # rounded up, so that the budget named does suffice
        parts.append(f"unmatched_budget={np.ceil(share * 1e4) / 1e4:g} would accept this")
    raise InputError(f"images={images}, labels={labels.name}: {'; '.join(parts)}")


def _path(key: str, root: str) -> str:
    """A key as a path below the archive: `/` between folders, no `./` or `/` before."""
    path = key.strip().removeprefix(root or "/").replace("\\", "/")
    while path.startswith("./"):
        path = path[2:]
    return path.lstrip("/")


def _finder(paths: Sequence[str], files: Sequence[str]) -> Callable[[str], tuple[str | None, bool]]:
    """What finds the image that a path means, and whether others may be meant, by base names."""
    by_id, by_base = defaultdict[str, list[str]](list), defaultdict[str, list[str]](list)
    for file in files:
        by_id[tile_id(file)].append(file)
    rows_of_base = Counter[str]()
    if any(tile_id(path) not in by_id for path in paths):  # large, and of no use where keys are ids
        rows_of_base.update(map(_base, paths))
        for file in filter(is_image, files):
            by_base[_base(file)].append(file)

    def image_of(path: str) -> tuple[str | None, bool]:
        same = _closest(by_id.get(tile_id(path), []), path)
        if not same:
            same = _closest(by_base.get(_base(path), []), path)
            if len(set(map(tile_id, same))) > 1 or (same and rows_of_base[_base(path)] > 1):
                return None, True
        if len(same) > 1:
            raise _two_of_one_id(same)
        return (same[0] if same else None), False

    return image_of


def _closest(images: list[str], path: str) -> list[str]:
    """Of several images, the one of that very path, else those with the extension."""
    for name in (str, suffix_of) if len(images) > 1 else ():
        if same := [image for image in images if name(image) == name(path)]:
            return same
    return images


def _two_of_one_id(images: Sequence[str]) -> InputError:
    first, second = sorted(images)[:2]
    return InputError(
        f"images: two images of one id {tile_id(first)!r}: {first} and {second}; ids "
        "are paths without extension and must differ; extensions=[...], or a label table that "
        "names files with extension, chooses"
    )


def _base(path: str) -> str:
    return tile_id(path.rsplit("/", 1)[-1])


def _few(names: tuple[str, ...]) -> str:
    return f" ({listed(names, 3)})"
