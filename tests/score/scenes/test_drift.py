"""How far a scene's values lie from the training's."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from score.scenes.scene_material import opened, spec, write

from satray.models.radiometry import Radiometry
from satray.score.scenes.drift import (
    ACROSS,
    SIDE,
    BandReference,
    drift,
    references_of_bundle,
    sample_places,
)

TRAINING = np.random.default_rng(11).gamma(4, 250, (1, 400, 500)).astype(np.uint16)
RED = BandReference("red", float(TRAINING.mean()), float(TRAINING.std()))


def measured(tmp_path, values, *references, **more):
    names = ("red", "nir")[: len(values)]
    with opened(write(tmp_path / "a.tif", values, names, **more), names) as scene:
        return drift(scene, references or (RED,))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x: x + 1000, r"red mean \d+\.?\d* is \+2\.0 deviations off"),  # an offset forgotten
        (lambda x: x // 256, "red spreads 0.0"),  # 8 bits for 16
        (lambda x: (x * 0.0001 + 0.5).astype(np.float32), "red spreads"),  # reflectance
        (lambda x: x * 0, "red spreads 0.001 times as far"),
        (lambda x: x * 1e15, "red mean"),
    ],
)
def test_mistakes_are_warned_of(tmp_path, change, said):
    found = measured(tmp_path, change(TRAINING))
    assert 1 <= found.score < np.inf
    assert "\n" not in found.warning
    assert re.search(said, found.warning)


@given(st.lists(st.integers(0, 60000), min_size=1, max_size=50), st.floats(0.1, 1e4))
def test_the_score_is_its_definition(tmp_path_factory, values, std):
    x = np.array(values, np.uint16)
    found = measured(
        tmp_path_factory.mktemp("drift"), x[None, None], BandReference("red", 2000.0, std)
    )
    shift = abs(x.mean() - 2000) / std
    spread = abs(np.log(max(x.std() / std, 1e-3)))
    assert found.score == pytest.approx(max(shift, spread), rel=1e-6)


def test_windows_over_a_large_scene_pass_over_what_is_no_data(tmp_path):
    values = np.random.default_rng(3).integers(1, 4000, (2, 1500, 700)).astype(np.uint16)
    values[:, :800] = 0
    own = [BandReference(n, 2000.0, 1155.0) for n in ("red", "nir")]
    assert measured(tmp_path, values, *own, nodata=0).score < 0.02
    assert measured(tmp_path, values, *own).score > 0.5


def test_nothing_to_compare(tmp_path):
    found = measured(tmp_path, TRAINING)
    assert (found.score < 1e-6, found.warning) == (True, None)
    assert measured(tmp_path, np.zeros((1, 40, 40), np.uint16), nodata=0) is None
    assert measured(tmp_path, TRAINING, BandReference("swir16", 1.0, 1.0)) is None
    assert measured(tmp_path, np.concatenate([TRAINING, TRAINING * 9]), RED).warning is None


def test_references_of_bundles():
    (red, *_) = references_of_bundle(spec())
    assert red == BandReference("red", 2000, 1000)
    stretch = Radiometry("percentile", (100.0,) * 3, (2100.0,) * 3)
    values = {"mean": (0.5,) * 3, "std": (0.2,) * 3, "radiometry": stretch}
    (red, *_) = references_of_bundle(spec(**values))
    assert (red.mean, red.std) == (1100, pytest.approx(400))
    assert references_of_bundle(spec(std=(0.0, 1.0, 1.0)))[0].name == "green"


@given(st.integers(1, 10**6))
def test_sample_places(size):
    places = sample_places(size)
    assert sum(length for _, length in places) == min(size, ACROSS * SIDE)
    ends = [0]
    for start, length in places:
        assert ends[-1] <= start
        ends.append(start + length)
    assert ends[-1] <= size
