"""The same ground gives the same logits, however it is said what of it is no measurement."""

import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp
from rasters import UTM
from score.dense import dense_material as material
from score.scenes.scene_material import write

from satray.classifier import Classifier
from satray.models.variant import BUILT_IN
from satray.score.forward import Scorer
from satray.score.results import MapRequest
from satray.score.scenes.find import find_scenes
from satray.score.scenes.grid import net_grid
from satray.score.scenes.open import Scene
from satray.score.scenes.read import read_window, with_fills
from satray.score.tiles import read_block, tiles_of_prefix, wanted_of
from satray.score.window_forward import TileScorer, measure
from satray.score.windows import plan_scene
from satray.storage import Storage

RGB = ("red", "green", "blue")
TURNED = ("b", "nir", *RGB[::-1])
SIDE = 48
CLOSE = {"rtol": 1e-4, "atol": 1e-4}
WAYS = ("tag", "mask", "msk", "alpha")


def say(folder, way, x_CHW, hidden_CHW, fill, names):
    """Write a tile whose hidden values are said one way; white lies below masks and alpha."""
    shown = np.where(hidden_CHW.all(0), 0, 255).astype(np.uint8)
    path, kept = folder / f"{way}.tif", x_CHW.copy()
    if way == "tag":
        kept[hidden_CHW] = fill
        write(path, kept, names, nodata=fill)
        return
    white = np.iinfo(x_CHW.dtype).max if x_CHW.dtype.kind != "f" else np.nan
    kept[hidden_CHW] = white
    if way == "alpha":
        alpha = np.where(shown, white if x_CHW.dtype.kind != "f" else 1, 0).astype(x_CHW.dtype)
        write(path, np.concatenate([kept, alpha[None]]), (*names, ""))
        with rasterio.open(path, "r+") as target:
            rest = [ColorInterp.undefined] * len(names)
            target.colorinterp = [*rest, ColorInterp.alpha]
        return
    write(path, kept, names, mask=shown if way == "mask" else None)
    if way == "msk":
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(path, "r+") as target:
            target.write_mask(shown)


def by_tile(of, folder) -> dict[str, np.ndarray]:
    """Logits by file name, as `score tiles=`."""
    tiles = tiles_of_prefix(str(folder), Storage().list(str(folder)))
    block = read_block(tiles.table, wanted_of(of.spec, tiles), Storage())
    assert [facts.error for facts in block.facts] == [None] * len(tiles)
    logits = Scorer(of)(block.pixels).numbers.logits
    return {
        f"{name}.tif": row
        for name, row in zip(tiles.table["tile_id"].to_pylist(), logits, strict=True)
    }


def read_piece(scene, grid, plan, piece):
    """Px of a window of tiles, with what stands in for gaps in each tile."""
    x, y = piece.col.px.start, piece.row.px.start
    window = read_window(scene, grid, x, y, piece.width, piece.height)
    size = plan.rows.size, plan.cols.size
    return with_fills(window, scene, grid, (y, x), plan.places(piece), size)


def by_scene(of, folder) -> dict[str, np.ndarray]:
    """Logits of each file's one tile, as `score scenes= mode=tiles`."""
    found = {}
    for ref in find_scenes(str(folder), Storage()).scenes:
        with Scene(ref, of.spec.bands, None, Storage(), dtype=of.spec.dtype) as scene:
            grid = net_grid(scene.facts.extent, of.spec)
            plan = plan_scene(grid.net_height, grid.net_width, measure(of), mode="tiles")
            (piece,) = plan.windows
            assert piece.tiles == 1
            pixels = read_piece(scene, grid, plan, piece)
            scorer = TileScorer(of, plan, MapRequest(), 0.1)
            made = scorer(pixels.pixels_CHW, pixels.measured_CHW, piece, pixels.fills_NC)
            found[ref.scene] = made.numbers.logits[0]
    return found


@pytest.mark.parametrize(
    ("dtype", "fill", "size", "names"),
    [
        ("uint8", 0, SIDE, RGB),
        ("uint16", 65535, 72, TURNED),
        ("uint32", 2**32 - 1, SIDE, TURNED),
        ("int8", -128, 72, RGB),
        ("int16", -9999, SIDE, TURNED),
        ("int32", -9999, 72, TURNED),
        ("float32", 9.969209968386869e36, SIDE, RGB),
        ("float64", np.nan, 72, TURNED),
    ],
)
def test_a_tile_and_a_scene(tmp_path, dtype, fill, size, names):
    """By tag, mask, `.msk` or alpha; at its own size and resized; bands in any place."""
    of = material.bundle(
        BUILT_IN["simple_cnn"],
        size,
        tile_shape=(SIDE, SIDE),
        dtype=dtype,
        mean=(70.0,) * 3,
        std=(30.0,) * 3,
    )
    rng = np.random.default_rng(1)
    x_CHW = rng.integers(20, 120, (len(names), SIDE, SIDE)).astype(dtype)
    hidden_HW = np.zeros((SIDE, SIDE), bool)
    hidden_HW[:, :17] = hidden_HW[30, 40] = True
    hidden_CHW = np.broadcast_to(hidden_HW, x_CHW.shape)
    for way in WAYS:
        say(tmp_path, way, x_CHW, hidden_CHW, fill, names)
    tiles, scenes = by_tile(of, tmp_path), by_scene(of, tmp_path)
    assert len(tiles) == len(scenes) == len(WAYS)
    for found in (tiles, scenes):
        for way in WAYS:
            np.testing.assert_allclose(found[f"{way}.tif"], tiles["tag.tif"], **CLOSE)
    # and of an array, by its mask, whatever lies below
    order = [names.index(name) for name in of.spec.bands]
    logits = Classifier(of).predict(x_CHW[order], valid=~hidden_HW).logits[0]
    np.testing.assert_allclose(logits, tiles["tag.tif"], **CLOSE)
    assert np.abs(Classifier(of).predict(x_CHW[order]).logits[0] - logits).max() > 1e-3


@pytest.mark.parametrize("size", [SIDE, 72])
def test_fill_in_one_band(tmp_path, size):
    of = material.bundle(
        BUILT_IN["simple_cnn"], size, tile_shape=(SIDE, SIDE), dtype="int16", nodata=-9999.0
    )
    x_CHW = np.random.default_rng(2).integers(500, 3000, (3, SIDE, SIDE)).astype(np.int16)
    x_CHW[1, :, 30:] = x_CHW[0, 5:9] = -9999
    write(tmp_path / "a.tif", x_CHW, RGB, nodata=-9999)
    tiles, scenes = by_tile(of, tmp_path), by_scene(of, tmp_path)
    np.testing.assert_allclose(scenes["a.tif"], tiles["a.tif"], **CLOSE)
    # a bundle knows what its tiles declared
    np.testing.assert_allclose(Classifier(of).predict(x_CHW).logits[0], tiles["a.tif"], **CLOSE)
    # measured values of a band stay beside what another lacks
    filled = x_CHW.copy()
    for x_HW in filled:
        x_HW[x_HW == -9999] = round(x_HW[x_HW > -9999].mean())
    np.testing.assert_allclose(Classifier(of).predict(filled).logits[0], tiles["a.tif"], **CLOSE)


def test_tiles_of_a_scene_are_filled_one_by_one(tmp_path):
    """Two tiles side by side, one darker: each with its own mean, resized too."""
    of = material.bundle(BUILT_IN["simple_cnn"], 72, tile_shape=(SIDE, SIDE))
    rng = np.random.default_rng(3)
    parts = [rng.integers(low, low + 900, (3, SIDE, SIDE)).astype(np.uint16) for low in (500, 3000)]
    for x_CHW in parts:
        x_CHW[:, :, :10] = 0
    for place, x_CHW in enumerate(parts):
        write(tmp_path / f"{place}.tif", x_CHW, RGB, nodata=0)
    whole = np.concatenate(parts, axis=2)
    (tmp_path / "s").mkdir()
    write(tmp_path / "s" / "w.tif", whole, RGB, nodata=0, transform=UTM)
    (ref,) = find_scenes(str(tmp_path / "s"), Storage()).scenes
    with Scene(ref, RGB, None, Storage()) as scene:
        grid = net_grid(scene.facts.extent, of.spec)
        plan = plan_scene(grid.net_height, grid.net_width, measure(of), mode="tiles")
        (piece,) = plan.windows
        pixels = read_piece(scene, grid, plan, piece)
    assert pixels.fills_NC is not None
    for fill_C, x_CHW in zip(pixels.fills_NC, parts, strict=True):
        np.testing.assert_array_equal(fill_C, [round(x[x > 0].mean()) for x in x_CHW])
    found = TileScorer(of, plan, MapRequest())(
        pixels.pixels_CHW, pixels.measured_CHW, piece, pixels.fills_NC
    )
    alone = by_tile(of, tmp_path)
    # edges between tiles are resampled across them, in a scene
    np.testing.assert_allclose(found.numbers.logits[0], alone["0.tif"], rtol=0.05, atol=0.05)
    np.testing.assert_allclose(found.numbers.logits[1], alone["1.tif"], rtol=0.05, atol=0.05)
