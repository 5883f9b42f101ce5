"""Which tiles a report shows, the paper's figure 3 without its slip, and how."""

import io
import itertools

import numpy as np
import pytest
import report_material
import scoring_material as material
import torch
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from satray.evaluate.gallery import Pick, ends, render, worst
from satray.metrics.scored import Rule, Scored
from satray.models.geometry import FeatureGrid, cells_on_tile
from satray.models.radiometry import Radiometry
from satray.report.tiles import SIDE, on_pixels, shrunk, stretched, thumbnail
from satray.score.tiles import tiles_of_index
from satray.storage import Storage


def scored(logits, labels, task: str = "multilabel", **rule) -> Scored:
    logits = np.asarray(logits, dtype=float)
    return Scored.of(logits, np.asarray(labels), logits.shape[1], task, Rule(**rule))


@given(
    st.lists(st.tuples(st.integers(-9000, 9000), st.booleans()), min_size=1, max_size=60),
    st.integers(1, 12),
    st.integers(5, 95),
)
def test_ends_are_ends(tiles, most, threshold) -> None:
    values, labels = [value for value, _ in tiles], np.array([[label] for _, label in tiles])
    logits = np.array(values)[:, None] / 100  # torch may have taken denormal floats from us
    of = scored(logits, labels, "binary", thresholds=(threshold / 100,))
    found = ends(of, 0, most)
    top, bottom = [p.row for p in found.top], [p.row for p in found.bottom]
    chosen = np.flatnonzero(of.predicted[:, 0])
    right = int(labels[chosen].sum())
    assert (found.predicted, found.right, found.positives) == (len(chosen), right, labels.sum())
    assert len(top) == min(most, len(chosen))
    assert len(bottom) == min(most, len(chosen) - len(top))
    rest = sorted(of.ranks[list(set(chosen) - set(top)), 0])
    assert all(of.ranks[row, 0] >= value for row in top for value in rest)
    assert [of.ranks[row, 0] for row in bottom] == rest[: len(bottom)]
    for pick in (*found.top, *found.bottom):
        assert pick.verdict == ("TP" if labels[pick.row, 0] else "FP")
        assert pick.score == of.scores[pick.row, 0]


def test_worst_errors_come_first_where_scores_saturate_too() -> None:
    logits = [[800.0], [-100.0], [40.0], [-850.0]]  # scores of 1.0, and losses that go on
    found = worst(scored(logits, [[0], [1], [0], [1]], "binary"))
    assert [(p.row, p.verdict) for p in found] == [(3, "FN"), (0, "FP"), (1, "FN"), (2, "FP")]
    found = worst(scored([[5.0, 1, 0], [0, 2, 3], [1, 0, 9]], np.eye(3), "multiclass"))
    assert found[0].klass == 2  # tiles, for what they were called
    assert [(p.row, p.verdict) for p in found] == [(1, "FP")]


@given(
    st.lists(
        st.tuples(*[st.integers(-3000, 3000)] * 3, st.integers(0, 2)), min_size=1, max_size=30
    ),
    st.sampled_from(["multilabel", "multiclass"]),
    st.floats(0.2, 5),
)
def test_worst_errors_are_all_there_in_order_of_loss(tiles, task, temperature) -> None:
    z = np.array([tile[:3] for tile in tiles]) / 100
    labels = np.eye(3)[[tile[3] for tile in tiles]]
    of = scored(z, labels, task, temperature=temperature)
    found = worst(of, most=1000)
    assert len(found) == (of.predicted != of.labels).sum() / (2 if task == "multiclass" else 1)
    scaled = z / temperature
    if task == "multiclass":
        rows = np.logaddexp.reduce(scaled, axis=1) - scaled[labels.astype(bool)]
        losses = [rows[pick.row] for pick in found]
    else:
        every = np.logaddexp(0, np.where(labels, -scaled, scaled))
        losses = [every[pick.row, pick.klass] for pick in found]
    assert all(here >= after - 1e-9 for here, after in itertools.pairwise(losses))


def cells_on(spec, across: int, height: int, width: int) -> Affine:
    geometry = spec.preprocess().geometry(*spec.tile_shape)
    return cells_on_tile(geometry, spec.grids["rgb"], across, height, width)


@pytest.mark.parametrize("grid", [FeatureGrid(32, 0.5, None), FeatureGrid(32, 16, None)])
@pytest.mark.parametrize("cell", [(1, 2), (2, 1), (2, 2)])
@pytest.mark.parametrize(
    ("evaluate", "resize", "scale", "crop"),
    # stored px of the tile are 192 x 288, px of the picture 384 x 288
    [("whole", None, (384 / 128, 288 / 128), (0, 0)), ("centre", 160, (2.4, 1.2), (16, 56))],
)
def test_a_hot_cell_lies_where_it_looked(grid, cell, evaluate, resize, scale, crop) -> None:
    """Cell i has its centre at c + s i of the network's input, counted from the edge."""
    spec = material.bundle(
        material.one_tower(), evaluate=evaluate, resize=resize, size=128, tile_shape=(192, 288),
        grids={"rgb": grid},
    ).spec  # fmt: skip
    values = np.zeros((4, 4), np.float32)
    values[cell] = 1
    found = on_pixels(values, cells_on(spec, 4, 384, 288), 384, 288)
    hot = np.unravel_index(found.argmax(), found.shape)
    for axis in (0, 1):
        centre = scale[axis] * (crop[axis] + grid.centre + 32 * cell[axis])
        assert abs(hot[axis] + 0.5 - centre) <= 1


def test_a_cell_centre_has_the_cells_value() -> None:
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    found = on_pixels(values, Affine.translation(0.5, 0.5) @ Affine.scale(10) @
                     Affine.translation(-0.5, -0.5), 40, 50)  # fmt: skip
    # cell (row, col) has its centre at 10 * row + 0.5: the centre of pixel 10 * row
    assert np.allclose(found[0:21:10, 0:31:10], values)
    assert np.allclose(found[:, 5], found[:, 0] + 0.5)  # bilinear in between
    assert np.allclose(found[:, 49], found[:, 31])  # edge cells go on
    alone = on_pixels(np.full((1, 1), 3, np.float32), Affine.scale(7), 5, 6)
    assert np.allclose(alone, 3.0, rtol=1e-15)


def drawn_of(found, picks, d4=False, **more):
    tiles = tiles_of_index(found.index, found.spec.classes)
    bundle = material.bundle(material.one_tower(), **more)
    return bundle, render(picks, tiles, bundle, Storage(), d4=d4)


def decoded(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data))).astype(int)


def test_each_picture_has_its_tile_and_the_map_of_its_own_class(tmp_path) -> None:
    found = report_material.findings(tmp_path, tiles=20)  # more than are read at once
    pairs = [(0, 2), (0, 0), (1, 2), (3, 0), (19, 0)]
    bundle, drawn = drawn_of(found, [Pick(row, klass, 0.5, "TP") for row, klass in pairs])
    assert set(drawn) == set(pairs)
    weights_KD = bundle.network.cam_weights()["rgb"].numpy()
    colours, evidence = {}, {}
    for row, klass in pairs:
        tile = material.pixels(row)[[2, 1, 0]]  # red, green, blue; mean and std are 2000, 1000
        colours[row] = shrunk(stretched(tile, (0.0,) * 3, (4000.0,) * 3))
        side = len(colours[row])
        features = bundle.features(torch.from_numpy(tile[None]))
        map_hw = np.tensordot(weights_KD[klass], features["rgb"][0].numpy(), 1)
        cells = cells_on(bundle.spec, map_hw.shape[1], side, side)
        evidence[row, klass] = np.clip(on_pixels(map_hw, cells, side, side), 0, None)
    assert not np.allclose(evidence[0, 2], evidence[0, 0], atol=1e-2)
    for row, klass in pairs:
        top = max(evidence[one].max() for one in pairs if one[1] == klass)
        expected = thumbnail(colours[row], evidence[row, klass] / top)
        assert np.abs(decoded(drawn[row, klass]) - decoded(expected)).max() < 12


def test_d4_reaches_the_pictures_and_unreadable_tiles_are_left_out(tmp_path) -> None:
    found = report_material.findings(tmp_path)
    picks = ends(found.quality.scored, 0).top
    one, other = drawn_of(found, picks)[1], drawn_of(found, picks, d4=True)[1]
    assert one.keys() == other.keys() == {(pick.row, 0) for pick in picks}
    assert any(one[key] != other[key] for key in one)
    scale = Radiometry("percentile", (0.0,) * 3, (4000.0,) * 3)
    scaled = drawn_of(found, picks, mean=(0.5,) * 3, std=(0.25,) * 3, radiometry=scale)[1]
    for key, picture in scaled.items():  # what the network sees, however it is stored
        apart = decoded(picture)[:, :SIDE] - decoded(one[key])[:, :SIDE]
        assert np.abs(apart).mean() < 0.5  # a coefficient of the JPEG may be rounded otherwise
    gone, broken = (picks[i].row for i in (0, 1))
    (tmp_path / "tiles" / f"a&b{gone}.tif").unlink()
    (tmp_path / "tiles" / f"a&b{broken}.tif").write_bytes(b"no tiff")
    assert one.keys() - drawn_of(found, picks)[1].keys() == {(gone, 0), (broken, 0)}
