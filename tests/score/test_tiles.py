"""Reading a block of tiles: bands by name, dtype, size, georeference; failures as rows."""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import scoring_material as material

from satray.config.base import StorageOptions
from satray.data.decode import PixelSpec, read_pixels
from satray.data.index import SCHEMA as INDEX_SCHEMA
from satray.data.index import IndexMeta, TileIndex
from satray.data.match import with_extensions
from satray.errors import InputError
from satray.score.predictions import TileFacts
from satray.score.tiles import (
    Source,
    Wanted,
    is_index,
    look,
    read_block,
    read_tile,
    tiles_of_index,
    tiles_of_prefix,
)
from satray.storage import Storage

STORAGE = Storage(StorageOptions())


def wanted(**more: object) -> Wanted:
    values = {
        "bands": ("red", "nir"),
        "dtype": "uint16",
        "height": 48,
        "width": 48,
        "source": Source(),
    }
    return Wanted(**(values | more))  # type: ignore[arg-type]


def read(path, known: TileFacts | None = None, **more: object):
    return read_tile(path.read_bytes(), known or TileFacts("t", "t"), wanted(**more))


def test_places_of_tiles_that_have_no_plain_one(tmp_path) -> None:
    for name in ("crs", "world", "both"):
        material.write_tile(tmp_path / f"{name}.tif", material.pixels(0), transform=None)
    numbers = (material.UTM.a, 0, 0, material.UTM.e, *(material.UTM @ (0.5, 0.5)))
    for name in ("world", "both"):
        (tmp_path / f"{name}.tfw").write_text("\n".join(map(repr, numbers)))
    material.write_tile(tmp_path / "both.tif", material.pixels(0))
    tiles = tiles_of_prefix(str(tmp_path), STORAGE.list(str(tmp_path)))
    block = read_block(tiles.table, wanted(), STORAGE)
    found = {facts.tile_id: (facts.crs, facts.transform, facts.note) for facts in block.facts}
    assert found == {
        "both": ("EPSG:32631", material.UTM[:6], ""),
        "crs": (None, None, "a CRS without a transform: pixel coordinates"),
        "world": ("EPSG:32631", material.UTM[:6], "placed by a world file"),
    }


def test_other_sizes_are_resampled_and_keep_their_own_size(tmp_path) -> None:
    values = np.full((4, 96, 72), 700, dtype=np.uint16)
    material.write_tile(tmp_path / "a.tif", values)
    tile = read(tmp_path / "a.tif")
    assert tile.pixels.shape == (2, 48, 48)
    assert (tile.pixels == 700).all()
    assert (tile.facts.height, tile.facts.width) == (96, 72)


def test_a_name_that_is_no_text_costs_its_tile(tmp_path) -> None:
    material.write_tile(tmp_path / "good.tif", material.pixels(0))
    data = (tmp_path / "good.tif").read_bytes()
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/latin \xe9.tif")).write_bytes(data)
    tiles = tiles_of_prefix(str(tmp_path), STORAGE.list(str(tmp_path)))
    look(tiles, wanted(), STORAGE)
    block = read_block(tiles.table, wanted(), STORAGE)
    assert [one.tile_id for one in block.facts] == ["good", r"latin \udce9"]
    assert block.stages == [None, "read"]
    assert r"latin \udce9.tif" in str(block.facts[1].error)


def index(tmp_path, values: np.ndarray, bands: tuple[str, ...], **more: object) -> TileIndex:
    material.write_tile(tmp_path / "i.tif", values, names=None, **more)  # type: ignore[arg-type]
    meta = IndexMeta("multilabel", ("a", "b", "c"), bands, "uint16", (48, 48), (), {})
    known = {
        "tile_id": "x/y",
        "uri": str(tmp_path / "i.tif"),
        "split": "val",
        "labels": [1, 0, 1],
        "height": 48,
        "width": 48,
        "bands": list(bands),
        "dtype": "uint16",
        "crs": "EPSG:32631",
        "transform": list(material.UTM)[:6],
        "bytes": (tmp_path / "i.tif").stat().st_size,
    }
    return TileIndex(pa.Table.from_pylist([known], schema=INDEX_SCHEMA), meta)


def test_an_index_that_left_alpha_out(tmp_path) -> None:
    values = material.pixels(3)
    values[3] = 65535
    values[3, :8] = 0
    found = index(tmp_path, values, ("red", "nir", "x"), photometric="rgb", alpha="yes")
    tiles = tiles_of_index(found, ("c", "b"))
    block = read_block(tiles.table, wanted(source=tiles.source, maps=True), STORAGE)
    assert (block.facts[0].error, block.facts[0].target) == (None, (1, 0))
    assert np.array_equal(block.pixels[0][:, 8:], values[:2, 8:])
    mean_C = np.rint(values[:2, 8:].mean((1, 2)))
    assert (block.pixels[0][:, :8] == mean_C[:, None, None]).all()
    assert block.valid[0] is not None
    assert (block.valid[0][8:].all(), block.valid[0][:8].any()) == (True, False)


def test_prefixes(tmp_path) -> None:
    for name in ("b/x.tif", "a.PNG", "notes.txt", "a.tif.aux.xml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    tiles = tiles_of_prefix(str(tmp_path), STORAGE.list(str(tmp_path)))
    assert tiles.table.column("tile_id").to_pylist() == ["a", "b/x"]
    assert not is_index(str(tmp_path), STORAGE)
    (tmp_path / "a.tif").write_bytes(b"")
    with pytest.raises(InputError, match=r"one id.*extensions="):
        tiles_of_prefix(str(tmp_path), STORAGE.list(str(tmp_path)))
    tifs = list(with_extensions(STORAGE.list(str(tmp_path)), ("tif",)))
    some = tiles_of_prefix(str(tmp_path), tifs)
    assert some.table.column("uri").to_pylist() == [f"{tmp_path}/{e}.tif" for e in ("a", "b/x")]
    with pytest.raises(InputError, match=r"found nothing; accepted"):
        tiles_of_prefix("there", [])


def test_look_refuses_only_where_nothing_fits(tmp_path) -> None:
    for i in range(20):
        values = material.pixels(i, 3)
        material.write_tile(tmp_path / f"{i:02d}.tif", values, names=("red", "green", "blue"))
    (tmp_path / "00.tif").write_bytes(b"broken")
    tiles = tiles_of_prefix(str(tmp_path), STORAGE.list(str(tmp_path)))
    with pytest.raises(InputError, match=r"none of the 7 looked at fits.*no band nir.*red, green"):
        look(tiles, wanted(), STORAGE)
    with pytest.raises(InputError, match="dtype is uint16, the bundle's is uint8"):
        look(tiles, wanted(bands=("red",), dtype="uint8"), STORAGE)
    material.write_tile(tmp_path / "19.tif", material.pixels(0))
    assert look(tiles, wanted(), STORAGE) == []
    named = Source(material.BANDS, by_hand=True)
    look(tiles, wanted(source=named), STORAGE)
    (tmp_path / "19.tif").unlink()
    with pytest.raises(InputError, match=r"none of the 6 looked at.*has 3 bands, .* names 4"):
        look(tiles, wanted(source=named), STORAGE)


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_nodata_is_filled_as_in_training_at_another_size_too(tmp_path, dtype: str) -> None:
    values = (material.pixels(0) // 2 + np.uint16(100)).astype(dtype)
    sentinel = 0 if dtype == "uint16" else -9999
    values[:, :, :20] = sentinel
    material.write_tile(tmp_path / "a.tif", values, nodata=sentinel)
    more = {"dtype": dtype, "height": 32, "width": 32}
    want = read_pixels((tmp_path / "a.tif").read_bytes(), PixelSpec((2, 3), 32, 32, dtype))
    assert want.min() >= 99
    for how in ({}, {"maps": True}, {"source": Source(material.BANDS, indexed=True)}):
        assert np.array_equal(read(tmp_path / "a.tif", **more, **how).pixels, want)
