"""A band a page: which images of a TIFF are bands, in tiles and scenes alike."""

import numpy as np
import pytest
import rasterio
from by_hand import planned
from data.hostile import gdal_metadata, numbers, paged, pillow, tiff
from PIL import Image
from score.scenes.scene_material import opened

from satray.config.prepare import PrepareRecipe
from satray.data import prepare
from satray.data.decode import PixelSpec, decode, read_pixels
from satray.errors import DecodeError, MisfitError

X = numbers(4)
ONE = [X[k : k + 1] for k in range(4)]
FOUR = ("b1", "b2", "b3", "b4")
PLACE = {33550: [10.0, 10.0, 0.0], 33922: [0.0, 0.0, 0.0, 5e5, 5.3e6, 0.0]}
ELSEWHERE = {**PLACE, 33922: [0.0, 0.0, 0.0, 6e5, 5.3e6, 0.0]}
SMALL, BYTES, RGB = X[:1, :8, :8], numbers(1, dtype="uint8"), numbers(9, dtype="uint8")
OVERVIEW, MASK = (X[:1, ::2, ::2], {254: 1}), {254: 4, 262: 4}
FRAMES = [Image.fromarray(band) for band in X]
NAMED = {42112: gdal_metadata((0, "description", "nir"))}

CASES = {  # the file, its bands, its pixels, pages that are bands and that are not
    "one a band": (paged(*ONE), FOUR, X, 4, 0),
    "LZW": (
        pillow(FRAMES[0], "TIFF", save_all=True, append_images=FRAMES[1:], compression="tiff_lzw"),
        FOUR, X, 4, 0,
    ),
    "descriptions": (paged(ONE[0], (ONE[1], NAMED)), ("b1", "nir"), X[:2], 2, 0),
    "colours a page": (
        paged(RGB[:3], RGB[3:6], RGB[6:]), tuple(f"b{n}" for n in range(1, 10)), RGB, 3, 0,
    ),
    "overview and mask": (paged(ONE[0], (BYTES | 1, MASK), OVERVIEW), ("gray",), X[:1], 1, 0),
    "another dtype": (paged(ONE[0], ONE[1], BYTES), ("b1", "b2"), X[:2], 2, 1),
    "another size": (paged(ONE[0], SMALL), ("gray",), X[:1], 1, 1),
    "after a preview": (paged((SMALL, {254: 1}), *ONE[:2]), ("gray",), SMALL, 1, 2),
    "place of the first": (paged((ONE[0], PLACE), ONE[1]), ("b1", "b2"), X[:2], 2, 0),
    "another place": (paged((ONE[0], PLACE), (ONE[1], ELSEWHERE)), ("gray",), X[:1], 1, 1),
    "one page": (tiff(X), FOUR, X, 1, 0),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_which_pages_are_bands(tmp_path, case):
    """Training, scoring of tiles and scenes take the same."""
    data, names, values, used, left = CASES[case]
    tile = decode(data)
    assert tile.header.bands == names
    np.testing.assert_array_equal(tile.pixels, values)
    assert tile.measured is None
    told = f" of {used} page{'s' * (used > 1)}" + f"; {left} left out" * (left > 0)
    assert tile.header.pages.endswith(told if used + left > 1 else "")
    pixels = read_pixels(
        data, PixelSpec(tuple(range(len(names)))[::-1], *values.shape[1:], str(values.dtype))
    )
    np.testing.assert_array_equal(pixels, values[::-1])
    (tmp_path / "a b#.tif").write_bytes(data)
    with opened(str(tmp_path / "a b#.tif"), names) as scene:
        x_CHW, valid_HW = scene.read(0, 1, 5, 7)
        np.testing.assert_array_equal(x_CHW, values[:, :5, 1:8])
        assert valid_HW.all()
        said = [note for note in scene.facts.notes if "left out" in note or "pages taken" in note]
    assert bool(said) == (used + left > 1)
    first = decode(data, pages="first")
    np.testing.assert_array_equal(first.pixels, values[: len(values) // used])
    assert first.header.pages == ""


def test_nodata_of_pages_is_each_ones():
    x_CHW = X | 8
    x_CHW[:, :4] = 7
    tile = decode(paged(*[(x_CHW[k : k + 1], {42113: "7"}) for k in range(4)]))
    np.testing.assert_array_equal(
        tile.measured.all(axis=0), np.arange(24)[:, None].repeat(32, 1) >= 4
    )


@pytest.mark.parametrize(
    ("data", "more", "match"),
    [
        (paged(*ONE, SMALL), {"bands": ("a",)}, r"4 bands of 4 pages; 1 left out, bands=.* names"),
        (paged(*ONE), {"bands": FOUR, "pages": "first"}, r"has 1 band, bands=.* names 4"),
        (tiff(X), {"bands": ("a",)}, r"has 4 bands, bands=.* names 1"),
        (paged(*[SMALL[:, :1, :1]] * 1025), {}, "holds 1,025 pages; accepted: at most 1,024, or"),
        (paged(ONE[0], (BYTES, MASK), ONE[1]), {}, "several pages with masks; accepted: pages=fir"),
    ],
)  # fmt: skip
def test_messages_tell_pages_from_bands(tmp_path, data, more, match):
    with pytest.raises(DecodeError, match=match) as error:
        decode(data, **more)
    assert "\n" not in str(error.value)
    if "bands" in more:
        (tmp_path / "a.tif").write_bytes(data)
        pages = more.get("pages", "bands")
        with pytest.raises(MisfitError, match=match):
            opened(str(tmp_path / "a.tif"), ("a",), more["bands"], pages=pages)


def test_pages_of_another_file_are_none(tmp_path):
    """Metadata may claim any subdataset."""
    other = tmp_path / "other.tif"
    other.write_bytes(paged(*ONE))
    claim = "<GDALMetadata>" + "".join(
        f'<Item name="SUBDATASET_{n}_NAME" domain="SUBDATASETS">GTIFF_DIR:{n}:{other}</Item>'
        for n in (1, 2)
    )
    data = paged((ONE[3], {42112: claim + "</GDALMetadata>"}))
    with rasterio.MemoryFile(data) as memory, memory.open() as source:
        assert len(source.subdatasets) == 2
    np.testing.assert_array_equal(decode(data).pixels, ONE[3])


def test_prepare_says_so(tmp_path):
    for n in range(4):
        path = tmp_path / "tiles" / "ab"[n % 2] / f"{n}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(paged(*ONE[:3], SMALL))
    for pages in ("bands", "first"):
        told = planned(prepare, PrepareRecipe(images=str(tmp_path / "tiles"), pages=pages))
        said = [line for line in told if line.startswith("pages: 3 tiles of several pages, taken")]
        assert len(said) == (pages == "bands")
        assert all(line.endswith(": 3 bands of 3 pages; 1 left out") for line in said)
