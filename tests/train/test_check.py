"""The check: verdicts from attempts, and the job over an index with and without faults."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from by_hand import planned, worked
from hypothesis import given
from hypothesis import strategies as st
from train.small_archive import generate, make_recipe, make_run

from satray.config.train import CheckRecipe
from satray.errors import InputError
from satray.storage import Storage
from satray.train import check
from satray.train.check import Trace, accuracy_of, choose_rows, diagnose


def trace(*losses, rate=1e-3, learnt=False, accuracy=0.7):
    return Trace(rate, tuple(losses), accuracy, learnt)


FALLING = trace(*np.linspace(0.7, 0.5, 40))
FLAT = trace(*[0.69] * 40)
LEARNT = trace(0.7, 0.3, 0.1, 0.009, learnt=True, accuracy=1.0)
FASTER = replace(LEARNT, learning_rate=0.1)
SLIGHTLY = trace(*np.linspace(0.7, 0.4, 40), rate=1e-2)


@pytest.mark.parametrize(
    ("main", "others", "kind", "says"),
    [
        (LEARNT, (), "passed", "learnt in 3 steps, loss 0.009, accuracy 100%"),
        (trace(math.nan), (), "not_finite", "before the first step"),
        (FLAT, (), "unfinished", "loss 0.69 -> 0.69 in 39 steps, accuracy 70%"),
        (FLAT, (FASTER,), "rate_too_low", "0.001 is too low.* at 0.1: learnt in 3 steps"),
        (FALLING, (SLIGHTLY, FASTER), "rate_too_low", "too low"),
        (FALLING, (SLIGHTLY,), "unfinished", "0.01: 0.4"),  # not much better
        (trace(0.7, 5, math.nan), (trace(0.7, 0.1, rate=1e-5),), "rate_too_high", "too high"),
        # the end is a median, so that one spike does not decide
        (trace(*[0.7] * 10, *[0.5] * 28, 9.0, 0.5), (trace(0.7, 0.3, rate=1e-2),),
         "unfinished", "-> 0.5 in 39 steps"),
    ],
)  # fmt: skip
def test_what_it_looks_like(main, others, kind, says):
    found, line = diagnose(main, others)
    assert found == kind
    assert "\n" not in line
    assert re.search(says, line), line


@given(st.integers(0, 2**16), st.integers(2, 40), st.integers(1, 6))
def test_the_batch_has_distinct_rows_and_both_kinds_where_there_is_room(seed, batch, classes):
    rng = np.random.default_rng(seed)
    labels = rng.random((60, classes)) < 0.1
    rows = choose_rows(labels, batch, seed)
    assert len(rows) == len(set(rows.tolist())) == batch
    assert (choose_rows(labels, batch, seed) == rows).all()
    if batch >= 4 * classes:
        for k in range(classes):
            if 0 < labels[:, k].sum() < 60:
                assert 0 < labels[rows, k].sum() < batch


LOGITS = np.array([[2.0, -1.0], [0.0, -3.0], [-1.0, -2.0]])


@pytest.mark.parametrize(
    ("logits", "labels", "task", "accuracy"),
    [
        (LOGITS, [[1, 0]] * 3, "multilabel", 5 / 6),
        (LOGITS, [[0, 0], [1, 1], [1, 0]], "multilabel", 3 / 6),
        (LOGITS, [[1, 0], [0, 1], [1, 0]], "multiclass", 2 / 3),
        (np.eye(3), np.eye(3), "multiclass", 1),
    ],
)
def test_accuracy(logits, labels, task, accuracy):
    assert accuracy_of(logits, np.array(labels), task) == pytest.approx(accuracy)


# The job


def recipe_of(archive, folder, **changes):
    options = changes.pop("check", {})
    plain = make_recipe(archive, folder, **{"batch": 4, **changes}).model_dump()
    return CheckRecipe.model_validate({**plain, "check": options})


def at(rate):
    """Stages whose first learning rate is to be tried."""
    return [{"learning_rate": rate}]


def checked(archive, folder, **changes):
    """Outcome and document of the job `check`."""
    run, _ = make_run(folder / "out", ray=False)
    outcome = worked(check, recipe_of(archive, folder, **changes), run)
    return outcome, json.loads(Path(run.uri("check.json")).read_text())


def test_a_sound_set_up_passes_and_says_so(small_archive, tmp_path):
    # what would keep a batch from being learnt by heart is off
    regular = {"augment": {"mixup": 0.4}, "dropout": 0.9, "loss": {"smoothing": 0.5}}
    fast = {"check": {"steps": 150}, "stages": at(1e-2)}
    outcome, document = checked(small_archive, tmp_path, accumulate=2, **fast, **regular)
    assert (outcome.status, outcome.verdict) == (0, None)
    assert (document["passed"], document["looks_like"]) == (True, "passed")
    assert document["evidence"]["main"]["losses"][-1] < 0.01
    assert document["evidence"]["main"]["accuracy"] == 1
    assert len(document["tile_ids"]) == 4
    assert outcome.summary[0].startswith("passed: 4 tiles learnt in")


def test_a_tile_that_cannot_be_read_is_nothing_to_learn(tmp_path):
    archive = generate(tmp_path / "archive", tiles=12, spoil=(1, 2, 3, 5))
    fast = {"check": {"steps": 150}, "stages": at(1e-2), "batch": 9, "error_budget": 0.5}
    outcome, document = checked(archive, tmp_path, **fast)
    assert document["passed"], outcome.verdict


@pytest.mark.parametrize(
    ("changes", "looks_like", "says"),
    [
        ({"check": {"steps": 12}, "stages": at(1e-5)}, "rate_too_low", "1e-05 is too low"),
        ({"check": {"steps": 8}, "stages": at(300.0)}, "rate_too_high", "300 is too high"),
        # a deviation that is no band's: nothing of the tiles is left, or nothing finite
        ({"input": {"size": 24, "normalize": {"mean": [0] * 3, "std": [1e30] * 3}},
          "check": {"steps": 20}, "stages": at(1e-3)}, "unfinished", "is not shown what tells"),
        ({"input": {"size": 24, "normalize": {"mean": [0] * 3, "std": [1e-38] * 3}}},
         "not_finite", "look at the first weights and at the mean"),
    ],
)  # fmt: skip
def test_a_failure_ends_in_one_line_and_leaves_its_evidence(
    small_archive, tmp_path, changes, looks_like, says
):
    outcome, document = checked(small_archive, tmp_path, **changes)
    assert document["looks_like"] == looks_like, outcome.verdict
    assert says in outcome.verdict
    assert "\n" not in outcome.verdict
    assert (outcome.status, outcome.summary, document["passed"]) == (1, (), False)


def test_what_it_needs_is_refused_and_only_that(small_archive, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(InputError, match=r"batch=1: .* at least 2"):
        check.read(recipe_of(small_archive, tmp_path, batch=1), Storage())
    idle = {"tracking": "mlflow", "resources": {"workers": 3, "gpus": "no"}}
    rates = {0.0001: [1e-4, "auto", 3e-3], 0.001: ["auto"]}  # the first stage's, or the usual
    for rate, given_rates in rates.items():
        idle["stages"] = [{"trainable": "head", "learning_rate": each} for each in given_rates]
        lines = planned(check, recipe_of(small_archive, tmp_path, check={"steps": 77}, **idle))
        assert f"4 tiles of the train split, up to 77 steps at learning rate {rate}" in lines[-1]
