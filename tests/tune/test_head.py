"""A head trained from features is the head that the whole network would have trained."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from train.small_archive import generate
from tune.feature_material import (
    DOUBLE,
    HEAD_STAGE,
    RESNET,
    from_features,
    in_memory,
    prepare,
    through_backbone,
)

from satray.errors import TrainingError
from satray.storage import Storage
from satray.train.loop import TIMES
from satray.train.plan import plan_training
from satray.tune.head import HeadTrial, step_all

LONGER = {**HEAD_STAGE, "pseudo_epochs": 4}
CASES = {
    "one tower, batch norm": {"variant": RESNET},
    "two towers, dropout": {"variant": DOUBLE, "dropout": 0.4},
    "rare classes, log-sum-exp": {"repeat": 0.9, "pooling": "lse", "stages": [LONGER]},
    "moving average, random crops": {
        "average": {"ema": 0.7},
        "input": {"size": 16, "resize": 24},
        "stages": [HEAD_STAGE, {**HEAD_STAGE, "dropout": 0.2, "layer_decay": 0.5}],
    },
    "resized crops, focal loss": {"augment": {"crop": "resized"}, "loss": {"name": "focal"}},
}


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """42 tiles, of which two of the train split cannot be read."""
    folder, classes = tmp_path_factory.mktemp("archive"), ("bright", "secondary_forest")
    return generate(folder, tiles=42, classes=classes, spoil=(5, 21))


@pytest.mark.parametrize("name", CASES)
def test_losses_are_those_of_training_through_the_backbone(archive, tmp_path, name):
    made = prepare(archive, tmp_path, **{"error_budget": 0.5, **CASES[name]})
    features = in_memory(made)
    whole, network = through_backbone(made)
    alone, states = from_features(made, features)
    assert len(whole) == len(alone) >= 3
    for key in ("train_loss", "val_loss"):
        found, wanted = ([row[key] for row in rows] for rows in (alone, whole))
        np.testing.assert_allclose(found, wanted, atol=1e-4, rtol=0)
    assert [each["unreadable"] for each in alone] == [each["unreadable"] for each in whole]
    assert sum(each["unreadable"] for each in whole) > 0
    trained, _ = states[-1]
    for key, value in network.state_dict().items():
        if key.startswith("head."):
            torch.testing.assert_close(trained[key], value, atol=1e-4, rtol=1e-4)
            assert not torch.equal(value, made.first[key]), "nothing was learnt"


@pytest.fixture(scope="module")
def trial(archive, tmp_path_factory):
    """A run with its features: 31 train tiles in three views, 11 of validation."""
    folder = tmp_path_factory.mktemp("trial")
    changes = {"average": {"ema": 0.8}, "dropout": 0.3, "pseudo_epoch": 48, "error_budget": 0.5}
    found = prepare(archive, folder, **changes)
    return found, in_memory(found)


# As a trial


def begun(trial, folder, setup=None):
    made, features = trial
    head_file = made.head_file(folder)
    return HeadTrial(setup or made.setup, *features, head_file, Storage())


def rows_of(trial):
    """All of its evaluations."""
    found = []
    while not trial.done:
        found.append(trial.step())
    return found


def figures(rows):
    return [(row["samples_seen"], row["train_loss"], row["val_loss"], row["map"]) for row in rows]


def test_it_trains_as_in_one_go_and_has_the_weights_of_its_last_evaluation(trial, tmp_path) -> None:
    whole, states = from_features(*trial)
    one, rows = begun(trial, tmp_path), []
    for _, wanted in states:
        rows.append(one.step())
        kept = one.kept()
        timeless = {name: rows[-1][name] for name in rows[-1] if name not in TIMES}
        assert (kept.samples_seen, kept.validation) == (rows[-1]["samples_seen"], timeless)
        assert kept.weights.keys() == wanted.keys()
        assert all(torch.equal(kept.weights[name], wanted[name]) for name in wanted)
        assert kept.predictions.logits_NK.shape == (11, 2)
    assert one.done
    assert figures(rows) == figures(whole)
    assert figures(rows_of(begun(trial, tmp_path))) == figures(whole)  # killed, it is as it was


# As one with others

SCHEDULES = [
    {"name": "constant"},
    {"name": "step", "step": 1.0},
    {"name": "one_cycle"},
    {"name": "triangular2", "cycle": 2.0, "warmup": 0.4},
]
CYCLED = {"name": "one_cycle", "cycle_momentum": True}
STACKS = {
    "adamw, dropout, moving average": {},
    "sgd that is clipped, without an average, two stages": {
        "optimizer": {"name": "sgd", "clip": 0.2, "weight_decay": 0.1},
        "average": {"ema": 0.0},
        "stages": [HEAD_STAGE, {**HEAD_STAGE, "pseudo_epochs": 1.5, "dropout": 0.0}],
    },
    "adam, momentum that cycles, focal loss": {
        "optimizer": {"name": "adam", "weight_decay": 0.2, "clip": 0.0},
        "stages": [{**HEAD_STAGE, "schedule": CYCLED}],
        "loss": {"name": "focal"},
    },
    "smoothed and weighed, rare classes": {
        "loss": {"smoothing": 0.1, "positive_weight": "balanced"},
        "repeat": 0.9,
    },
}


def stack_of(trial, **changes):
    """Set-ups that differ in learning rate and, unless their momentum cycles, in schedule."""
    setup, rows = trial[0].setup, trial[0].setup.plan.train_rows
    found = []
    for number, schedule in enumerate(SCHEDULES):
        tree = setup.recipe.model_dump() | changes
        stages = [dict(stage) for stage in tree["stages"]]
        stages[0]["learning_rate"] = 0.02 * 2**number
        if stages[0].get("schedule") != CYCLED:
            stages[0]["schedule"] = schedule
        recipe = type(setup.recipe).model_validate(tree | {"stages": stages})
        found.append(replace(setup, recipe=recipe, plan=plan_training(recipe, rows, 1)))
    return found


def together(some):
    """All rows of trials that train as one; of one that fails what it raised."""
    rows, wrong = {trial: [] for trial in some}, {}
    while left := [one for one in rows if not one.done and one not in wrong]:
        for one, found in zip(left, step_all(left), strict=True):
            if isinstance(found, Exception):
                wrong[one] = found
            else:
                rows[one].append(found)
    return [wrong.get(one, rows[one]) for one in rows]


def assert_alike(found, wanted) -> None:
    """Rows of two trainings but for what rounding and the clock make of them."""
    assert len(found) == len(wanted) > 0
    for one, other in zip(found, wanted, strict=True):
        assert one.keys() == other.keys()
        timeless = {k: v for k, v in other.items() if k not in TIMES}
        assert {k: one[k] for k in timeless} == pytest.approx(timeless, abs=2e-5, nan_ok=True)


@pytest.mark.parametrize("name", STACKS)
def test_heads_that_train_as_one_are_those_that_train_by_themselves(trial, tmp_path, name) -> None:
    setups = stack_of(trial, **STACKS[name])
    one, other = ([begun(trial, tmp_path, setup) for setup in setups] for _ in range(2))
    wanted = [rows_of(each) for each in one]
    assert len({rows[-1]["train_loss"] for rows in wanted}) == len(setups)
    for rows, alone in zip(together(other), wanted, strict=True):
        assert_alike(rows, alone)
        assert sum(row["unreadable"] for row in rows) > 0
    for found, alone in zip(other, one, strict=True):
        weights = found.kept().weights
        for key, value in alone.kept().weights.items():
            torch.testing.assert_close(weights[key], value, atol=1e-5, rtol=1e-4)


def test_a_head_that_bursts_ends_no_other(trial, tmp_path) -> None:
    setups = stack_of(trial)
    wanted = [rows_of(begun(trial, tmp_path, setup)) for setup in setups]
    setups[1] = replace(setups[1], plan=setups[1].plan.with_rates([1e36]))
    first, burst, *others = together([begun(trial, tmp_path, setup) for setup in setups])
    with pytest.raises(TrainingError, match="learning"):
        raise burst
    for rows, alone in zip((first, *others), (wanted[0], *wanted[2:]), strict=True):
        assert_alike(rows, alone)


def test_heads_of_which_a_step_is_left_out_go_on_by_themselves(trial, tmp_path) -> None:
    """A view that is not finite: no head learns from its batch, and optimisers count it out."""
    made, (features, val) = trial
    spoilt = features.parts[0].copy()
    spoilt[np.flatnonzero(features.valid)[3], 1] = np.inf
    trial, setups = (made, (replace(features, parts=(spoilt,)), val)), stack_of(trial)
    wanted = [rows_of(begun(trial, tmp_path, setup)) for setup in setups]
    found = together([begun(trial, tmp_path, setup) for setup in setups])
    for rows, alone in zip(found, wanted, strict=True):
        assert sum(row["skipped"] for row in rows) > 0
        assert figures(rows) == figures(alone)
