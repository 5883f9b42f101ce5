"""How far a scene's values lie from the training's."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from score.scenes.scene_material import opened, spec, write

from satray.models.radiometry import Radiometry
from satray.score.scenes.drift import drift

TRAINING = np.random.default_rng(11).gamma(4, 250, (1, 400, 500)).astype(np.uint16)


MEAN, STD = float(TRAINING.mean()), float(TRAINING.std())


def measured(tmp_path, values, mean=MEAN, std=STD, bundle=None, **more):
    """Drift of values, red and if they are two green, from a bundle whose bands are all alike."""
    trained, bands = spec(mean=(mean,) * 3, std=(std,) * 3, **(bundle or {})), ("red", "green")
    bands = bands[: len(values)]
    with opened(write(tmp_path / "a.tif", values, bands, **more), bands) as scene:
        return drift(scene, trained)


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
    score, warning = measured(tmp_path, change(TRAINING))
    assert 1 <= score < np.inf
    assert "\n" not in warning
    assert re.search(said, warning)


@given(st.lists(st.integers(0, 60000), min_size=1, max_size=50), st.floats(0.1, 1e4))
def test_the_score_is_its_definition(tmp_path_factory, values, std):
    x = np.array(values, np.uint16)
    score, _ = measured(tmp_path_factory.mktemp("drift"), x[None, None], 2000.0, std)
    spread = abs(np.log(max(x.std() / std, 1e-3)))
    assert score == pytest.approx(max(abs(x.mean() - 2000) / std, spread), rel=1e-6)


def test_windows_over_a_large_scene_pass_over_what_is_no_data(tmp_path):
    values = np.random.default_rng(3).integers(1, 4000, (2, 1500, 700)).astype(np.uint16)
    values[:, :800] = 0
    assert measured(tmp_path, values, 2000.0, 1155.0, nodata=0)[0] < 0.02
    assert measured(tmp_path, values, 2000.0, 1155.0)[0] > 0.5


def test_the_trainings_units_and_nothing_to_compare(tmp_path):
    score, warning = measured(tmp_path, TRAINING)
    assert (score < 1e-6, warning) == (True, None)
    low, span = 100.0, 2000.0
    stretch = {"radiometry": Radiometry("percentile", (low,) * 3, (low + span,) * 3)}
    mean, std = (MEAN - low) / span, STD / span
    assert measured(tmp_path, TRAINING, mean, std, stretch)[0] < 1e-6
    assert measured(tmp_path, TRAINING, std=0.0) == (None, None)
    assert measured(tmp_path, np.zeros((1, 40, 40), np.uint16), nodata=0) == (None, None)
