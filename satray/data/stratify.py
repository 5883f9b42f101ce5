"""Draws that keep label frequencies alike on all sides."""

import numpy as np
from numpy.typing import NDArray

from satray.errors import InputError


def stratified(
    labels_NK: NDArray[np.uint8], task: str, n_val: int, n_test: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw the rows of val and test.

    Args:
        labels_NK: (N, K) uint8, 0 or 1.
        task: binary and multiclass go by scikit-learn, multilabel by `iterative`.
        n_val: rows for val.
        n_test: rows for test.
        seed: of the draw.

    Raises:
        InputError: a class has too few tiles for every side.
    """
    if task == "multilabel":
        sizes = (len(labels_NK) - n_val - n_test, n_val, n_test)
        part_N = iterative(labels_NK, sizes, seed)
        return np.flatnonzero(part_N == 1), np.flatnonzero(part_N == 2)
    y_N = labels_NK[:, 0] if task == "binary" else labels_NK.argmax(axis=1)
    rest = np.arange(len(y_N), dtype=np.int64)
    rest, test = _take(rest, y_N, n_test, seed)
    _, val = _take(rest, y_N, n_val, seed)
    return val, test


def _take(
    rows: NDArray[np.int64], y_N: NDArray[np.generic], count: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    if count == 0:
        return rows, np.empty(0, np.int64)
    from sklearn.model_selection import train_test_split  # slow to import

    try:
        rest, taken = train_test_split(rows, test_size=count, random_state=seed, stratify=y_N[rows])
    except ValueError as error:
        raise InputError(f"split.stratify: {str(error).splitlines()[0]}") from error
    return rest, taken


def iterative(labels_NK: NDArray[np.uint8], sizes: tuple[int, ...], seed: int) -> NDArray[np.int64]:
    """Iterative stratification, rarest class first, with exact part sizes.

    The order is that of Algorithm 1 of Sechidis, Tsoumakas and Vlahavas, 'On the stratification of
    multi-label data' (2011): the class with fewest tiles left to place goes first. The choice
    differs: with sizes kept exact, theirs (the part that wants this class most) leaves the last
    class off by what all others drifted. Here a tile goes where it most lowers the sum, over its
    classes and the part's size, of (number wanted and not yet had)^2 / number wanted.
    Tiles without any class count as a class of their own.

    Args:
        labels_NK: (N, K) uint8, 0 or 1.
        sizes: rows of each of P parts; their sum is N.
        seed: of the order within a class and of ties.

    Returns:
        (N,) number of the part of each row.
    """
    n = len(labels_NK)
    rng = np.random.RandomState(seed)
    # Two more columns: tiles of no class, and every tile, for the part's size.
    y_NK = np.column_stack([labels_NK, ~labels_NK.any(axis=1), np.ones(n)]).astype(np.int64)
    want_PK = np.array(sizes, np.float64)[:, None] / n * y_NK.sum(axis=0)
    weight_PK = 1 / np.maximum(want_PK, 1e-9)
    open_N = np.ones(n, bool)
    part_N = np.full(n, -1, np.int64)
    while open_N.any():
        left_K = y_NK[open_N].sum(axis=0)
        left_K[-1] = n + 1  # the size is no class to go by
        rarest = int(np.where(left_K > 0, left_K, n + 2).argmin())
        rows = np.flatnonzero(open_N & (y_NK[:, rarest] == 1))
        for row in rng.permutation(rows).tolist():
            on = y_NK[row] == 1
            gain_P = ((2 * want_PK[:, on] - 1) * weight_PK[:, on]).sum(axis=1)
            has_room_P = want_PK[:, -1] > 0.5
            best = np.lexsort((rng.random_sample(len(sizes)), gain_P, has_room_P))[-1]
            part_N[row] = best
            want_PK[best] -= y_NK[row]
        open_N[rows] = False
    return part_N
