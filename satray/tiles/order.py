"""Which tile comes when: a pure function of (seed, sample number).

Training sees an endless sequence of samples: one random permutation of the split after another.
A pseudo-epoch is a window of that sequence, so every tile is seen equally often whatever the
pseudo-epoch's length, and the order depends neither on the worker count nor on earlier state.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


def permutation(seed: int, number: int, n: int) -> NDArray[np.int64]:
    """Return the `number`-th permutation of `range(n)` that `seed` gives.

    Philox is keyed, not stepped, so permutation 1,000 costs no more than permutation 0.
    """
    generator = np.random.Generator(np.random.Philox(key=[seed, number]))
    return generator.permutation(n).astype(np.int64)


def window(seed: int, start: int, stop: int, n: int, shuffle: bool) -> NDArray[np.int64]:
    """Return the rows of the samples `start` to `stop` (exclusive) of the endless sequence.

    Args:
        seed: seed of the run.
        start: first sample, counted from the start of training.
        stop: one past the last sample.
        n: tiles in the split.
        shuffle: False repeats `range(n)`.

    Returns:
        int64 array (stop - start,) of rows in `range(n)`.
    """
    if n <= 0 or stop <= start:
        return np.empty(0, np.int64)
    parts = []
    for number in range(start // n, (stop - 1) // n + 1):
        rows = permutation(seed, number, n) if shuffle else np.arange(n, dtype=np.int64)
        parts.append(rows[max(0, start - number * n) : stop - number * n])
    return np.concatenate(parts)


def rows(seed: int, pseudo_epoch: int, samples: int, n: int, shuffle: bool) -> NDArray[np.int64]:
    """Return the rows of one pseudo-epoch of `samples` samples."""
    return window(seed, pseudo_epoch * samples, (pseudo_epoch + 1) * samples, n, shuffle)


@dataclass(frozen=True)
class TrainOrder:
    """The rows of each pseudo-epoch of a training run."""

    n: int
    """Tiles in the split."""
    ends: tuple[int, ...]
    """Samples seen at the end of each pseudo-epoch, growing; multiples of the global batch."""
    seed: int
    """Seed of the permutations."""
    shuffle: bool
    """False: the split's own order, over and over."""

    def rows(self, pseudo_epoch: int) -> NDArray[np.int64]:
        """Return the rows of one pseudo-epoch; none past the last."""
        if pseudo_epoch >= len(self.ends):
            return np.empty(0, np.int64)
        start = self.ends[pseudo_epoch - 1] if pseudo_epoch else 0
        return window(self.seed, start, self.ends[pseudo_epoch], self.n, self.shuffle)


@dataclass(frozen=True)
class WholeOrder:
    """Every row once, in order, at each pass; padded so that it divides among workers."""

    n: int
    """Tiles in the split."""
    multiple: int = 1
    """The row count is padded to a multiple of this with rows from the start; the reader of the
    result drops the repeats by row."""

    def rows(self, pseudo_epoch: int) -> NDArray[np.int64]:
        """Return the rows of one pass, the same at every pseudo-epoch."""
        del pseudo_epoch
        padded = -(-self.n // self.multiple) * self.multiple
        return np.arange(padded, dtype=np.int64) % max(1, self.n)


Order = TrainOrder | WholeOrder


def falling_chunks(
    rows: NDArray[np.int64], block: int, readers: int, most: int
) -> list[NDArray[np.int64]]:
    """Cut rows into consecutive pieces: large at first, single blocks at the end.

    Few tasks cost little to start, and small last ones let all readers end together (guided
    self-scheduling, Polychronopoulos and Kuck 1987).

    Args:
        rows: what is to be read, in order.
        block: tiles a block; every piece but the last is a multiple of it.
        readers: tasks at once.
        most: tiles of a piece, at the most (but at least a block).
    """
    pieces, start = [], 0
    while start < len(rows):
        share = min((len(rows) - start) // readers, most)
        size = max(1, share // block) * block
        pieces.append(rows[start : start + size])
        start += size
    return pieces
