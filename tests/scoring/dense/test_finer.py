"""Maps on a dilated last stage."""

import numpy as np
import pytest
import torch
from scoring.dense import dense_material as material

from satray.errors import InputError
from satray.models.cam import dense_cam
from satray.models.variant import BUILT_IN
from satray.scoring.dense.answers import Wanted
from satray.scoring.dense.finer import finer_features
from satray.scoring.dense.forward import DenseScorer
from satray.scoring.dense.measure import measure
from satray.scoring.dense.pieces import plan_tiles
from satray.scoring.dense.windows import least_side, plan_scene
from satray.scoring.symmetries import ELEMENTS, turn, turn_back

close = {"rtol": 1e-4, "atol": 1e-4}


@pytest.mark.parametrize("name", ["single3", "resnet50_v2", "double4", "mobilenet_v2"])
def test_every_second_cell_is_the_coarse_maps(name):
    bundle = material.bundle(BUILT_IN[name], 96)
    features = finer_features(bundle)
    x = torch.randn(1, len(bundle.spec.bands), 160, 192)
    with torch.inference_mode():
        fine, coarse = features(x), bundle.network.features(x)
    assert list(fine) == list(coarse)
    for tower, f in fine.items():
        assert f.shape[2:] == (10, 12)
        torch.testing.assert_close(f[:, :, ::2, ::2], coarse[tower], **close)


@pytest.mark.parametrize("name", ["xception", "inception_v3", "simple_cnn"])
def test_networks_that_cannot_be_dilated_are_refused(name):
    with pytest.raises(InputError, match=r"finer: .*ResNets"):
        finer_features(material.bundle(BUILT_IN[name], 96, settled=False))


@pytest.mark.parametrize("d4", [False, True])
def test_stitched_finer_maps_are_the_whole_scenes(d4):
    bundle = material.bundle(material.variant(), 96)
    coarse = measure(bundle, d4=d4).geometry
    geometry = coarse.finer(2)
    shape = (96, least_side(geometry) + 64) if d4 else (160, least_side(geometry) + 160)
    pixels = material.scene(3, *shape)
    valid = np.ones(shape, dtype=bool)
    plan = plan_scene(*shape, geometry, step=32, window=1)
    assert len(plan.windows) > 1
    features = finer_features(bundle)
    scorer = DenseScorer(bundle, plan, Wanted((0, 1, 2), ("dense",)), features)
    done = [
        (window, scorer(*material.cut(pixels, valid, window.row.px, window.col.px), window))
        for window in plan.windows
    ]
    x = (torch.from_numpy(pixels.astype(np.float32))[None] - 2000) / 1000
    w_KD = bundle.network.cam_weights()["rgb"]
    turns = ELEMENTS if d4 else range(1)
    expected = 0
    with torch.inference_mode():
        for g in turns:
            m = turn_back(dense_cam(features(turn(x, g))["rgb"], w_KD), g)[0]
            expected = expected + m / len(turns)
    dense = material.stitched(plan, done, "dense", "rgb", 3)
    assert dense.shape == (3, shape[0] // 16, shape[1] // 16)
    np.testing.assert_allclose(dense, expected.numpy(), **close)
    # tiles are those of the coarse cells
    plain = plan_scene(*shape, coarse, step=32)
    others = material.all_windows(bundle, plain, Wanted(), pixels, valid)
    np.testing.assert_allclose(
        material.gathered(plan, done)["logits"], material.gathered(plain, others)["logits"], **close
    )


def test_where_finer_cells_lie():
    geometry = measure(
        material.bundle(material.variant("resnet18"), 96, settled=False)
    ).geometry.finer(2)
    assert geometry.map_lattice("rgb").affine() @ (2.5, 1.5) == (32.5, 16.5)
    turned = measure(material.bundle(material.variant(), 96), d4=True).geometry.finer(2)
    assert turned.map_lattice("rgb").affine() @ (0.5, 1.5) == (8, 24)


def test_what_has_no_finer_cells():
    small = material.bundle(BUILT_IN["simple_cnn"], 48)
    with pytest.raises(InputError, match="halo: null"):
        measure(small).geometry.finer(2)
    with pytest.raises(InputError, match="pad throughout"):
        measure(material.bundle(BUILT_IN["inception_v3"], 96, settled=False)).geometry.finer(2)
    geometry = measure(material.bundle(material.variant(), 96)).geometry.finer(2)
    with pytest.raises(InputError, match="argmax"):
        plan_scene(300, 300, geometry, argmax=True)
    with pytest.raises(InputError, match="mode=tiles"):
        plan_tiles(300, 300, geometry)


def test_features_that_do_not_fit_the_plan_are_no_silent_error():
    bundle = material.bundle(material.variant(), 96)
    plan = plan_scene(96, 96, measure(bundle).geometry.finer(2))
    (window,) = plan.windows
    pixels = material.scene(3, 96, 96)
    with pytest.raises(ValueError, match=r"planned: .6, 6."):
        DenseScorer(bundle, plan, Wanted())(pixels, pixels[0] > 0, window)
    with pytest.raises(ValueError, match="not planned"):
        DenseScorer(bundle, plan, Wanted((0,), ("argmax",)))
