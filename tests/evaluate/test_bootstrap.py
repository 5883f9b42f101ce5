import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from satray.evaluate.bootstrap import _weights, affordable, bootstrap
from satray.metrics.scored import Rule, Scored
from satray.metrics.summary import compute_metrics, figures, flat, flat_figures

RULE = Rule(temperature=1.7, thresholds=(0.3, 0.6, 0.5))


def split(task, tiles=60, seed=0):
    rng = np.random.default_rng(seed)
    if task == "multiclass":
        labels = np.eye(3)[rng.integers(0, 3, tiles)]
    else:
        labels = (rng.random((tiles, 3)) < [0.2, 0.5, 0.05]).astype(int)
    return (rng.normal(size=(tiles, 3)) + labels).round(1), labels


@pytest.mark.parametrize("task", ["multilabel", "multiclass"])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_a_draw_is_the_split_with_its_tiles_repeated(task, seed):
    logits, labels = split(task, 25, seed)
    (w_DN,) = _weights(25, 3, seed)
    scored = Scored.of(logits, labels, 3, task, RULE)
    found = flat_figures(figures(scored, w_DN), "abc")
    for draw, w_N in enumerate(w_DN):
        assert w_N.sum() == 25
        rows = np.repeat(np.arange(25), w_N.astype(int))
        alone = flat(compute_metrics(logits[rows], labels[rows], "abc", task, RULE))
        for name, value in alone.items():
            assert found[name][draw] == pytest.approx(value, nan_ok=True), name


@pytest.mark.parametrize("task", ["multilabel", "multiclass"])
def test_values_are_the_figures(task):
    logits, labels = split(task)
    found = bootstrap(logits, labels, "abc", task, draws=50, rule=RULE)
    whole = flat(compute_metrics(logits, labels, "abc", task, RULE))
    assert whole.keys() - found.keys() == {"classes_counted"}
    for name in found.keys() & whole.keys():
        interval = found[name]
        assert interval.value == whole[name]
        assert interval.low <= interval.value <= interval.high
        assert interval.low >= 0
        assert interval.high <= 1 or name == "log_loss"


def test_accuracy_of_independent_tiles():
    # the textbook's normal interval: p +- 1.96 sqrt(p (1 - p) / n)
    right = np.arange(400) < 300
    logits = np.where(right, 1.0, -1.0)[:, None]
    found = bootstrap(logits, np.ones((400, 1)), ["a"], "binary", draws=4000)["accuracy"]
    sd = math.sqrt(0.75 * 0.25 / 400)
    assert found.value == 0.75
    assert found.sd == pytest.approx(sd, rel=0.05)
    assert found.low == pytest.approx(0.75 - 1.96 * sd, abs=0.003)
    assert found.high == pytest.approx(0.75 + 1.96 * sd, abs=0.003)


def test_same_seed_same_intervals_however_cut(monkeypatch):
    logits, labels = split("multilabel")
    once = bootstrap(logits, labels, "abc", "multilabel", draws=30, seed=4)
    assert bootstrap(logits, labels, "abc", "multilabel", draws=30, seed=4) == once
    assert bootstrap(logits, labels, "abc", "multilabel", draws=30, seed=5) != once
    monkeypatch.setattr("satray.evaluate.bootstrap.CHUNK", 7 * len(logits))
    for name, interval in bootstrap(logits, labels, "abc", "multilabel", draws=30, seed=4).items():
        assert interval.low == pytest.approx(once[name].low, abs=1e-12)
        assert interval.draws == once[name].draws


def test_draws_without_positives_are_counted_out():
    labels = np.zeros((20, 2), int)
    labels[0, 0] = 1
    found = bootstrap(np.random.default_rng(0).normal(size=(20, 2)), labels, "ab", "multilabel")
    share = 1 - (1 - 1 / 20) ** 20
    assert found["ap_a"].draws == pytest.approx(1000 * share, abs=60)
    assert found["map"].draws == found["ap_a"].draws
    assert found["accuracy"].draws == 1000
    nothing = found["ap_b"]
    assert nothing.draws == 0
    assert all(math.isnan(number) for number in (nothing.value, nothing.low, nothing.sd))


def test_many_tiles_get_fewer_draws():
    assert affordable(1000, 483) == affordable(1000, 200_000) == 1000
    assert affordable(1000, 1_000_000) == 200
    assert affordable(1000, 10_000_000) == 100
    assert affordable(20, 10_000_000) == 20


def test_progress_is_told(monkeypatch):
    logits, labels = split("multilabel")
    monkeypatch.setattr("satray.evaluate.bootstrap.CHUNK", 20 * len(logits))
    told = []
    bootstrap(logits, labels, "abc", "multilabel", 50, progress=lambda *now: told.append(now))
    assert told == [(20, 50), (40, 50), (50, 50)]


def test_no_draw_is_refused():
    logits, labels = split("multilabel")
    with pytest.raises(ValueError, match="0 draws"):
        bootstrap(logits, labels, "abc", "multilabel", draws=0)
