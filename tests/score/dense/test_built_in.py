"""Stitched windows are the whole-scene forward, for every built-in network."""

import numpy as np
import pytest
import torch
from score.dense import dense_material as material

from satray.models.network import dense_cam, pool
from satray.models.variant import BUILT_IN
from satray.score.results import MapRequest
from satray.score.window_forward import measure
from satray.score.windows import least_side, plan_scene

close = {"rtol": 1e-4, "atol": 1e-4}


@pytest.mark.parametrize(
    "name", ["single3", "single4", "double4", "mobilenet_v2", "resnet50_v2", "xception",
             "inception_v3"]
)  # fmt: skip
def test_stitched_is_the_whole_scene_forward(name):
    bundle = material.bundle(BUILT_IN[name], 128)
    geometry = measure(bundle)
    # long and low, so that the whole scene fits in one forward of a few seconds
    height, width = 160, least_side(geometry) + 100
    pixels = material.scene(len(bundle.spec.bands), height, width)
    valid = np.ones((height, width), dtype=bool)
    plan = plan_scene(height, width, geometry, step=32, window=1)
    assert len(plan.windows) >= 2
    done = material.all_windows(bundle, plan, MapRequest((0, 1, 2), ("dense",)), pixels, valid)
    padded = (geometry.padded(height), geometry.padded(width))
    with torch.inference_mode():
        tile = bundle.network.features(torch.zeros(1, len(pixels), 128, 128))
    for tower in geometry.towers:
        assert tile[tower.name].shape[2:] == (tower.tile_cells,) * 2
    features = material.whole_features(bundle, pixels, valid, padded)
    weights = bundle.network.cam_weights()
    pooling = bundle.spec.variant.pooling
    logits = bundle.network.head.bias.numpy()
    for tower, f in features.items():
        expected = dense_cam(f, weights[tower])[0].numpy()
        stitched = material.stitched(plan, done, "dense", tower, 3)
        assert np.isnan(stitched).mean() < 0.3  # cells beyond the scene
        scale = np.abs(expected).max()
        np.testing.assert_allclose(
            stitched / scale, np.where(np.isnan(stitched), np.nan, expected / scale), **close
        )
        assert np.nanstd(stitched) > 0.05
        pooled = np.array(
            [
                [
                    (
                        pool(f[:, :, i : i + plan.rows.counts[tower],
                               j : j + plan.cols.counts[tower]], pooling)
                        @ weights[tower].T
                    )[0].numpy()
                    for j in plan.cols.starts[tower]
                ]
                for i in plan.rows.starts[tower]
            ]
        )  # fmt: skip
        logits = logits + pooled
    found = material.gathered(plan, done)["logits"]
    scale = max(1, np.abs(logits).max())
    np.testing.assert_allclose(found / scale, logits / scale, **close)
    assert found.shape == (2, len(plan.cols), 3)
    assert torch.isfinite(torch.from_numpy(found)).all()
