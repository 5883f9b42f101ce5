"""Tail accuracy: how often a class is right where its score is high.

Of the tiles with score > t, the share that has the class: `sum 1[f > t] 1[y = 1] / sum 1[f > t]`
(Luque 2022), which is the precision at t. A class without such tiles has none (NaN), so that the
mean over classes is one over fewer and fewer classes as t rises, and may fall where every class's
own curve rises. Hence, beside it, the mean over the classes that last to the end.

Shapes: N tiles, K classes, T thresholds.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from satray.metrics.ranking import BoolArray, FloatArray, divided, mean_of_defined

AT_T = np.linspace(0.5, 1.0, 20, endpoint=False)
"""Thresholds of the score, or shares of the tiles: 0.5 to 0.975 in steps of 0.025."""


def tail_accuracy(
    scores_NK: FloatArray, labels_NK: BoolArray, classes: Sequence[str]
) -> dict[str, Any]:
    """At the paper's 20 thresholds.

    Args:
        scores_NK: probabilities.
        labels_NK: whether each tile has each class.
        classes: K names.

    Returns:
        lists. `at`: (T,) thresholds of the score; for quantiles, shares of the class's tiles below
        them. `thresholds`: (K, T) scores that a tile's must exceed; those of `at`, or the class's
        quantiles. `counts`: (K, T) tiles above. `accuracy`: (K, T) share of them that has the
        class; NaN where there are none. `mean`: (T,) mean over the classes that have tiles above,
        the paper's figure; NaN where none has. `classes`: (T,) how many classes these are.
        `fixed`: (T,) mean over the same classes at every threshold, those with tiles above all of
        them; NaN if no class has. `fixed_classes`: their names. `micro`: (T,) all classes' tiles
        above thrown together; NaN where there are none.
    """
    return _tail(scores_NK, labels_NK, classes, np.tile(AT_T, (len(classes), 1)))


def tail_quantiles(
    scores_NK: FloatArray, labels_NK: BoolArray, classes: Sequence[str]
) -> dict[str, Any]:
    """At 20 quantiles of each class's own scores; returns what `tail_accuracy` does.

    A class that never scores high lasts as long as any other: of N tiles its highest
    N (1 - q) are looked at, but for equal scores.

    Args:
        scores_NK: probabilities, or logits, since only their order matters here.
        labels_NK: whether each tile has each class.
        classes: K names.
    """
    # An order statistic, no blend of two: a threshold that is a score leaves just the higher ones.
    places_T = np.ceil(AT_T * len(scores_NK) - 1e-9).astype(np.intp) - 1
    thresholds_TK: FloatArray = np.sort(scores_NK, axis=0)[places_T]
    return _tail(scores_NK, labels_NK, classes, thresholds_TK.T)


def _tail(
    scores_NK: FloatArray,
    labels_NK: BoolArray,
    classes: Sequence[str],
    thresholds_KT: FloatArray,
) -> dict[str, Any]:
    hits_KT, counts_KT = np.zeros_like(thresholds_KT), np.zeros(thresholds_KT.shape, np.int64)
    for k, thresholds_T in enumerate(thresholds_KT):
        above_NT = scores_NK[:, k, None] > thresholds_T
        counts_KT[k] = above_NT.sum(axis=0)
        hits_KT[k] = (labels_NK[:, k, None] & above_NT).sum(axis=0)
    accuracy_KT = divided(hits_KT, counts_KT)
    lasting_K = (counts_KT > 0).all(axis=1)
    found = {
        "at": AT_T,
        "thresholds": thresholds_KT,
        "counts": counts_KT,
        "accuracy": accuracy_KT,
        "mean": mean_of_defined(accuracy_KT.T),
        "classes": (counts_KT > 0).sum(axis=0),
        "fixed": mean_of_defined(accuracy_KT[lasting_K].T),
        "micro": divided(hits_KT.sum(axis=0), counts_KT.sum(axis=0)),
    }
    lists = {name: values.tolist() for name, values in found.items()}
    return lists | {"fixed_classes": [classes[int(k)] for k in np.flatnonzero(lasting_K)]}
