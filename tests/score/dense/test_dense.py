"""Windows of a scene in both directions: identities, gaps, symmetries, other engines."""

import numpy as np
import pytest
import torch
from score.dense import dense_material as material

from satray.models.network import argmax_cam, dense_cam, pool
from satray.score.forward import ELEMENTS, turn, turn_back
from satray.score.results import MapRequest
from satray.score.window_forward import DenseScorer, measure
from satray.score.windows import least_side, plan_scene

close = {"rtol": 1e-4, "atol": 1e-4}
ALL = (0, 1, 2)


def whole(valid_shape):
    return np.ones(valid_shape, dtype=bool)


@pytest.fixture(scope="module")
def scene():
    """Nine windows, whole, of a small ResNet with averages; and its features in one forward."""
    torch.set_flush_denormal(True)
    bundle = material.bundle(material.variant(), 96)
    geometry = measure(bundle)
    side = least_side(geometry)
    shape = (side + 300, side + 217)
    pixels = material.scene(3, *shape)
    padded = tuple(geometry.padded(length) for length in shape)
    features = material.whole_features(bundle, pixels, whole(shape), padded)
    return bundle, geometry, pixels, features


def test_both_directions_and_both_maps(scene):
    bundle, geometry, pixels, features = scene
    shape = pixels.shape[1:]
    plan = plan_scene(*shape, geometry, step=32, window=1, argmax=True)
    assert len(plan.windows) >= 4
    wanted = MapRequest((2, 0), ("dense", "argmax"))
    done = material.all_windows(bundle, plan, wanted, pixels, whole(shape))
    w_KD = bundle.network.cam_weights()["rgb"]
    dense = material.stitched(plan, done, "dense", "rgb", 2)
    expected = dense_cam(features["rgb"], w_KD)[0].numpy()
    there = ~np.isnan(dense[0])
    assert there.mean() > 0.85
    np.testing.assert_allclose(dense[:, there], expected[[2, 0]][:, there], **close)
    argmax = material.stitched(plan, done, "argmax", "rgb", 2)
    n = geometry.towers[0].tile_cells
    for i in range(0, expected.shape[1], n):
        for j in range(0, expected.shape[2], n):
            block = features["rgb"][:, :, i : i + n, j : j + n]
            here = there[i : i + n, j : j + n]
            np.testing.assert_allclose(
                argmax[:, i : i + n, j : j + n][:, here],
                argmax_cam(block, w_KD)[0, [2, 0]].numpy()[:, here],
                **close,
            )


def test_tiles_are_pools_of_the_whole_scene_and_means_of_the_map(scene):
    bundle, geometry, pixels, features = scene
    shape = pixels.shape[1:]
    plan = plan_scene(*shape, geometry, step=32, window=1)
    done = material.all_windows(bundle, plan, MapRequest(ALL), pixels, whole(shape))
    logits = material.gathered(plan, done)["logits"]
    dense = material.stitched(plan, done, "dense", "rgb", 3)
    bias = bundle.network.head.bias.numpy()
    n = geometry.towers[0].tile_cells
    for i, top in enumerate(plan.rows.starts["rgb"]):
        for j, left in enumerate(plan.cols.starts["rgb"]):
            part = dense[:, top : top + n, left : left + n]
            np.testing.assert_allclose(part.mean((1, 2)) + bias, logits[i, j], **close)
            f = features["rgb"][:, :, top : top + n, left : left + n]
            z = bundle.network.head(pool(f, "avg"))[0].numpy()
            np.testing.assert_allclose(z, logits[i, j], **close)
    assert logits.std((0, 1)).min() > 0.01
    numbers = material.gathered(plan, done)
    np.testing.assert_allclose(numbers["scores"], 1 / (1 + np.exp(-logits / 1.5)), atol=1e-6)
    assert np.array_equal(numbers["preds"], logits >= 0)
    assert numbers["scored"].all()


@pytest.mark.parametrize("pooling", ["max", "lse"])
def test_maxima_and_log_sum_exp_of_two_towers(pooling):
    bundle = material.bundle(material.variant(pooling=pooling, towers=2), 96)
    geometry = measure(bundle)
    shape = (200, least_side(geometry) + 250)
    pixels = material.scene(4, *shape)
    plan = plan_scene(*shape, geometry, window=1, argmax=True)
    assert len(plan.windows) > 1
    done = material.all_windows(bundle, plan, MapRequest(ALL, ("argmax",)), pixels, whole(shape))
    numbers = material.gathered(plan, done)
    padded = tuple(geometry.padded(length) for length in shape)
    features = material.whole_features(bundle, pixels, whole(shape), padded)
    bias, n = bundle.network.head.bias.numpy(), 3
    maps = {t: material.stitched(plan, done, "argmax", t, 3) for t in ("rgb", "nir")}
    shares = numbers["share_rgb"] + numbers["share_nir"]
    np.testing.assert_allclose(shares + bias, numbers["logits"], **close)
    for i, top in enumerate(plan.rows.starts["rgb"]):
        for j, left in enumerate(plan.cols.starts["rgb"]):
            there = np.s_[:, top : top + n, left : left + n]
            pooled = [pool(features[t][0][there][None], pooling) for t in maps]
            z = bundle.network.head(torch.cat(pooled, 1))[0].numpy()
            np.testing.assert_allclose(z, numbers["logits"][i, j], **close)
            if pooling == "max" and top % n == 0 and left % n == 0:  # no overlap: it adds up
                total = sum(maps[t][there].sum((1, 2)) for t in maps)
                np.testing.assert_allclose(total + bias, z, **close)


def test_gaps_are_nan_in_maps_and_null_in_tiles():
    bundle = material.bundle(material.variant("resnet18"), 96)
    geometry = measure(bundle)
    shape = (192, least_side(geometry) + 192)
    pixels = material.scene(3, *shape)
    valid = whole(shape)
    valid[:, 300:500] = False
    pixels[:, ~valid] = 65535
    plan = plan_scene(*shape, geometry, step=32, window=1)
    done = material.all_windows(bundle, plan, MapRequest(ALL), pixels, valid)
    dense = material.stitched(plan, done, "dense", "rgb", 3)
    for j in range(dense.shape[2]):
        low, high = max(0, 32 * j + 0.5 - 16), min(shape[1], 32 * j + 0.5 + 16)
        blank = not valid[0, int(low) : int(np.ceil(high))].any()
        assert np.isnan(dense[:, :, j]).all() == blank
    mostly = material.mostly_data(plan, done)
    for j in range(dense.shape[2]):  # squares lie half a px off, and reach into the next
        low, high = max(0, 32 * j - 16), min(shape[1], 32 * j + 17)
        share = valid[0, low:high].mean() if low < high else 0
        assert (mostly[:6, j] == (share >= 0.5)).all()
    # the network saw the mean there
    padded = tuple(geometry.padded(length) for length in shape)
    features = material.whole_features(bundle, pixels, valid, padded)
    expected = dense_cam(features["rgb"], bundle.network.cam_weights()["rgb"])[0].numpy()
    there = ~np.isnan(dense)
    np.testing.assert_allclose(dense[there], expected[there], **close)
    numbers = material.gathered(plan, done)
    for j, left in enumerate(plan.cols.origins):
        share = valid[0, left : left + 96].mean()
        assert (numbers["scored"][:, j] == (share >= 0.5)).all()
        assert (np.isfinite(numbers["logits"][:, j]) == (share >= 0.5)).all()
        assert share >= 0.5 or not numbers["preds"][:, j].any()


def test_a_window_without_data_needs_no_forward():
    bundle = material.bundle(material.variant(towers=2), 96)
    plan = plan_scene(300, 300, measure(bundle))

    def never(x):
        raise AssertionError

    scorer = DenseScorer(bundle, plan, MapRequest(ALL), features=never)
    (window,) = plan.windows
    pixels = np.zeros((4, window.height, window.width), dtype=np.uint16)
    scores = scorer(pixels, pixels[0] > 0, window)
    assert np.isnan(scores.maps["dense"]["nir"]).all()
    assert scores.maps["dense"]["nir"].shape == (3, 10, 10)
    assert not scores.scored.any()
    assert set(scores.numbers.shares) == {"rgb", "nir"}


def test_the_eight_symmetries_are_those_of_the_whole_scene():
    bundle = material.bundle(material.variant(), 96)
    geometry = measure(bundle, d4=True)
    shape = (160, least_side(geometry) + 160)
    pixels = material.scene(3, *shape)
    plan = plan_scene(*shape, geometry, step=32, window=1)
    assert len(plan.windows) > 1
    done = material.all_windows(bundle, plan, MapRequest(ALL), pixels, whole(shape))
    x = (torch.from_numpy(pixels.astype(np.float32))[None] - 2000) / 1000
    expected = 0
    with torch.inference_mode():
        for g in ELEMENTS:
            f = turn_back(bundle.network.features(turn(x, g))["rgb"], g)
            expected = expected + dense_cam(f, bundle.network.cam_weights()["rgb"])[0] / 8
    dense = material.stitched(plan, done, "dense", "rgb", 3)
    np.testing.assert_allclose(dense, expected.numpy(), **close)
    logits = material.gathered(plan, done)["logits"]
    mean = dense[:, 1:4, 2:5].mean((1, 2)) + bundle.network.head.bias.numpy()
    np.testing.assert_allclose(mean, logits[1, 2], **close)
