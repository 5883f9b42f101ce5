"""Rare and constant classes: which loss fits, how much positives weigh, what to say. No torch.

Shapes: N tiles of a split, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from satray.config.train import LossOptions
from satray.errors import InputError, listed

MOST_WEIGHT = 100.0
"""Heavier positives would drown all else where a class has hardly any."""


def loss_name(options: LossOptions, task: str) -> str:
    """The loss that `auto` stands for.

    Raises:
        InputError: the loss does not fit the task, or its positive weight the loss.
    """
    fitting = ("cross_entropy", "focal") if task == "multiclass" else ("bce", "focal", "asymmetric")
    name = fitting[0] if options.name == "auto" else options.name
    if name not in fitting:
        raise InputError(
            f"loss.name={name}: does not fit a {task} task; accepted: auto, {', '.join(fitting)}"
        )
    if options.positive_weight is not None and name != "bce":
        raise InputError(
            f"loss.positive_weight={options.positive_weight}: loss.name is {name} here ({task}); "
            "positive weights work with bce only"
        )
    return name


def class_weights(
    options: LossOptions, labels_NK: NDArray[Any], repeat: float
) -> tuple[float, ...] | None:
    """The weight of each class's positives that `loss.positive_weight` asks for; None: none.

    `balanced` is negatives / positives in a pass, at most `MOST_WEIGHT`, and 1 for a constant
    class: rarity that sampling has made up for does not count again.

    Args:
        options: the loss.
        labels_NK: 0 or 1, of the train split.
        repeat: the threshold of class-aware sampling, 0 for none.
    """
    weight, labels = options.positive_weight, np.asarray(labels_NK).astype(bool)
    if weight is None:
        return None
    if weight != "balanced":
        return (float(weight),) * int(labels.shape[1])
    factors_N = repeat_factors(labels, repeat)
    times_N: NDArray[np.float64] = np.ones(len(labels)) if factors_N is None else factors_N
    return tuple(
        min(MOST_WEIGHT, n / p) if n and p else 1.0
        for p, n in zip(map(float, times_N @ labels), map(float, times_N @ ~labels), strict=True)
    )


def repeat_factors(labels_NK: NDArray[Any], threshold: float) -> NDArray[np.float64] | None:
    """How often each tile comes in a pass, as a mean: a float >= 1 a tile.

    Repeat-factor sampling (Gupta, Dollar and Girshick, LVIS, CVPR 2019): for a class on a share f
    of the tiles r = max(1, sqrt(threshold / f)), and for a tile the largest r of its classes.

    Args:
        labels_NK: 0 or 1, of the train split.
        threshold: share of tiles from which on a class is not rare.

    Returns:
        float64 (N,), or None where every tile comes once.
    """
    labels = np.asarray(labels_NK).astype(bool)
    share_K = labels.mean(axis=0)
    factor_K = np.ones(labels.shape[1])
    seen_K = share_K > 0
    factor_K[seen_K] = np.maximum(1.0, np.sqrt(threshold / share_K[seen_K]))
    factors_N = np.where(labels, factor_K, 1.0).max(axis=1)
    return factors_N if bool((factors_N > 1).any()) else None


def label_notes(
    train_NK: NDArray[Any], val_NK: NDArray[Any], classes: Sequence[str], best: str
) -> tuple[str, ...]:
    """What the labels of both splits cannot teach or show; one line each.

    Args:
        train_NK: labels of the train split, 0 or 1.
        val_NK: labels of the validation split.
        classes: K names.
        best: the metric that picks the bundle.

    Raises:
        InputError: no class of a split has tiles with it and tiles without it, so that there is
            nothing to learn, or nothing that `best` could measure.
    """
    notes = []
    for split, labels_NK, cannot in (("train", train_NK, "learnt"), ("val", val_NK, "judged")):
        labels = np.asarray(labels_NK).astype(bool)
        constant_K = np.asarray(labels.all(axis=0) | ~labels.any(axis=0))
        names = listed([n for n, same in zip(classes, constant_K, strict=True) if same], 8)
        if constant_K.all() and (split == "train" or best != "loss"):
            use = "nothing to learn" if split == "train" else f"best={best} cannot be measured"
            raise InputError(
                f"index: labels of the {len(labels):,} tiles of split {split} are alike: {use}; "
                "accepted: both kinds of at least a class"
                + ("" if split == "train" else ", or best=loss")
            )
        if names:
            notes.append(f"{names}: the same on every {split} tile, so cannot be {cannot}")
    return tuple(notes)
