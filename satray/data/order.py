"""Which tile comes when: a pure function of (seed, sample number).

Training sees an endless sequence of samples: one random permutation of the split after another.
A pseudo-epoch is a window of that sequence, so every tile is seen equally often whatever the
pseudo-epoch's length, and the order depends neither on the worker count nor on earlier state.
Where tiles of rare classes are to be repeated, a pass holds some of them several times.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


def permutation(seed: int, number: int, n: int) -> NDArray[np.int64]:
    """Return the `number`-th permutation of `range(n)` that `seed` gives.

    Philox is keyed, not stepped, so permutation 1,000 costs no more than permutation 0.
    """
    generator = np.random.Generator(np.random.Philox(key=[seed, number]))
    return generator.permutation(n).astype(np.int64)


def copies(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how often each row of a pseudo-epoch came before in it: 0 at the first time."""
    by_row = np.argsort(rows, kind="stable")
    _, first, lengths = np.unique(rows[by_row], return_index=True, return_counts=True)
    counts = np.empty(len(rows), np.int64)
    counts[by_row] = np.arange(len(rows)) - np.repeat(first, lengths)
    return counts


def samples(rows: NDArray[np.int64], copies: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return a number for each row and copy; the row's own where it is the first.

    Augmentation is drawn from it, so that the repeats of a tile within a pseudo-epoch differ.
    """
    return rows + (copies << 40)


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
    """False: the split's own order, over and over, the repeats of a row side by side."""
    repeats: NDArray[np.float64] | None = field(default=None, compare=False)
    """How often each row comes in a pass, as a mean, not negative; None: once."""

    @property
    def pass_rows(self) -> int:
        """Rows of a pass: the sum of `repeats`, rounded."""
        return self.n if self.repeats is None else round(float(self.repeats.sum()))

    def rows(self, pseudo_epoch: int) -> NDArray[np.int64]:
        """Return the rows of one pseudo-epoch; none past the last."""
        length = self.pass_rows
        if pseudo_epoch >= len(self.ends) or length <= 0:
            return np.empty(0, np.int64)
        start, stop = self.ends[pseudo_epoch - 1] if pseudo_epoch else 0, self.ends[pseudo_epoch]
        first, last = start // length, (stop - 1) // length
        passes = [self.one_pass(number) for number in range(first, last + 1)]
        return np.concatenate(passes)[start - first * length : stop - first * length]

    def one_pass(self, number: int) -> NDArray[np.int64]:
        """Return the rows of a pass, 0 for the first.

        A row that comes 1.5 times, as a mean, comes once or twice: the whole parts are certain, the
        fractions are drawn by systematic sampling (equal steps from a random offset) over the rows
        in random order.
        """
        if self.repeats is None:
            whole = np.arange(self.n, dtype=np.int64)
            return permutation(self.seed, number, self.n) if self.shuffle else whole
        generator = np.random.Generator(np.random.Philox(key=[self.seed, number]))
        counts, fraction = np.floor(self.repeats).astype(np.int64), self.repeats % 1
        some = generator.permutation(np.flatnonzero(fraction))
        more, found = self.pass_rows - int(counts.sum()), float(fraction.sum())
        # moved a little, within 0 to 1, so that they add up to a whole number
        if more <= found:
            moved = fraction[some] * (more / found) if found else fraction[some]
        else:
            moved = 1 - (1 - fraction[some]) * ((len(some) - more) / (len(some) - found))
        edges = np.cumsum(moved)
        edges[-1:] = more  # but for rounding it is that
        hits = np.ceil(edges - generator.random())  # points below each edge, one point a unit
        counts[some] += np.diff(hits, prepend=0.0).astype(np.int64)
        rows = np.repeat(np.arange(self.n, dtype=np.int64), counts)
        return generator.permutation(rows) if self.shuffle else rows


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
