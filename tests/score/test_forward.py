"""The forward: numbers, shares and maps, and the identities that bind them."""

import numpy as np
import pytest
import scoring_material as material
import torch

from satray.metrics.scored import Rule, Scored
from satray.score.forward import Scorer
from satray.score.results import MapRequest

ALL = MapRequest((0, 1, 2))


def tiles(n: int = 5) -> np.ndarray:
    return np.stack([material.pixels(seed, bands=4) for seed in range(n)])


def test_numbers_are_the_networks() -> None:
    bundle = material.bundle(material.one_tower(), thresholds=(0.3, 0.5, 0.7))
    given = tiles()[:, :3]
    numbers = Scorer(bundle, batch=2)(given).numbers
    x = (
        torch.nn.functional.interpolate(
            torch.from_numpy(given).float(), size=(32, 32), mode="bilinear", antialias=True
        )
        - 2000
    ) / 1000
    with torch.no_grad():
        expected = bundle.network(x).numpy()
    assert np.allclose(numbers.logits, expected, atol=1e-4)
    assert np.allclose(numbers.scores, 1 / (1 + np.exp(-numbers.logits / 1.5)), atol=1e-6)
    assert np.array_equal(numbers.preds, numbers.scores.astype(float) >= (0.3, 0.5, 0.7))
    assert 0 < numbers.preds.mean() < 1
    assert (numbers.logits.dtype, numbers.preds.dtype) == (np.float32, np.uint8)


@pytest.mark.parametrize("task", ["multilabel", "multiclass"])
def test_decisions_are_those_that_the_metrics_take_from_the_table(task: str) -> None:
    bundle = material.bundle(material.one_tower(), task=task, thresholds=(0.3, 0.9, 0.7))
    numbers = Scorer(bundle)(tiles(9)[:, :3]).numbers
    rule = Rule(bundle.spec.temperature, bundle.spec.thresholds)
    labels = np.eye(3)[np.zeros(9, int)]
    assert np.array_equal(numbers.preds, Scored.of(numbers.logits, labels, 3, task, rule).predicted)
    if task == "multiclass":
        assert np.array_equal(numbers.preds, np.eye(3)[numbers.logits.argmax(1)])
        assert (numbers.scores.max(1) < 0.5).any()  # no threshold would have let these in


def test_only_the_classes_asked_for_are_mapped() -> None:
    bundle = material.bundle(material.one_tower())
    given = tiles()[:, :3]
    some = Scorer(bundle, MapRequest((2, 0)))(given).maps["rgb"]
    every = Scorer(bundle, ALL)(given).maps["rgb"]
    assert np.array_equal(some, every[:, [2, 0]])


def test_a_tile_does_not_depend_on_its_batch() -> None:
    bundle = material.bundle(material.two_towers())
    given = tiles(7)
    one, other = Scorer(bundle, batch=1)(given), Scorer(bundle, batch=7)(given)
    assert np.allclose(one.numbers.logits, other.numbers.logits, atol=1e-4)
