"""Rare and constant classes: which loss fits, how much positives weigh, what to say. No torch.

Shapes: N tiles of a split, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from satray.config.train import LossOptions
from satray.errors import InputError

MOST_WEIGHT = 100.0
"""Heavier positives would drown all else where a class has hardly any."""
SIGMOID = ("binary", "multilabel")


def loss_name(options: LossOptions, task: str) -> str:
    """The loss that `auto` stands for."""
    if options.name != "auto":
        return options.name
    return "cross_entropy" if task == "multiclass" else "bce"


def check_loss(options: LossOptions, task: str) -> None:
    """See that a loss fits the task, and its positive weight the loss.

    Raises:
        InputError: it does not.
    """
    name = loss_name(options, task)
    fitting = ("bce", "focal", "asymmetric") if task in SIGMOID else ("cross_entropy", "focal")
    if name not in fitting:
        raise InputError(
            f"loss.name={name}: does not fit a {task} task; accepted: auto, {', '.join(fitting)}"
        )
    weight = options.positive_weight
    if weight is None:
        return
    if name != "bce":
        raise InputError(
            f"loss.positive_weight={weight}: loss.name is {name} here ({task}); positive weights "
            "work with bce only"
        )
    if weight != "balanced" and weight <= 0:
        raise InputError(f"loss.positive_weight={weight:g}: accepted: above 0, or balanced")


def positive_weights(
    labels_NK: NDArray[Any], factors_N: NDArray[np.float64] | None = None
) -> tuple[float, ...]:
    """Negatives / positives of each class, at most `MOST_WEIGHT`; 1 for a constant class.

    Args:
        labels_NK: 0 or 1, of the train split.
        factors_N: how often each tile comes in a pass (`repeat_factors`); None: once. Rarity that
            sampling has made up for must not count again.
    """
    labels = np.asarray(labels_NK).astype(bool)
    times_N = np.ones(len(labels)) if factors_N is None else factors_N
    positives_K, negatives_K = times_N @ labels, times_N @ ~labels
    return tuple(
        min(MOST_WEIGHT, float(n) / float(p)) if n and p else 1.0
        for p, n in zip(positives_K.tolist(), negatives_K.tolist(), strict=True)
    )


def class_weights(
    options: LossOptions, labels_NK: NDArray[Any], repeat: float
) -> tuple[float, ...] | None:
    """The weight of each class's positives that `loss.positive_weight` asks for; None: none.

    Args:
        options: the loss.
        labels_NK: 0 or 1, of the train split.
        repeat: the threshold of class-aware sampling, 0 for none: `balanced` balances what comes
            in a pass.
    """
    weight = options.positive_weight
    if weight is None:
        return None
    if weight == "balanced":
        return positive_weights(labels_NK, repeat_factors(labels_NK, repeat))
    return (float(weight),) * int(np.shape(labels_NK)[1])


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
    if threshold <= 0:
        return None
    labels = np.asarray(labels_NK).astype(bool)
    share_K = labels.mean(axis=0)
    factor_K = np.ones(labels.shape[1])
    seen_K = share_K > 0
    factor_K[seen_K] = np.maximum(1.0, np.sqrt(threshold / share_K[seen_K]))
    factors_N = np.where(labels, factor_K, 1.0).max(axis=1)
    return factors_N if bool((factors_N > 1).any()) else None


def constant_classes(labels_NK: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether each class is on all tiles or on none: (K,) bool."""
    labels = np.asarray(labels_NK).astype(bool)
    return np.asarray(labels.all(axis=0) | ~labels.any(axis=0))


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
    names = np.array(classes, dtype=object)
    for split, labels_NK in (("train", train_NK), ("val", val_NK)):
        if not constant_classes(labels_NK).all():
            continue
        always = names[np.asarray(labels_NK).astype(bool).all(axis=0)].tolist()
        found = f"all have {listed(always)}" if always else "none has any"
        where = (
            f"index: labels of the {len(labels_NK):,} tiles of split {split} are alike ({found})"
        )
        if split == "train":
            raise InputError(f"{where}: nothing to learn; accepted: both kinds of at least a class")
        if best != "loss":
            raise InputError(
                f"{where}: best={best} cannot be measured; accepted: both kinds of at least a "
                "class, or best=loss"
            )
    notes = []
    for split, labels_NK, consequence in (
        ("train", train_NK, "cannot be learnt"),
        ("validation", val_NK, "cannot be judged"),
    ):
        constant = names[constant_classes(labels_NK)].tolist()
        if constant:
            notes.append(f"{listed(constant)}: the same on every {split} tile, so {consequence}")
    return tuple(notes)


def repeat_notes(
    labels_NK: NDArray[Any], classes: Sequence[str], threshold: float
) -> tuple[str, ...]:
    """What class-aware sampling makes of a pass; one line where it is asked for."""
    if threshold <= 0:
        return ()
    factors_N = repeat_factors(labels_NK, threshold)
    if factors_N is None:
        return (f"repeat={threshold:g}: no class is rarer, so every tile comes once a pass",)
    labels = np.asarray(labels_NK).astype(bool)
    share_K = np.where(labels.any(axis=0), labels.mean(axis=0), math.inf)
    rarest = int(share_K.argmin())
    return (
        f"repeat={threshold:g}: a pass has {round(float(factors_N.sum())):,} rows of "
        f"{len(labels):,} tiles; those of {classes[rarest]} ({share_K[rarest]:.2%}) come "
        f"{factors_N[labels[:, rarest]].mean():.1f} times",
    )


def listed(names: Sequence[str], most: int = 8) -> str:
    """Names in a line, the first few where there are many."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
