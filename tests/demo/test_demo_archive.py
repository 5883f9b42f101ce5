"""The archive that the demo brings: what a user would bring, and the truth about it."""

import csv
import io
import json

import numpy as np
import pytest
import rasterio
from rasterio.warp import transform as reproject
from shapely import box

from satray.demo.archive import (
    BANDS,
    CLASSES,
    PIXEL,
    SHEET,
    SHEETS,
    draw_sheet,
    draw_tiles,
    write_archive,
    write_scene,
)
from satray.errors import InputError
from satray.storage import Storage

SIZE = 64


@pytest.fixture(scope="module")
def sheet():
    return draw_sheet(0, 1)


@pytest.fixture(scope="module")
def tiles(sheet):
    """Those of the sheet that the first tiles are cut from, by their place."""
    places = np.ndindex(SHEET // SIZE, SHEET // SIZE)
    found = (sheet.tile(row * SIZE, col * SIZE, SIZE) for row, col in places)
    return {tile.transform: tile for tile in found if tile is not None}


def test_seed_and_number_decide_everything():
    pixels = [draw_sheet(*which, side=96).pixels for which in ((1, 3), (1, 3), (2, 3), (1, 4))]
    np.testing.assert_array_equal(pixels[0], pixels[1])
    assert all((pixels[0] != other).mean() > 0.9 for other in pixels[2:])


def test_ships_float_and_fill_their_outlines_and_half_a_ship_is_nobodys_label(sheet):
    assert len(sheet.hulls) > 50
    assert not (sheet.land & (sheet.ship > 0)).any()
    cut = 0
    for number, hull in enumerate(sheet.hulls, start=1):
        rows, cols = np.nonzero(sheet.ship == number)
        assert len(rows) == pytest.approx(hull.area, rel=0.25)
        drawn = (cols.min(), rows.min(), cols.max() + 1, rows.max() + 1)
        np.testing.assert_allclose(drawn, hull.bounds, atol=2.0)  # the bow is pointed
        row, col = int(hull.centroid.y), max(int(hull.centroid.x) - SIZE // 2, 0)
        if 0.2 < sheet.seen((slice(row, row + SIZE), slice(col, col + SIZE)))[number - 1] < 0.55:
            cut += 1
            assert sheet.tile(row, col, SIZE) is None
    assert cut > 10


def test_ship_label_is_the_boxes_and_every_class_is_there_and_missing_somewhere(tiles):
    shares = np.array([tile.labels for tile in tiles.values()]).mean(0)
    assert ((shares > 0.05) & (shares < 0.95)).all()
    for tile in tiles.values():
        assert tile.labels[CLASSES.index("ship")] == bool(tile.boxes)
        for top, left, bottom, right in tile.boxes:
            assert 0 <= top < bottom <= SIZE
            assert 0 <= left < right <= SIZE


def test_no_sheet_reaches_into_another_or_the_scene():
    scene, *sheets = (draw_sheet(0, n, side=64).transform for n in (0, 1, 2, 33, SHEETS - 1))
    side = SHEET * PIXEL
    places = {((each.c - sheets[0].c) / side, (each.f - sheets[0].f) / side) for each in sheets}
    assert len(places) == 4
    assert all(x.is_integer() and y.is_integer() for x, y in places)
    assert min(each.f for each in sheets) - side >= scene.f


def test_written_tiles_are_what_a_user_brings(tmp_path, tiles):
    uri, left = tmp_path, dict(tiles)
    counts = write_archive(Storage(), str(uri), 24, SIZE, 0)
    rows = list(csv.DictReader(io.StringIO((uri / "labels.csv").read_text())))
    boxes = json.loads((uri / "ships.json").read_text())
    assert list(rows[0]) == ["tile", *CLASSES]
    assert {path.stem for path in (uri / "tiles").iterdir()} == {row["tile"] for row in rows}
    assert len(rows) == 24
    assert counts == {name: sum(int(row[name]) for row in rows) for name in CLASSES}
    for row in rows:
        assert bool(int(row["ship"])) == bool(boxes[row["tile"]])
        with rasterio.open(uri / "tiles" / f"{row['tile']}.tif") as file:
            tile = left.pop(file.transform)  # each once: none overlaps another
            np.testing.assert_array_equal(file.read(), tile.pixels)
            assert file.descriptions == BANDS
            assert (file.transform.a, file.transform.e) == (PIXEL, -PIXEL)
            assert (file.dtypes[0], file.compression.value) == ("uint16", "DEFLATE")
            assert file.crs.to_string() == "EPSG:32631"


def test_scene_knows_its_ships_on_the_ground(tmp_path):
    write_scene(Storage(), str(tmp_path), 384, 0)
    drawn = draw_sheet(0, 0, 384)
    features = json.loads((tmp_path / "scene-ships.geojson").read_text())["features"]
    assert len(features) == len(drawn.boxes(0, 0, 384)) > 5
    with rasterio.open(tmp_path / "scene.tif") as file:
        np.testing.assert_array_equal(file.read(), drawn.pixels)
        assert file.profile["tiled"]
        assert file.descriptions == BANDS
    for feature in features:
        lon, lat = zip(*feature["geometry"]["coordinates"][0], strict=True)
        x, y = reproject("OGC:CRS84", "EPSG:32631", lon, lat)
        cols, rows = zip(*(~drawn.transform @ at for at in zip(x, y, strict=True)), strict=True)
        found = (min(rows), min(cols), max(rows), max(cols))
        assert found == pytest.approx(feature["properties"]["box_px"], abs=0.05)
        assert box(0, 0, 384, 384).buffer(0.1).contains(box(*found))


@pytest.mark.parametrize(("tiles", "size"), [(40, 8192), (2_000_000, 64)])
def test_more_tiles_than_there_is_room_for_is_an_input_error(tiles, size):
    with pytest.raises(InputError, match=rf"tiles={tiles}: accepted: at most .* of {size} px"):
        next(draw_tiles(tiles, size, 0))
