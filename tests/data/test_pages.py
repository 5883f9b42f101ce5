"""A band a page: which images of a TIFF are bands, in tiles and scenes alike."""

import numpy as np
import pytest
import rasterio
from by_hand import planned
from data.hostile import gdal_metadata, numbers, paged, pillow, tiff
from PIL import Image
from scoring.scenes.scene_material import opened

from satray.config.prepare import PrepareRecipe
from satray.data import prepare
from satray.data.decode import decode, read_pixels
from satray.errors import DecodeError
from satray.scoring.reading import MisfitError

X = numbers(4)
ONE = [X[k : k + 1] for k in range(4)]
FOUR = ("b1", "b2", "b3", "b4")
PLACE = {33550: [10.0, 10.0, 0.0], 33922: [0.0, 0.0, 0.0, 5e5, 5.3e6, 0.0]}
ELSEWHERE = {**PLACE, 33922: [0.0, 0.0, 0.0, 6e5, 5.3e6, 0.0]}
SMALL, BYTES, RGB = X[:1, :8, :8], numbers(1, dtype="uint8"), numbers(9, dtype="uint8")
LABELS = [
    (one, {270: name}) for one, name in zip(ONE, ("blue", "Green", "red", "NIR"), strict=True)
]
JSON = [(ONE[0], {270: '{"shape": [4, 24, 32]}'}), *ONE[1:]]
OVERVIEW, MASK = (X[:1, ::2, ::2], {254: 1}), {254: 4, 262: 4}
FRAMES = [Image.fromarray(band) for band in X]
NAMED = {42112: gdal_metadata((0, "description", "nir"))}

CASES = {
    "one a band": (paged(*ONE), FOUR, X, 0),
    "Pillow": (pillow(FRAMES[0], "TIFF", save_all=True, append_images=FRAMES[1:]), FOUR, X, 0),
    "LZW": (
        pillow(FRAMES[0], "TIFF", save_all=True, append_images=FRAMES[1:], compression="tiff_lzw"),
        FOUR, X, 0,
    ),
    "labels": (paged(*LABELS), ("blue", "green", "red", "nir"), X, 0),
    "JSON is no label": (paged(*JSON), FOUR, X, 0),
    "GDAL's descriptions": (paged(ONE[0], (ONE[1], NAMED)), ("b1", "nir"), X[:2], 0),
    "colours a page": (
        paged(RGB[:3], RGB[3:6], RGB[6:]), tuple(f"b{n}" for n in range(1, 10)), RGB, 0,
    ),
    "overview": (paged(*ONE[:2], OVERVIEW), ("b1", "b2"), X[:2], 0),
    "overview and mask": (paged(ONE[0], (BYTES | 1, MASK), OVERVIEW), ("gray",), X[:1], 0),
    "thumbnail": (paged(*ONE[:2], SMALL), ("b1", "b2"), X[:2], 1),
    "labels of another dtype": (paged(ONE[0], ONE[1], BYTES), ("b1", "b2"), X[:2], 1),
    "one of another size": (paged(ONE[0], SMALL), ("gray",), X[:1], 1),
    "georeference of the first": (paged((ONE[0], PLACE), ONE[1]), ("b1", "b2"), X[:2], 0),
    "georeference of both": (paged((ONE[0], PLACE), (ONE[1], PLACE)), ("b1", "b2"), X[:2], 0),
    "another place": (paged((ONE[0], PLACE), (ONE[1], ELSEWHERE)), ("gray",), X[:1], 1),
    "palette": (
        pillow(FRAMES[0].convert("L").convert("P"), "TIFF", save_all=True,
               append_images=[FRAMES[1].convert("L").convert("P")]),
        ("red", "green", "blue"), None, 1,
    ),
    "ImageJ's stack": (
        paged((ONE[0], {270: "ImageJ=1.53t\nimages=4\nslices=4\n"})), ("gray",), X[:1], 1,
    ),
    "tifffile's stack": (
        paged((ONE[0], {270: '{"shape": [4, 24, 32], "truncated": true}'})), ("gray",), X[:1], 1,
    ),
    "ImageJ's one": (paged((ONE[0], {270: "ImageJ=1.53t\nimages=1\n"})), ("gray",), X[:1], 0),
    "one page": (tiff(X), FOUR, X, 0),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_which_pages_are_bands(tmp_path, case):
    data, names, values, left = CASES[case]
    tile = decode(data)
    assert tile.header.bands == names
    assert len(tile.header.pages_left) == left
    if values is not None:
        np.testing.assert_array_equal(tile.pixels, values)
        assert tile.valid.all()
    # training and scoring take the same, in any order
    take = tuple(reversed(range(len(names))))
    height, width = tile.pixels.shape[1:]
    pixels = read_pixels(data, take, height, width, tile.header.dtype)
    np.testing.assert_array_equal(pixels, tile.pixels[::-1])
    # and so does a scene
    (tmp_path / "a b#.tif").write_bytes(data)
    if tile.header.pages > 1:  # nobody looks beside it for where its pages lie
        (tmp_path / "a b#.tfw").write_text("10\n0\n0\n-10\n500000\n5000000\n")
    with opened(str(tmp_path / "a b#.tif"), names) as scene:
        x_CHW, valid_HW = scene.read(3, 5, 11, 13)
        np.testing.assert_array_equal(x_CHW, tile.pixels[:, 3:14, 5:18])
        assert valid_HW.all()
        said = [note for note in scene.facts.notes if "left out" in note or "pages taken" in note]
    assert len(said) == (tile.header.pages > 1) + left
    # only the first page, where that is asked for
    first = decode(data, pages="first")
    np.testing.assert_array_equal(first.pixels, tile.pixels[: len(first.pixels)])
    assert len(first.pixels) == (len(names) if tile.header.pages == 1 else first.pixels.shape[0])
    assert (first.header.pages, first.header.pages_left) == (1, ())


def test_pages_after_a_preview_are_named():
    tile = decode(paged((SMALL, {254: 1}), ONE[0], ONE[1]))
    assert tile.header.bands == ("gray",)
    assert [text[:15] for text in tile.header.pages_left] == ["page 2 (24 x 32", "page 3 (24 x 32"]


def test_masks_of_pages_hide_all_bands(tmp_path):
    first, second = np.ones((2, 1, 24, 32), np.uint8)
    first[0, :5] = second[0, :, 20:] = 0
    data = paged(ONE[0], (first, MASK), ONE[1], (second, MASK), OVERVIEW)
    shown_HW = (first & second)[0] > 0
    np.testing.assert_array_equal(decode(data).measured, [shown_HW] * 2)
    (tmp_path / "t.tif").write_bytes(data)
    with opened(str(tmp_path / "t.tif"), ("b1", "b2")) as scene:
        np.testing.assert_array_equal(scene.read(2, 3, 9, 20)[1], [shown_HW[2:11, 3:23]] * 2)


def test_nodata_of_pages_is_each_ones():
    x_CHW = X.copy()
    x_CHW[:, :4] = 7
    tile = decode(paged(*[(x_CHW[k : k + 1], {42113: "7"}) for k in range(4)]))
    assert not tile.valid[:4].any()
    assert tile.valid[4:].all()


@pytest.mark.parametrize(
    ("data", "more", "match"),
    [
        (paged(*ONE), {"bands": ("a", "b")}, r"has 4 bands \(4 pages of 1\), bands=.* names 2"),
        (paged(*ONE, SMALL), {"bands": ("a",)}, r"4 bands \(4 pages of 1; 1 more left out\)"),
        (
            paged(*ONE), {"bands": FOUR, "pages": "first"},
            r"has 1 band \(the first page's; 3 more left out\), bands=.* names 4",
        ),
        (tiff(X), {"bands": ("a",)}, r"has 4 bands, bands=.* names 1"),
        (paged(*[SMALL[:, :1, :1]] * 1025), {}, "holds 1,025 pages; accepted: at most 1,024, or"),
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
        (tmp_path / "tiles" / "ab"[n % 2]).mkdir(parents=True, exist_ok=True)
        (tmp_path / "tiles" / "ab"[n % 2] / f"{n}.tif").write_bytes(paged(*ONE[:3], SMALL))
    told = planned(prepare, PrepareRecipe(images=str(tmp_path / "tiles")))
    said = [line for line in told if line.startswith(("pages", "left out"))]
    assert said[0].startswith("pages: 3 tiles of several pages, taken as bands (pages=bands;")
    assert said[1].startswith("left out, unlike the first: in 3 tiles, e.g. ")
    assert said[1].endswith("page 4 (8 x 8 px, 1 band of uint16)")
    first = PrepareRecipe(images=str(tmp_path / "tiles"), pages="first")
    assert not [line for line in planned(prepare, first) if line.startswith(("pages", "left"))]
