"""Tile by tile: the numbers of tiles as they come, and maps of their cells."""

import numpy as np
import pytest
from score.dense import dense_material as material

from satray.errors import InputError
from satray.models.variant import BUILT_IN
from satray.score.forward import Scorer
from satray.score.results import MapRequest
from satray.score.window_forward import TileScorer, measure
from satray.score.windows import plan_scene

ALL = (0, 1, 2)
close = {"rtol": 1e-4, "atol": 1e-4}


def run(bundle, plan, wanted, pixels, valid):
    """Numbers by tile, and each tower's maps of the scene."""
    scorer = TileScorer(bundle, plan, wanted, batch=5)
    done = [
        (piece, scorer(*material.cut(pixels, valid, piece.row.px, piece.col.px), piece))
        for piece in plan.windows
    ]
    count = len(wanted.classes)
    maps = {
        tower.name: {
            kind: material.stitched(plan, done, kind, tower.name, count) for kind in wanted.kinds
        }
        for tower in plan.geometry.towers
    }
    return material.gathered(plan, done), maps


def crops(plan, pixels, size):
    return np.stack(
        [
            pixels[:, y : y + size, x : x + size]
            for y in plan.rows.origins
            for x in plan.cols.origins
        ]
    )


@pytest.mark.parametrize("d4", [False, True])
def test_numbers_are_those_of_tiles_one_by_one(d4):
    bundle = material.bundle(BUILT_IN["simple_cnn"], 48, tile_shape=(48, 48))
    pixels = material.scene(3, 150, 200)
    geometry = measure(bundle, d4=d4, tiles=True)
    plan = plan_scene(150, 200, geometry, step=20, window=100, mode="tiles")
    assert len(plan.windows) > 4
    numbers, _ = run(bundle, plan, MapRequest(), pixels, np.ones((150, 200), dtype=bool))
    expected = Scorer(bundle, d4=d4)(crops(plan, pixels, 48)).numbers
    np.testing.assert_allclose(numbers["logits"].reshape(-1, 3), expected.logits, **close)
    np.testing.assert_allclose(numbers["scores"].reshape(-1, 3), expected.scores, **close)


def test_maps_without_overlap_are_the_tiles_own():
    bundle = material.bundle(material.variant("simple_cnn", "max", towers=2), 48)
    pixels = material.scene(4, 48 * 3, 48 * 4)
    plan = plan_scene(48 * 3, 48 * 4, measure(bundle), window=48 * 2, mode="tiles")
    valid = np.ones(pixels.shape[1:], dtype=bool)
    numbers, maps = run(bundle, plan, MapRequest((1, 2), ("dense", "argmax")), pixels, valid)
    tiles = crops(plan, pixels, 48)
    for kind in ("dense", "argmax"):
        own = Scorer(bundle, MapRequest((1, 2), (kind,)))(tiles)
        for tower in ("rgb", "nir"):
            mosaic = own.maps[tower].reshape(3, 4, 2, 6, 6).transpose(2, 0, 3, 1, 4)
            np.testing.assert_allclose(maps[tower][kind], mosaic.reshape(2, 18, 24), **close)
    bias = bundle.network.head.bias.numpy()
    total = sum(maps[t]["argmax"].reshape(2, 3, 6, 4, 6).sum((2, 4)) for t in maps)
    np.testing.assert_allclose(
        total.transpose(1, 2, 0) + bias[1:], numbers["logits"][..., 1:], **close
    )
    shares = numbers["share_rgb"] + numbers["share_nir"]
    np.testing.assert_allclose(shares + bias, numbers["logits"], **close)


@pytest.mark.parametrize(("step", "side"), [(16, 60), (20, 90), (8, 1000), (60, 1000)])
def test_each_cell_is_that_of_the_nearest_tile_by_itself(step, side):
    bundle = material.bundle(BUILT_IN["simple_cnn"], 48)
    shape = (130, 170)
    pixels = material.scene(3, *shape)
    plan = plan_scene(*shape, measure(bundle), step=step, window=side, mode="tiles")
    _, maps = run(bundle, plan, MapRequest(ALL), pixels, np.ones(shape, dtype=bool))
    own = Scorer(bundle, MapRequest(ALL))(crops(plan, pixels, 48)).maps["rgb"]
    own = own.reshape(len(plan.rows), len(plan.cols), *own.shape[1:])
    tower = plan.geometry.tower("rgb")
    tops, lefts = plan.rows.starts["rgb"], plan.cols.starts["rgb"]
    expected = np.full((3, *plan.cells("rgb")), np.nan)
    for i, down in enumerate(plan.rows.cores(tower)):
        for j, across in enumerate(plan.cols.cores(tower)):
            there = own[i, j][:, down.within(tops[i]), across.within(lefts[j])]
            expected[:, down.within(0), across.within(0)] = there
    np.testing.assert_allclose(maps["rgb"]["dense"], expected, **close)
    assert np.isfinite(expected).mean() > (0.85 if step < 48 else 0.6)


def test_gaps():
    bundle = material.bundle(BUILT_IN["simple_cnn"], 48)
    shape = (96, 240)
    pixels = material.scene(3, *shape)
    valid = np.ones(shape, dtype=bool)
    valid[:, 90:190] = False
    plan = plan_scene(*shape, measure(bundle), step=24, window=72, mode="tiles")
    numbers, maps = run(bundle, plan, MapRequest(ALL), pixels, valid)
    cells = valid.reshape(12, 8, 30, 8).any((1, 3))
    assert np.array_equal(np.isnan(maps["rgb"]["dense"][0]), ~cells)
    for j, left in enumerate(plan.cols.origins):
        share = valid[0, left : left + 48].mean()
        assert (numbers["scored"][:, j] == (share >= 0.5)).all()
        assert (np.isfinite(numbers["logits"][:, j]) == (share >= 0.5)).all()


@pytest.mark.parametrize("shape", [(1, 1), (20, 300), (47, 48), (49, 50)])
def test_scenes_smaller_than_a_tile_are_filled_up(shape):
    bundle = material.bundle(BUILT_IN["simple_cnn"], 48)
    pixels = material.scene(3, *shape)
    plan = plan_scene(*shape, measure(bundle), mode="tiles")
    valid = np.ones(shape, dtype=bool)
    numbers, maps = run(bundle, plan, MapRequest(ALL), pixels, valid)
    tile = np.full((1, 3, 48, 48), 2000, dtype=np.uint16)  # the training mean
    tile[0, :, : shape[0], : shape[1]] = pixels[:, :48, :48]
    expected = Scorer(bundle)(tile).numbers.logits[0]
    np.testing.assert_allclose(numbers["logits"][0, 0], expected, **close)
    assert numbers["scored"][0, 0]
    assert np.isfinite(maps["rgb"]["dense"][:, 0, 0]).all()


def test_a_dense_head_scores_tiles_but_has_no_maps():
    options = material.variant("simple_cnn").model_copy(update={"head": "dense"})
    bundle = material.bundle(options, 48)
    plan = plan_scene(100, 130, measure(bundle), mode="tiles")
    pixels = material.scene(3, 100, 130)
    numbers, maps = run(bundle, plan, MapRequest(), pixels, np.ones((100, 130), dtype=bool))
    expected = Scorer(bundle)(crops(plan, pixels, 48)).numbers.logits
    np.testing.assert_allclose(numbers["logits"].reshape(-1, 3), expected, **close)
    assert maps == {"rgb": {}}
    with pytest.raises(InputError, match="dense head"):
        TileScorer(bundle, plan, MapRequest(ALL))
