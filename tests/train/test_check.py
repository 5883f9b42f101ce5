"""The check: verdicts from evidence, and the job over an index with and without faults."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from by_hand import planned, worked
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from train.small_archive import Archive, make_recipe, make_run

from satray.config.train import CheckRecipe
from satray.data.index import read_index, table_with
from satray.errors import InputError
from satray.storage import Storage
from satray.train import check
from satray.train.check import Evidence, Trace, choose_rows, decisions, diagnose, rate_of


def trace(*losses, rate=1e-3, learnt=False, one_class=False, accuracy=0.7, gradient=1.0):
    return Trace(rate, tuple(losses), accuracy, learnt, one_class, gradient)


FALLING = trace(*np.linspace(0.7, 0.5, 40))
FLAT = trace(*[0.69] * 40)
NAN = trace(0.7, 5, math.nan)
LEARNT = trace(0.7, 0.3, 0.1, 0.009, learnt=True, accuracy=1.0)
FASTER = replace(LEARNT, learning_rate=0.1)
SLIGHTLY = trace(*np.linspace(0.7, 0.4, 40), rate=1e-2)


@pytest.mark.parametrize(
    ("main", "others", "kind", "says"),
    [
        (LEARNT, (), "passed", "8 tiles learnt in 3 steps, loss 0.009, accuracy 100%"),
        (trace(math.nan), (), "not_finite", "before the first step"),
        (replace(FLAT, gradient=0.0), (), "no_gradient", "no gradient"),
        (FLAT, (FASTER,), "rate_too_low", "0.001 is too low.* at 0.1: learnt in 3 steps"),
        (FALLING, (FASTER,), "rate_too_low", "too low"),
        (FALLING, (SLIGHTLY,), "unfinished", "0.01: 0.4"),  # not much better
        (NAN, (trace(0.7, 0.1, rate=1e-5),), "rate_too_high", "too high"),
        (trace(*np.linspace(0.7, 9, 30)), (), "rate_too_high", "cannot bear any"),
        (trace(0.7, 40, *[0.69] * 30, one_class=True), (), "rate_too_high", "up to 40 on"),
        (replace(FLAT, one_class=True), (), "one_class", "one class and the loss flat"),
        (replace(FALLING, one_class=True), (), "one_class", "all one class: loss"),
        (FLAT, (trace(*[0.69] * 9, rate=0.1),), "flat", "rates, 0.1: 0.69"),
        (FALLING, (), "unfinished", "not there yet"),
        # the end is a median, so that one spike does not decide
        (trace(*[0.7] * 10, *[0.5] * 28, 9.0, 0.5), (trace(0.7, 0.3, rate=1e-2),),
         "rate_too_high", "-> 0.5 in 39 steps, up to 9"),
    ],
)  # fmt: skip
def test_what_it_looks_like(main, others, kind, says):
    found, line = diagnose(Evidence(main, 8, others))
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


def test_even_a_rare_class_is_in_the_batch():
    labels = np.zeros((1000, 1), dtype=np.uint8)
    labels[777] = 1
    assert 777 in choose_rows(labels, 2, 0)


def test_the_rate_is_the_stages_highest_or_the_usual():
    def recipe(*rates, **check):
        stages = [{"learning_rate": rate} for rate in rates]
        return CheckRecipe.model_validate({"index": "x", "stages": stages, "check": check})

    assert rate_of(recipe(1e-4, "auto", 3e-3)) == 3e-3
    assert rate_of(recipe("auto")) == 1e-3
    assert rate_of(recipe(1e-4, learning_rate=0.5)) == 0.5


def test_decisions():
    logits = torch.tensor([[2.0, -1.0], [0.0, -3.0], [-1.0, -2.0]])
    labels = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    right, one_class = decisions(logits, labels, "multilabel")
    assert right.tolist() == [[True, True], [True, True], [False, True]]
    assert not one_class  # labels are constant: nothing could be told apart
    labels[0, 0], labels[1, 1] = 0.0, 1.0
    assert not decisions(logits, labels, "multilabel")[1]
    assert decisions(torch.ones(3, 2), labels, "multilabel")[1]
    right, one_class = decisions(logits, torch.tensor([[1.0, 0], [0, 1], [1, 0]]), "multiclass")
    assert right.tolist() == [True, False, True]
    assert one_class


def test_dropout_of_all_kinds_is_switched_off():
    from timm.layers import DropPath

    network = nn.Sequential(nn.Dropout(0.5), nn.Dropout2d(0.3), DropPath(0.4))
    network.train()
    check.without_dropout(network)
    x = torch.ones(4, 3, 2, 2)
    assert torch.equal(network(x), x)


# The job


@pytest.fixture
def archive(small_archive):
    return small_archive


def relabelled(archive, folder, labels_NK, task):
    """The same tiles with other labels."""
    index = read_index(archive.index, Storage())
    place = index.table.column_names.index("labels")
    labels = pa.array(labels_NK.astype(np.uint8).tolist(), index.table.schema.field("labels").type)
    classes = tuple(f"c{k}" for k in range(labels_NK.shape[1]))
    meta = replace(index.meta, task=task, classes=classes)
    folder.mkdir()
    file = folder / "tiles-00000.parquet"
    table = index.table.set_column(place, "labels", labels)
    pq.write_table(table_with(meta, table), file)
    return Archive(str(file), folder)


def checked(archive, folder, **changes):
    """Outcome and document of the job `check`."""
    run, _ = make_run(folder / "out", ray=False)
    outcome = worked(check, recipe_of(archive, folder, **changes), run)
    return outcome, json.loads(Path(run.uri("check.json")).read_text())


def recipe_of(archive, folder, **changes):
    options = changes.pop("check", {})
    plain = make_recipe(archive, folder, **changes).model_dump()
    return CheckRecipe.model_validate({**plain, "check": options})


FAST = {"steps": 250, "learning_rate": 1e-2}


def test_a_sound_set_up_passes_and_says_so(archive, tmp_path):
    # what would keep a batch from being learnt by heart is off
    regular = {"augment": {"mixup": 0.4}, "dropout": 0.5, "loss": {"smoothing": 0.2}}
    outcome, document = checked(archive, tmp_path, check=FAST, accumulate=2, **regular)
    assert (outcome.status, outcome.verdict) == (0, None)
    assert document["passed"]
    assert document["looks_like"] == "passed"
    assert document["evidence"]["main"]["losses"][-1] < 0.01
    assert document["evidence"]["main"]["accuracy"] == 1
    assert len(document["tile_ids"]) == 8
    assert outcome.summary[0].startswith("passed: 8 tiles learnt in")


def test_one_of_several_classes_is_learnt_too(archive, tmp_path):
    drawn = np.eye(3)[np.random.default_rng(0).integers(0, 3, 32)]
    other = relabelled(archive, tmp_path / "index", drawn, "multiclass")
    outcome, _ = checked(other, tmp_path, check=FAST)
    assert outcome.status == 0, outcome.verdict


@pytest.mark.parametrize(
    ("changes", "looks_like", "says"),
    [
        ({"check": {"steps": 40, "learning_rate": 1e-7}}, "rate_too_low", "1e-07 is too low"),
        ({"check": {"steps": 20, "learning_rate": 300.0}}, "rate_too_high", "300 is too high"),
        # a deviation that is no band's: nothing of the tiles is left, or nothing finite
        ({"input": {"size": 24, "normalize": {"mean": [0] * 3, "std": [1e30] * 3}},
          "check": {"steps": 40, "learning_rate": 1e-3}}, "one_class", "predictions all one class"),
        ({"input": {"size": 24, "normalize": {"mean": [0] * 3, "std": [1e-38] * 3}}},
         "not_finite", "look at the first weights and at the mean"),
    ],
)  # fmt: skip
def test_a_failure_ends_in_one_line_and_leaves_its_evidence(
    archive, tmp_path, changes, looks_like, says
):
    outcome, document = checked(archive, tmp_path, **changes)
    assert document["looks_like"] == looks_like, outcome.verdict
    assert says in outcome.verdict
    assert "\n" not in outcome.verdict
    assert (outcome.status, outcome.summary) == (1, ())
    assert not document["passed"]


def test_the_recipes_loss_is_what_is_checked(archive, tmp_path):
    """The first loss is that of weighted positives, or of a focal loss."""
    once = {"steps": 1, "learning_rate": 1e-6}
    plain, weighted, focal = (
        checked(archive, tmp_path / str(number), check=once, loss=loss)[1]["evidence"]["main"][
            "losses"
        ][0]
        for number, loss in enumerate(({}, {"positive_weight": 50.0}, {"name": "focal"}))
    )
    assert weighted > 3 * plain
    assert focal < plain / 2


def test_what_it_needs_is_refused_and_only_that(archive, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(InputError, match=r"batch=1: .* at least 2"):
        check.read(recipe_of(archive, tmp_path, batch=1), Storage())
    wrong = recipe_of(archive, tmp_path, check={"trainable": "layer9"})
    with pytest.raises(InputError, match=r"check\.trainable='layer9' is no block"):
        planned(check, wrong)
    run, _ = make_run(tmp_path / "wrong", ray=False)
    with pytest.raises(InputError, match="layer9"):
        worked(check, wrong, run)
    idle = {"tracking": "mlflow", "resources": {"workers": 3, "gpus": "no"}}
    idle |= {"stages": [{"trainable": "nonsense", "learning_rate": 3e-3}]}
    lines = planned(check, recipe_of(archive, tmp_path, check={"steps": 77}, **idle))
    assert "8 tiles of the train split, up to 77 steps at learning rate 0.003" in lines[-1]
    outcome, document = checked(archive, tmp_path / "idle", check={"steps": 1}, **idle)
    assert outcome.status == 1  # one step is too few
    assert len(document["evidence"]["main"]["losses"]) == 2
