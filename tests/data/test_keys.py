"""Tile ids, and which image a label row means."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from satray.config.prepare import PrepareRecipe
from satray.data.keys import is_image, match, refuse_unmatched, taken, tile_id
from satray.data.labels import LabelTable, labels_from_folders, read_labels
from satray.errors import InputError
from satray.storage import Entry


def entries(*keys: str) -> list[Entry]:
    when = datetime(2024, 1, 1, tzinfo=UTC)
    return [Entry(f"s3://bucket/archive/{key}", key, 1, None, when) for key in keys]


def labels(*keys: str, left_out: tuple[str, ...] = ()) -> LabelTable:
    matrix = np.zeros((len(keys), 1), np.uint8)
    return LabelTable(keys, ("ship",), matrix, "binary", {}, "wide", "labels.csv", left_out)


def pairs(table: LabelTable, found) -> dict[str, str]:
    matched = match(table, found)
    assert list(matched.rows) == sorted(matched.rows)
    rows = matched.rows.tolist()
    return {table.keys[row]: e.key for row, e in zip(rows, matched.entries, strict=True)}


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("a/b.jpg", "a/b"),
        ("a.b/c.TIFF", "a.b/c"),
        ("scene.v2", "scene.v2"),
        ("gsd_1.5m", "gsd_1.5m"),
        ("a.tar.png", "a.tar"),
        ("a/.png", "a/.png"),
        ("plain", "plain"),
    ],
)
def test_tile_id(key, expected):
    assert tile_id(key) == expected


def test_is_image():
    assert is_image("x/y.TIF")
    assert not is_image("x/y.tif.aux.xml")
    assert not is_image("tif")


@pytest.mark.parametrize(
    "key",
    [
        "Port/p_1",
        "Port/p_1.jpg",
        "Port/p_1.tif",  # labelled before a conversion
        "./Port/p_1.jpg",
        "/Port/p_1",
        "Port\\p_1.jpg",
        " Port/p_1 ",
        "s3://bucket/archive/Port/p_1.jpg",
        "p_1",
        "p_1.jpg",
        "images/Port/p_1.jpg",
    ],
)
def test_ways_to_name_an_image(key):
    assert pairs(labels(key), entries("Port/p_1.jpg", "Sea/p_2.jpg")) == {key: "Port/p_1.jpg"}


def test_path_wins_over_base_name():
    found = entries("x/a.jpg", "a.jpg")
    assert pairs(labels("a", "x/a"), found) == {"a": "a.jpg", "x/a": "x/a.jpg"}


def test_base_name_of_two_images_means_none():
    matched = match(labels("a", "b"), entries("x/a.jpg", "y/a.jpg", "x/b.jpg"))
    assert matched.labels_without_image == ("a",)
    assert matched.ambiguous == ("a",)
    assert matched.images_without_label == ("x/a.jpg", "y/a.jpg")
    with pytest.raises(InputError, match="not unique"):
        refuse_unmatched(matched, labels("a", "b"), "archive", 0.0)


def test_base_name_of_two_label_rows_means_none():
    matched = match(labels("x/a", "y/a"), entries("z/a.jpg"))
    assert matched.labels_without_image == ("x/a", "y/a")
    assert len(matched.entries) == 0


def test_two_images_of_one_id_are_refused():
    for key in ("x/a", "a", "a.png"):
        with pytest.raises(InputError, match=r"one id 'x/a': x/a.jpg and x/a.tif.*extensions="):
            match(labels(key), entries("x/a.jpg", "x/a.tif"))
    with pytest.raises(InputError, match="one id 'a'"):
        match(labels("a.tif", "a.jpg"), entries("a.jpg", "a.tif"))


PREVIEWS = ("a.png", "a.tif", "b.png", "b.tif")


@pytest.mark.parametrize(
    ("keys", "files"),
    [
        (("a.tif", "b.TIF"), PREVIEWS),
        (("x/a.tif", "x/b.tif"), tuple(f"x/{file}" for file in PREVIEWS)),
        (("a.tif", "b.tif"), tuple(f"x/{file}" for file in PREVIEWS)),
        (("a.tif", "b.tif"), ("previews/a.png", "previews/b.png", "t/a.tif", "t/b.tif")),
    ],
)
def test_the_extensions_of_the_label_table_choose_among_files_of_one_name(keys, files):
    matched = match(labels(*keys), entries(*files))
    assert [entry.key for entry in matched.entries] == [f for f in files if f.endswith(".tif")]
    assert matched.beside == tuple(f for f in files if f.endswith(".png"))
    assert (matched.images, matched.images_without_label) == (2, ())


@pytest.mark.parametrize("asked", [("tif",), (".TIF", "jpg")])
def test_extensions_choose_among_files_of_one_name(asked):
    found = taken(entries(*PREVIEWS, "notes.txt"), asked)
    assert [entry.key for entry in found] == ["a.tif", "b.tif", "notes.txt"]
    assert match(labels("a", "b"), found).tile_ids == ("a", "b")
    with pytest.raises(InputError, match="extensions: found nc; accepted: bmp"):
        taken(found, ("nc",))


def test_an_image_of_another_name_is_no_preview():
    matched = match(labels("a.tif"), entries("a.tif", "c.png"))
    assert matched.images_without_label == ("c.png",)
    assert matched.beside == ()


def test_two_rows_of_one_image_are_refused():
    with pytest.raises(InputError, match=r"'a' and 'a.jpg' both mean the image a.jpg"):
        match(labels("a", "a.jpg"), entries("a.jpg"))


def test_sidecars_are_passed_over_unless_named():
    found = entries("a.tif", "a.tif.aux.xml", "a.json", "labels.csv", "b.img")
    matched = match(labels("a", "b.img"), found)
    assert matched.tile_ids == ("a", "b.img")
    assert matched.other_files == 3
    assert matched.images_without_label == ()


def test_counts_and_lists():
    table = labels("a", "gone", "c")
    matched = match(table, entries("a.jpg", "b.jpg", "c.jpg", "d.jpg"))
    assert matched.images == 4
    assert matched.label_rows == 3
    assert matched.images_without_label == ("b.jpg", "d.jpg")
    assert matched.labels_without_image == ("gone",)
    with pytest.raises(InputError) as caught:
        refuse_unmatched(matched, table, "archive", 0.4)
    message = str(caught.value)
    assert "1 of 3 label rows have no image (gone)" in message
    assert "2 of 4 images have no label row (b.jpg, d.jpg)" in message
    assert "unmatched_budget=0.5" in message
    refuse_unmatched(matched, table, "archive", 0.5)


def test_the_budget_that_a_message_names_suffices():
    found = entries(*(f"{i}.jpg" for i in range(7)))
    table = labels("0", "1", "2", "3", "4", "5")
    matched = match(table, found)
    with pytest.raises(InputError) as caught:
        refuse_unmatched(matched, table, "archive", 0.1)
    budget = float(str(caught.value).split("unmatched_budget=")[1].split()[0])
    refuse_unmatched(matched, table, "archive", budget)


def test_nothing_in_common_is_refused_whatever_the_budget():
    table = labels("x")
    with pytest.raises(InputError, match="label rows have no image"):
        refuse_unmatched(match(table, entries("a.jpg")), table, "archive", 1.0)
    with pytest.raises(InputError, match="holds no image"):
        refuse_unmatched(match(table, entries("notes.txt")), table, "archive", 1.0)


def test_left_out_tiles_are_neither_matched_nor_missed():
    table = labels("a", left_out=("b", "gone"))
    matched = match(table, entries("a.jpg", "b.jpg"))
    assert matched.tile_ids == ("a",)
    assert matched.images == 1
    assert matched.images_without_label == ()
    assert matched.labels_without_image == ()


def test_folders_match_themselves():
    keys = ["Port/a.jpg", "Sea/a.jpg"]
    table = labels_from_folders(keys, PrepareRecipe(images="archive"))
    assert match(table, entries(*keys)).tile_ids == ("Port/a", "Sea/a")


names = st.text("ab/.", min_size=1, max_size=5).map(lambda s: s.strip("/.")).filter(bool)


@given(st.sets(names, min_size=1, max_size=8), st.lists(names, unique=True, max_size=8))
def test_nothing_is_lost_or_doubled(ids, keys):
    found = entries(*(f"{name}.png" for name in sorted(ids)))
    try:
        matched = match(labels(*keys), found)
    except InputError:
        return  # two rows of one image
    assert len(matched.entries) + len(matched.labels_without_image) == len(keys)
    assert len(matched.entries) + len(matched.images_without_label) == len(found)
    assert len(set(matched.tile_ids)) == len(matched.tile_ids)
    for key in keys:
        if key in ids:
            assert key in matched.tile_ids


@pytest.mark.data
def test_aid_archive(data: Path):
    root = data / "aid"
    table = read_labels((root / "labels.csv").read_bytes(), "labels.csv", PrepareRecipe(images="."))
    paths = sorted(p.relative_to(root / "images").as_posix() for p in root.rglob("*.jpg"))
    matched = match(table, entries(*paths))
    refuse_unmatched(matched, table, "images", 0.0)
    assert len(matched.entries) == 2400
    assert matched.tile_ids[0] == "Airport/airport_1"


@pytest.mark.parametrize(
    ("key", "found"), [("t.tiff", "t.tif"), ("t.jpeg", "t.jpg"), ("t.JPE", "t.jpg")]
)
def test_two_spellings_of_one_format_are_one(key, found):
    assert pairs(labels(key), entries("t.tif", "t.jpg", "t.png")) == {key: found}


def test_of_one_name_in_capitals_and_not_the_extension_does_not_choose():
    with pytest.raises(InputError, match="must differ; a label table that names") as caught:
        match(labels("t"), entries("t.tif", "t.TIF"))
    assert "extensions=" not in str(caught.value)
    assert pairs(labels("t.TIF"), entries("t.tif", "t.TIF")) == {"t.TIF": "t.TIF"}


def test_an_extension_that_no_image_has_is_said_with_those_there():
    with pytest.raises(InputError, match=r"extensions=\[tiff\]: no image has it; found: 1 .png, 2"):
        taken(entries("a.tif", "b.TIF", "b.png", "x.csv"), ("tiff",))


def test_previews_of_other_names_or_folders_name_extensions_as_the_way():
    table = labels("a.tif", "b.tif")
    images = entries("a.tif", "b.tif", "a_preview.png", "b.tif.png")
    with pytest.raises(InputError, match=r"extensions=\[tif\] leaves those images out"):
        refuse_unmatched(match(table, images), table, "archive", 0.0)
    table = labels("a")
    with pytest.raises(InputError, match=r"choose extensions=\[\.\.\.\]"):
        refuse_unmatched(match(table, entries("x/a.tif", "y/a.png")), table, "archive", 0.0)
