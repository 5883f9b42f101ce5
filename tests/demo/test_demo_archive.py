"""The archive that the demo brings: what a user would bring, and the truth about it."""

import csv
import io
import json

import numpy as np
import pytest
from rasterio.io import MemoryFile

from satray.demo.generator import read_boxes, write_archive, write_scene
from satray.demo.truth import CLASSES, draw_tiles, label, scene_window, ship_boxes
from satray.demo.world import BANDS, PIXEL, World
from satray.errors import InputError
from satray.storage import Storage

SIZE = 64


@pytest.fixture(scope="module")
def tiles():
    return list(draw_tiles(60, SIZE, 0))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    storage, uri = Storage(), str(tmp_path_factory.mktemp("archive"))
    return storage, uri, write_archive(storage, uri, 24, SIZE, 5)


def open_tiff(data):
    with MemoryFile(data) as memory, memory.open() as file:
        return file.read(), file.profile, file.descriptions


def test_every_class_is_there_and_missing_somewhere(tiles):
    labels = np.array([tile.labels for tile in tiles])
    assert ((labels.mean(0) > 0.05) & (labels.mean(0) < 0.95)).all()


def test_ship_label_is_the_boxes(tiles):
    for tile in tiles:
        assert tile.labels[CLASSES.index("ship")] == bool(tile.boxes)
        for top, left, bottom, right in tile.boxes:
            assert 0 <= top < bottom <= SIZE
            assert 0 <= left < right <= SIZE


def test_pixels_in_ship_boxes_stand_out_from_the_water_around(tiles):
    """A person can see the ships: the brightest pixels of a box are far brighter than its rim."""
    told = []
    for tile in tiles:
        for top, left, bottom, right in tile.boxes:
            green = tile.window.pixels[1].astype(float)
            inside = green[int(top) : int(bottom) + 1, int(left) : int(right) + 1]
            around = np.median(
                green[
                    max(int(top) - 6, 0) : int(bottom) + 6, max(int(left) - 6, 0) : int(right) + 6
                ]
            )
            told.append(np.percentile(inside, 90) / around)
    assert len(told) > 10
    assert np.median(told) > 1.5


def test_no_two_tiles_overlap_and_none_reaches_into_the_scene(tiles):
    places = {(tile.window.row // SIZE, tile.window.col // SIZE) for tile in tiles}
    assert len(places) == len(tiles)
    assert all(tile.window.row % SIZE == 0 == tile.window.col % SIZE for tile in tiles)
    scene = scene_window(256, 0)
    assert scene.row > max(tile.window.row + SIZE for tile in tiles)


def test_a_ship_cut_in_half_is_nobodys_label():
    world = World(0)
    window = world.render(12_000, 9_000, 256, 256)
    ship = next(
        ship
        for ship, seen in window.ships
        if seen > 0.95 and min(ship.row - window.row, ship.col - window.col) > 40
    )
    cut = world.render(int(ship.row), int(ship.col) - 32, 64, 64)
    shares = [seen for other, seen in cut.ships if other == ship]
    assert 0.2 < shares[0] < 0.8
    if 0.15 < shares[0] < 0.6:
        assert label(cut) is None


def test_written_tiles_are_what_a_user_brings(written):
    storage, _, archive = written
    entries = storage.list(archive.images)
    assert len(entries) == archive.tiles == 24
    expected = next(draw_tiles(1, SIZE, 5))
    pixels, profile, descriptions = open_tiff(storage.read(entries[0].uri))
    np.testing.assert_array_equal(pixels, expected.window.pixels)
    assert descriptions == BANDS
    assert (profile["dtype"], profile["compress"], profile["count"]) == ("uint16", "deflate", 4)
    assert profile["crs"].to_string() == "EPSG:32631"
    assert (profile["transform"].a, profile["transform"].e) == (PIXEL, -PIXEL)
    assert profile["transform"] == expected.window.transform


def test_label_table_and_boxes_agree(written):
    storage, _, archive = written
    rows = list(csv.DictReader(io.StringIO(storage.read(archive.labels).decode())))
    assert list(rows[0]) == ["tile", *CLASSES]
    assert {entry.key.removesuffix(".tif") for entry in storage.list(archive.images)} == {
        row["tile"] for row in rows
    }
    boxes = read_boxes(storage, archive.boxes)
    assert all(bool(int(row["ship"])) == bool(boxes[row["tile"]]) for row in rows)
    assert archive.counts == {name: sum(int(row[name]) for row in rows) for name in CLASSES}


def test_the_same_seed_writes_the_same_bytes(written, tmp_path):
    storage, uri, _ = written
    write_archive(storage, str(tmp_path), 24, SIZE, 5)
    for entry in storage.list(uri):
        assert storage.read(str(tmp_path / entry.key)) == storage.read(entry.uri), entry.key


def test_scene_knows_its_ships_on_the_ground(tmp_path):
    storage = Storage()
    count = write_scene(storage, str(tmp_path), 512, 0)
    window = scene_window(512, 0)
    assert count == len(ship_boxes(window)) > 5
    pixels, profile, descriptions = open_tiff(storage.read(str(tmp_path / "scene.tif")))
    np.testing.assert_array_equal(pixels, window.pixels)
    assert profile["tiled"]
    assert descriptions == BANDS
    features = json.loads((tmp_path / "scene-ships.geojson").read_text())["features"]
    assert len(features) == count
    from rasterio.warp import transform

    top, left, bottom, right = features[0]["properties"]["box_px"]
    lon, lat = zip(*features[0]["geometry"]["coordinates"][0], strict=True)
    x, y = transform("OGC:CRS84", "EPSG:32631", lon, lat)
    cols, rows = zip(
        *(~profile["transform"] @ point for point in zip(x, y, strict=True)), strict=True
    )
    assert (min(rows), max(rows)) == pytest.approx((top, bottom), abs=0.05)
    assert (min(cols), max(cols)) == pytest.approx((left, right), abs=0.05)


def test_more_tiles_than_the_world_holds_is_an_input_error(monkeypatch):
    monkeypatch.setattr("satray.demo.truth.label", lambda window: None)
    monkeypatch.setattr(World, "render", lambda *place: None)
    with pytest.raises(InputError, match=r"tiles=40: the demo world holds 0 tiles of 8192 px"):
        list(draw_tiles(40, 8192, 0))
