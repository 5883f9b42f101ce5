"""How far a scene's values lie from the training's."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scoring.scenes.scene_material import noise, opened, spec, write

from satray.data.statistics import count_pixels, summarise
from satray.models.radiometry import Radiometry
from satray.scoring.scenes.drift import (
    BINS,
    BandReference,
    drift,
    references_of_bundle,
    references_of_index,
    stability_index,
)
from satray.scoring.scenes.sample import ACROSS, SIDE, sample, sample_places

RNG = np.random.default_rng(11)
TRAINING = RNG.gamma(4, 250, 200_000).astype(np.uint16)
STATISTICS = summarise("red", count_pixels(TRAINING))


def measured(values, limit=1.0):
    return drift(["red"], [count_pixels(values)], references_of_index([STATISTICS]), limit)


def test_the_trainings_own_pixels_have_none():
    found = measured(TRAINING[::7])
    assert found.score < 0.02
    assert found.bands[0].index < 0.01
    assert found.warning is None


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x + 1000,  # an offset forgotten
        lambda x: x // 256,  # 8 bits for 16
        lambda x: (x * 0.0001 + 0.5).astype(np.float32),  # reflectance for counts
        lambda x: x * 0,
    ],
)
def test_mistakes_are_warned_of(change):
    found = measured(change(TRAINING))
    assert found.score >= 1
    assert found.bands[0].index > 0.25
    assert "red" in found.warning
    assert "\n" not in found.warning


def test_the_index_is_its_definition():
    edges = {"25": 1.5, "50": 2.5, "75": 3.5}
    counted = count_pixels(np.array([1, 1, 2, 2, 3, 4, 4, 4, 4, 4], np.uint8))
    a, e = np.array([0.2, 0.2, 0.1, 0.5]), np.full(4, 0.25)
    assert stability_index(counted, edges) == pytest.approx(((a - e) * np.log(a / e)).sum())


def test_percentiles_that_are_one_value():
    zeros = np.r_[np.zeros(900, np.uint16), np.arange(100, dtype=np.uint16)]
    counted = count_pixels(zeros)
    assert stability_index(counted, summarise("b", counted).percentiles) < 0.02


@given(st.lists(st.integers(0, 60000), min_size=1, max_size=50))
def test_histogram_counts_every_pixel(values):
    found = measured(np.array(values, np.uint16))
    (band,) = found.bands
    assert sum(band.counts) == len(values) == band.valid
    assert len(band.counts) == BINS
    assert band.index >= -1e-12
    assert np.isfinite(band.score)


def test_a_scene_without_data_has_no_drift():
    found = measured(np.zeros(0, np.uint16))
    assert (found.score, found.warning, found.bands[0].index) == (0, None, None)
    assert drift(["nir"], [count_pixels(TRAINING)], references_of_index([STATISTICS])).bands == ()


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


def test_sample_of_a_scene(tmp_path):
    values = noise(2, 1500, 700)
    values[:, :800] = 0
    path = write(tmp_path / "a.tif", values, ("red", "nir"), nodata=0)
    with opened(path, ("nir", "red")) as scene:
        nir, red = sample(scene)
    assert nir.valid == red.valid
    assert 0 < nir.valid < 4 * 256 * 700
    assert summarise("nir", nir).mean == pytest.approx(values[1, 800:].mean(), rel=0.01)
    assert summarise("nir", nir).min >= 1
