"""Verdicts from evidence: what explains most comes first."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from satray.config.train import CheckRecipe
from satray.train.check.diagnose import Evidence, Trace, diagnose, labels_note
from satray.train.check.job import choose_rows, rate_of


def trace(*losses, rate=1e-3, learnt=False, one_class=False, accuracy=0.7, gradient=1.0):
    return Trace(rate, tuple(losses), accuracy, learnt, one_class, gradient)


FALLING = trace(*np.linspace(0.7, 0.5, 40))
FLAT = trace(*[0.69] * 40)
NAN = trace(0.7, 5, math.nan)
LEARNT = trace(0.7, 0.3, 0.1, 0.009, learnt=True, accuracy=1.0)
FASTER = replace(LEARNT, learning_rate=0.1)


def evidence(main, **more):
    return Evidence(main=main, tiles=8, **{"labels_constant": False, **more})


@pytest.mark.parametrize(
    ("found", "kind", "says"),
    [
        (evidence(LEARNT), "passed", "8 tiles learnt in 3 steps, loss 0.009, accuracy 100%"),
        (evidence(LEARNT, labels_constant=True), "labels_constant", "nothing to tell apart"),
        (evidence(LEARNT, changed=3), "labels_change", "3 of 8 tiles"),
        (evidence(FLAT, changed=3, bounded=True), "labels_change", "shuffled labels"),
        (evidence(FLAT, contradictions=2), "labels_contradict", "2 of 8"),
        (evidence(trace(math.nan)), "not_finite", "before the first step"),
        (evidence(FALLING, bounded=True), "probabilities", "double sigmoid.*0.31"),
        (evidence(replace(FLAT, gradient=0.0)), "no_gradient", "no gradient"),
        (evidence(FLAT, others=(FASTER,)), "rate_too_low", "0.001 is too low.* at 0.1: learnt in"),
        (evidence(FALLING, others=(FASTER,)), "rate_too_low", "too low"),
        (evidence(NAN, others=(trace(0.7, 0.1, rate=1e-5),)), "rate_too_high", "too high"),
        (evidence(trace(*np.linspace(0.7, 9, 30))), "rate_too_high", "cannot bear any"),
        (evidence(trace(0.7, 40, *[0.69] * 30, one_class=True)), "rate_too_high", "up to 40 on"),
        (evidence(replace(FLAT, one_class=True)), "one_class", "one class and the loss flat"),
        (evidence(replace(FALLING, one_class=True)), "one_class", "all one class: loss"),
        (evidence(FLAT, others=(trace(*[0.69] * 9, rate=0.1),)), "flat", "rates, 0.1: 0.69"),
        (evidence(FALLING), "unfinished", "not there yet"),
    ],
)  # fmt: skip
def test_what_it_looks_like(found, kind, says):
    verdict = diagnose(found)
    assert verdict.kind == kind
    assert verdict.passed == (kind == "passed")
    assert "\n" not in verdict.line
    assert re.search(says, verdict.line), verdict.line


def test_another_rate_must_be_much_better_to_be_blamed():
    slightly = trace(*np.linspace(0.7, 0.4, 40), rate=1e-2)
    assert diagnose(evidence(FALLING, others=(slightly,))).kind == "unfinished"


def test_the_end_is_a_median_so_that_one_spike_does_not_decide():
    assert trace(*[0.5] * 36, 0.5, 0.5, 9.0, 0.5).last == 0.5
    assert trace(0.5, math.nan).last == math.inf


def test_labels_that_are_no_easier_than_dealt_ones_are_noted():
    own = sum(LEARNT.losses) / 4
    assert "belong to their tiles" in labels_note(evidence(LEARNT, dealt=(2 * own, 1.5 * own)))
    assert "cannot tell" in labels_note(evidence(LEARNT, dealt=(2 * own, 1.01 * own)))
    assert "look at some" in labels_note(evidence(LEARNT, dealt=(2 * own, 0.9 * own)))
    assert labels_note(evidence(LEARNT)) is None
    assert labels_note(evidence(FLAT, dealt=(1.0,))) is None


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
