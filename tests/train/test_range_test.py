"""The range test: its arithmetic against fastai's rules, the job, and `learning_rate: auto`."""

import json
import math
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from by_hand import planned, worked
from hypothesis import given
from hypothesis import strategies as st
from train.small_archive import BANDS, generate, make_recipe, make_run

from satray.config.train import LandscapeRecipe, RangeOptions
from satray.errors import InputError, TrainingError
from satray.storage import Storage
from satray.train import initial, job, range_test
from satray.train.range_test import Curve, Finding, Suggestions, suggest, sweep, valley_index
from satray.train.setup import set_up

RANGE = {"lowest": 1e-5, "highest": 10.0, "steps": 20, "seeds": 2}
ONCE = RANGE | {"seeds": 1}
RESNET = {"towers": [{"name": "all4", "backbone": "test_resnet", "bands": BANDS}]}
PLAIN = {"flips": "none", "crop": "centre", "brightness": 0, "contrast": 0}


# Arithmetic


def fastai_valley(losses):
    """fastai/callback/schedule.py, `valley`, as it stands there."""
    n = len(losses)
    max_start, max_end = 0, 0
    lds = [1] * n
    for i in range(1, n):
        for j in range(i):
            if (losses[i] < losses[j]) and (lds[i] < lds[j] + 1):
                lds[i] = lds[j] + 1
            if lds[max_end] < lds[i]:
                max_end = i
                max_start = max_end - lds[max_end]
    sections = (max_end - max_start) / 3
    return max_start + int(sections) + int(sections / 2)


@given(st.lists(st.floats(0, 10), min_size=3, max_size=40))
def test_valley_is_fastais(losses):
    # fastai's window may start one before the curve, where Python counts from the end
    assert valley_index(losses) == max(0, fastai_valley(losses))


def swept(loss, **options):
    """The sweep of a loss that is a function of the rate."""
    return sweep(loss, RangeOptions(**options))


def curve_of(loss, points=100):
    """Its first points from 1e-7 to 10, without smoothing."""
    rates = tuple(np.geomspace(1e-7, 10, 100)[:points].tolist())
    losses = tuple(map(loss, rates))
    return Curve(rates, losses, losses, 100)


def bowl(rate, bottom=-1.0, steepest=-3.0):
    """A loss that falls fastest at 10**steepest and is lowest at 10**bottom."""
    t = math.log10(rate)
    return 2 - math.tanh(3 * (t - steepest)) + max(0.0, t - bottom) ** 2 * 20


def test_rates_are_geometric_with_both_ends_and_smoothing_equals_the_closed_form():
    values = np.random.default_rng(0).normal(2, 0.1, 61)
    left, memory = iter(values), 0.98
    curve = swept(lambda _: next(left), lowest=1e-6, highest=1.0, steps=61)
    np.testing.assert_allclose(curve.learning_rates, 10 ** (np.arange(61) / 10 - 6))
    assert curve.losses == tuple(values)
    for i in (0, 1, 20, 60):
        weights = memory ** np.arange(i, -1, -1)
        expected = (weights * values[: i + 1]).sum() / weights.sum()
        assert curve.smoothed[i] == pytest.approx(expected)


def test_a_sweep_ends_where_the_loss_bursts_or_is_not_finite():
    curve = swept(lambda rate: 1 + 1e3 * max(0.0, math.log10(rate) + 1))
    assert len(curve.losses) < curve.steps == 100
    assert curve.smoothed[-1] > 4 * min(curve.smoothed)
    assert all(s <= 4 * min(curve.smoothed[: i + 1]) for i, s in enumerate(curve.smoothed[:-1]))
    cut = swept(lambda rate: bowl(rate) if rate < 1 else math.nan)
    assert max(cut.learning_rates) < 1
    assert np.isfinite(cut.losses).all()
    for left in (12, 0):
        values = iter([2.0] * left + [math.nan])
        with pytest.raises(TrainingError, match=rf"after {left} of 100 .*landscape\.lowest") as e:
            suggest(swept(lambda _, values=values: next(values)))
        assert "\n" not in str(e.value)


def test_suggestions_of_a_known_bowl_and_their_median():
    curve = curve_of(bowl)
    found = suggest(curve)
    assert found.steep == pytest.approx(1e-3, rel=0.25)
    assert found.minimum == pytest.approx(1e-2, rel=0.25)
    assert 1e-4 < found.valley < 1e-1
    # elsewhere in the first tenth and in the last five points, which do not count
    spoilt = (*range(50, 60), *curve.losses[10:95], *range(90, 95))
    assert suggest(replace(curve, smoothed=spoilt)) == found
    # a curve that ends early is cut from its own end
    assert suggest(curve_of(bowl, 70)).steep == found.steep
    # of bowls that lie a decade apart each, the middle one
    curves = [curve_of(partial(bowl, steepest=-3.0 - k, bottom=-1.0 - k)) for k in range(3)]
    middle = suggest(curves[1])
    assert asdict(Finding(0, "all", tuple(curves)).suggestions) == pytest.approx(asdict(middle))
    even = Finding(0, "all", (curves[0], curves[2])).suggestions
    assert even.steep == pytest.approx(middle.steep, rel=0.2)


@pytest.mark.parametrize(
    ("valley", "steep", "minimum", "expected"),
    [
        (2e-3, 3e-3, 1e-2, 2e-3),
        (1e-5, 3e-3, 1e-2, 1e-3),
        (0.5, 3e-3, 1e-2, 3e-2),
        (1e-2, 1e-1, 1e-3, 3e-3),  # the bounds cross: the upper one wins
    ],
)
def test_auto_stays_within_its_bounds(valley, steep, minimum, expected):
    assert Suggestions(valley, steep, minimum).chosen == pytest.approx(expected)


# Over an index


def landscape_of(archive, folder, stage=0, **changes):
    plain = make_recipe(archive, folder, **{"landscape": RANGE, **changes}).model_dump()
    return LandscapeRecipe.model_validate(plain | {"stage": stage})


def losses_of(archive, folder, **changes):
    """The loss of each step of the job `landscape`, by seed."""
    run, _ = make_run(folder / "out", ray=False)
    worked(range_test, landscape_of(archive, folder, **changes), run)
    table = pq.read_table(run.uri("landscape.parquet")).to_pylist()
    seeds = sorted({row["seed"] for row in table})
    return [[row["loss"] for row in table if row["seed"] == seed] for seed in seeds]


def test_auto_fills_the_open_stages_once_and_keeps_the_rest(small_archive, tmp_path):
    stages = [
        {"trainable": "head", "learning_rate": "auto", "pseudo_epochs": 1},
        {"trainable": "all", "learning_rate": 2e-4, "pseudo_epochs": 1},
        {"trainable": "head", "learning_rate": "auto", "pseudo_epochs": 1, "dropout": 0.3},
    ]
    recipe = make_recipe(small_archive, tmp_path, stages=stages, landscape=RANGE, precision="fp32")
    run, said = make_run(tmp_path / "out", ray=False)
    setup = set_up(recipe, run.storage)
    weights = initial.prepare(setup, run)
    before = Path(weights).read_bytes()

    settled, found = range_test.settle(setup, run, weights)

    assert [each.stage for each in found] == [0, 2]
    assert [len(each.curves) for each in found] == [2, 2]
    one, other = (each.learning_rate for each in found)
    assert [stage.peak for stage in settled.plan.stages] == [one, 2e-4, other]
    assert RANGE["lowest"] < one <= found[0].suggestions.bounds[1]
    assert sum("range test of stages[2] (head)" in line for line in said) == 1
    assert "range test: precision: fp32 on a CPU" in said
    assert Path(weights).read_bytes() == before
    # a run that goes on finds what was found, and does not search again
    spent = dict(run.seconds)
    again, kept = range_test.settle(setup, run, weights)
    assert (kept, again.plan, run.seconds) == (found, settled.plan, spent)


def test_the_job_writes_curve_picture_and_figures(small_archive, tmp_path):
    recipe = landscape_of(small_archive, tmp_path)
    run, _ = make_run(tmp_path / "job", ray=False)
    outcome = worked(range_test, recipe, run)
    table = pq.read_table(run.uri("landscape.parquet"))
    assert table.column_names == ["seed", "step", "learning_rate", "loss", "smoothed"]
    assert set(table.column("seed").to_pylist()) == {0, 1}
    assert table.num_rows == outcome.counts["batches"]
    figures = json.loads(Path(run.uri("metrics.json")).read_text())
    assert figures["learning_rate"] == outcome.metrics["learning_rate"]
    assert {"valley", "steep", "minimum", "bounds", "seeds"} <= figures.keys()
    assert Path(run.uri("landscape.png")).read_bytes()[:4] == b"\x89PNG"
    assert "stages.0.learning_rate=" in outcome.summary[1]
    assert "2 sweeps of 20 batches of 8" in "\n".join(planned(range_test, recipe))


def test_the_same_seed_gives_the_same_curves_and_another_another(small_archive, tmp_path):
    common = {"augment": {"mixup": 0.2}, "batch": 4}
    (one, second), (again,), (other,) = (
        losses_of(small_archive, tmp_path / str(number), **common, **changes)
        for number, changes in enumerate(({}, {"landscape": ONCE}, {"landscape": ONCE, "seed": 7}))
    )
    assert one == again
    assert one != other
    assert one != second
    assert one[0] == pytest.approx(second[0], rel=0.5)


def test_it_sweeps_as_the_recipe_would_train(small_archive, tmp_path):
    """Batch norms see what they will see, and never a single tile; rates fall by block."""
    rates = {"lowest": 1e-4, "highest": 1e-2, "steps": 20, "seeds": 1}
    common = {"variant": RESNET, "batch": 4, "landscape": rates, "augment": PLAIN}
    two = {"resources": {"workers": 2, "gpus": "auto"}}
    lost = {
        name: losses_of(small_archive, tmp_path / name, **{**common, **changes})[0]
        for name, changes in {
            "one": {},
            "two": two,
            "halves": {"accumulate": 2},
            "decayed": {"stages": [{"layer_decay": 0.1}]},
        }.items()
    }
    np.testing.assert_allclose(lost["two"], lost["halves"], rtol=1e-5)
    assert max(np.abs(np.subtract(lost["two"], lost["one"]))) > 1e-3
    assert lost["decayed"][0] == pytest.approx(lost["one"][0])
    assert lost["decayed"][-1] != pytest.approx(lost["one"][-1])


def test_tiles_that_cannot_be_read_are_left_out_within_the_budget(tmp_path):
    spoilt = generate(tmp_path / "spoilt", tiles=32, spoil=(5,))
    common = {"landscape": ONCE, "batch": 4}
    assert losses_of(spoilt, tmp_path / "fits", error_budget=0.1, **common)
    calm = {"batch": 1, "landscape": {**ONCE, "steps": 30, "highest": 1e-3}}  # 24 train tiles
    (losses,) = losses_of(spoilt, tmp_path / "alone", error_budget=0.1, **calm)
    assert 28 <= len(losses) < 30
    with pytest.raises(TrainingError, match=r"could not be read .error_budget=0\.01.") as error:
        losses_of(spoilt, tmp_path / "exceeds", error_budget=0.01, **common)
    assert "\n" not in str(error.value)


def test_a_landscape_refuses_only_what_it_uses(small_archive, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    changes = {"tracking": "mlflow"}
    planned(range_test, landscape_of(small_archive, tmp_path, **changes))
    with pytest.raises(InputError, match="MLFLOW_TRACKING_URI"):
        job.read(make_recipe(small_archive, tmp_path, **changes), Storage())
    with pytest.raises(InputError, match=r"stage=1: the recipe has 1 stage; accepted: 0$"):
        range_test.read(landscape_of(small_archive, tmp_path, stage=1), Storage())
