"""Tile ids, and which image a label row means."""

import re
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from satray.data.label_table import BLOCK
from satray.data.labels import LabelTable
from satray.data.match import (
    Listing,
    Matched,
    is_image,
    match_images,
    refuse_unmatched,
    tile_id,
    with_extensions,
)
from satray.errors import InputError
from satray.runs.run import digest_entries
from satray.storage import Entry


def files(*keys: str) -> list[Entry]:
    when = datetime(2024, 1, 1, tzinfo=UTC)
    return [Entry(f"s3://bucket/archive/{key}", key, 1, None, when) for key in keys]


def entries(*keys: str) -> Listing:
    return Listing.of(files(*keys))


def images(matched: Matched, found: Listing) -> list[str]:
    return [entry.key for entry in found.entries(matched.images)]


def labels(*keys: str, left_out: tuple[str, ...] = ()) -> LabelTable:
    matrix = np.zeros((len(keys), 1), np.uint8)
    names = pa.array(keys, pa.string())
    return LabelTable(names, ("ship",), matrix, "binary", {}, "wide", "labels.csv", left_out)


def refused(keys: tuple[str, ...], files: tuple[str, ...], budget: float = 0.0) -> str:
    """The message that a match is refused with."""
    table = labels(*keys)
    with pytest.raises(InputError) as caught:
        refuse_unmatched(match_images(table, entries(*files)), table, "archive", budget)
    return str(caught.value)


@pytest.mark.parametrize(
    ("key", "expected", "image"),
    [
        ("a.b/c.TIFF", "a.b/c", True),
        ("gsd_1.5m", "gsd_1.5m", False),
        ("a.tar.png", "a.tar", True),
        ("a/.png", "a/.png", False),
        ("tif", "tif", False),
        ("y.tif.aux.xml", "y.tif.aux.xml", False),
    ],
)
def test_ids_are_paths_without_the_extension_of_an_image(key, expected, image):
    assert (tile_id(key), is_image(key)) == (expected, image)


PORT = ("Port/p_1.jpg", "Sea/p_2.jpg")
PREVIEWS = ("a.png", "a.tif", "b.png", "b.tif")
WAYS = (
    *("Port/p_1", "Port/p_1.tif", "./Port/p_1.jpg", "/Port/p_1", "Port\\p_1.jpg", " Port/p_1 "),
    *("s3://bucket/archive/Port/p_1.jpg", "p_1", "images/Port/p_1.jpg"),
)


@pytest.mark.parametrize(
    ("keys", "files", "expected", "beside"),
    [
        *(((key,), PORT, ["Port/p_1.jpg"], ()) for key in WAYS),
        (("a", "x/a"), ("x/a.jpg", "a.jpg"), ["a.jpg", "x/a.jpg"], ()),
        (("x/a", "y/a"), ("z/a.jpg",), [], ()),  # one base name of two rows
        (("a", "b"), ("x/a.jpg", "y/a.jpg", "x/b.jpg"), ["x/b.jpg"], ()),  # and of two images
        (("t.TIF",), ("t.tif", "t.TIF"), ["t.TIF"], ("t.tif",)),
        (("a", "b.img"), ("a.tif", "a.tif.aux.xml", "a.json", "labels.csv", "b.img"),
         ["a.tif", "b.img"], ()),  # sidecars are passed over unless named
        (("a.tif", "b.TIF"), PREVIEWS, ["a.tif", "b.tif"], ("a.png", "b.png")),
        (("a.tif", "b.tif"), tuple(f"x/{file}" for file in PREVIEWS), ["x/a.tif", "x/b.tif"],
         ("x/a.png", "x/b.png")),
        (("a.tif",), ("a.tif", "c.png"), ["a.tif"], ()),  # another name is no preview
    ],
)  # fmt: skip
def test_which_image_a_key_means(keys, files, expected, beside):
    found = entries(*files)
    matched = match_images(labels(*keys), found)
    assert images(matched, found) == expected
    assert matched.beside == beside
    assert matched.rows.tolist() == sorted(matched.rows)
    assert len(matched.rows) + len(matched.labels_without_image) == len(keys)
    alone = {file for file in files if is_image(file)} - {*expected, *beside}
    assert set(matched.images_without_label) == alone


def test_extensions_choose_and_left_out_tiles_are_neither_matched_nor_missed():
    for asked in (("tif",), (".TIF", "jpg")):
        found = Listing.of(with_extensions(files(*PREVIEWS, "notes.txt"), asked))
        assert found.keys.to_pylist() == ["a.tif", "b.tif", "notes.txt"]
    for wanted in ("nc", "jp2"):
        says = rf"extensions=\[{wanted}\]: accepted: bmp, .*; found: b.tif$"
        with pytest.raises(InputError, match=says):
            list(with_extensions(files(*found.keys.to_pylist()), (wanted,)))
    matched = match_images(labels("a", left_out=("b", "gone")), found)
    assert images(matched, found) == ["a.tif"]
    assert matched.images_without_label == matched.labels_without_image == ()


@pytest.mark.parametrize(
    ("keys", "files", "budget", "says"),
    [
        *(((key,), ("x/a.jpg", "x/a.tif"), 0, r"one id 'x/a': x/a.jpg and x/a.tif.*extensions=")
          for key in ("x/a", "a", "a.png")),
        (("a.tif", "a.jpg"), ("a.jpg", "a.tif"), 0, "one id 'a'"),
        (("a", "a.jpg"), ("a.jpg",), 0, r"'a' and 'a.jpg' both mean the image a.jpg"),
        (("a", "b"), ("x/a.jpg", "y/a.jpg", "x/b.jpg"), 0,
         r"of 1 label rows is not unique \(a\): .*choose extensions=\[\.\.\.\]"),
        (("x",), ("a.jpg",), 1.0, "label rows have no image"),  # whatever the budget
        (("x",), ("notes.txt",), 1.0, "holds no image"),
        (("a", "gone", "c"), ("a.jpg", "b.jpg", "c.jpg", "d.jpg"), 0.4,
         r"1 of 3 label rows have no image \(gone\); 2 of 4 images have no label row "
         r"\(b.jpg, d.jpg\); extensions=\[\.\.\.\] leaves others out"),
    ],
)  # fmt: skip
def test_matches_that_are_refused(keys, files, budget, says):
    assert re.search(says, refused(keys, files, budget))


def test_the_budget_that_a_message_names_suffices():
    keys, files = tuple("012345"), tuple(f"{i}.jpg" for i in range(7))
    budget = float(refused(keys, files, 0.1).split("unmatched_budget=")[1].split()[0])
    table = labels(*keys)
    refuse_unmatched(match_images(table, entries(*files)), table, "archive", budget)


@pytest.mark.parametrize("etags", [("x", "y", "z"), ("x", None, "z"), (None, None, None)])
@pytest.mark.parametrize("keys", ["abc", "cab"])
def test_a_listing_is_what_was_listed_in_order(etags, keys):
    when = datetime(2024, 1, 1, 12, 30, 0, 17, tzinfo=UTC)
    listed = [
        Entry(f"s3://b/{k}.tif", f"{k}.tif", 7, e, when) for k, e in zip(keys, etags, strict=True)
    ]
    found = Listing.of(listed)
    again = list(found.entries(found.by_key(np.ones(3, bool))))
    assert [entry.key for entry in again] == ["a.tif", "b.tif", "c.tif"]
    listed.sort(key=lambda entry: entry.key)
    assert digest_entries(again) == digest_entries(listed)
    assert [(e.uri, e.etag) for e in again] == [(e.uri, e.etag) for e in listed]
    # an etag says more than a time
    assert [e.modified for e in again if not e.etag] == [e.modified for e in listed if not e.etag]


def test_a_listing_of_several_blocks_is_in_order_and_knows_times_and_etags():
    first, when = 7, datetime(2024, 1, 1, tzinfo=UTC)
    listed = [
        Entry(f"s3://b/{i:06}.tif", f"{i:06}.tif", i, None if i < first else "x", when)
        for i in range(BLOCK + first)
    ]
    listed = listed[first:] + listed[:first]  # falls from the first block to the second alone
    found = Listing.of(listed)
    again = list(found.entries(found.by_key(np.ones(len(found), bool))))
    assert [entry.size for entry in again] == list(range(BLOCK + first))
    assert digest_entries(again) == digest_entries(listed[BLOCK:] + listed[:BLOCK])


names = st.text("ab/.", min_size=1, max_size=5).map(lambda s: s.strip("/.")).filter(bool)


@settings(max_examples=40)
@given(st.sets(names, min_size=1, max_size=8), st.lists(names, unique=True, max_size=8))
def test_nothing_is_lost_or_doubled(ids, keys):
    found = entries(*(f"{name}.png" for name in sorted(ids)))
    try:
        matched = match_images(labels(*keys), found)
    except InputError:
        return  # two rows of one image
    assert len(matched.images) + len(matched.labels_without_image) == len(keys)
    assert len(matched.images) + len(matched.images_without_label) == len(found)
    of_entries = [tile_id(key) for key in images(matched, found)]
    assert len(set(of_entries)) == len(of_entries)
    assert ids & set(keys) <= set(of_entries)
