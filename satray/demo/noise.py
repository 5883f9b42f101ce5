"""Smooth random fields as pure functions of (seed, place): any window agrees with any other.

Legend: H, W rows and columns of a window; N points. Rows and columns are continuous pixel-edge
coordinates: the centre of pixel (r, c) lies at (r + 0.5, c + 0.5).
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float64]

_LATTICE = 256
# Mean square of the four cubic B-spline weights over a cell: the variance that interpolation keeps
# along one axis (the spline of order 7 at its centre).
_KEPT = 151.0 / 315.0


@lru_cache(maxsize=256)
def _lattice(seed: int, octave: int) -> Field:
    """Standard normal values on a periodic grid."""
    return np.random.default_rng([seed, octave]).standard_normal((_LATTICE, _LATTICE))


def _taps(x_N: Field) -> tuple[NDArray[np.int64], Field]:
    """First lattice index and the four cubic B-spline weights (N, 4) at lattice coordinates."""
    base = np.floor(x_N)
    t = x_N - base
    weights = np.stack(
        [(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], axis=1
    )
    return base.astype(np.int64) - 1, weights / 6.0


def _matrix(x_N: Field) -> tuple[int, Field]:
    """First lattice index and the dense weight matrix (N, K) that interpolates sorted places."""
    first, weights = _taps(x_N)
    start = int(first[0])
    dense = np.zeros((len(x_N), int(first[-1]) - start + 4))
    at = np.arange(len(x_N))
    for tap in range(4):
        dense[at, first - start + tap] = weights[:, tap]
    return start, dense


@dataclass(frozen=True)
class Noise:
    """A sum of octaves of smooth noise with mean 0 and variance 1 (over the whole plane)."""

    seed: int
    """The seed of its lattices."""
    wavelength: float
    """Lattice spacing of the coarsest octave (px)."""
    octaves: int = 1
    """How many; each halves the spacing."""
    gain: float = 0.5
    """Amplitude of an octave over the one before it."""

    def _layers(self) -> list[tuple[Field, float, float]]:
        """Lattice, spacing (px) and amplitude of each octave."""
        total = np.sqrt(sum(self.gain ** (2 * k) for k in range(self.octaves)))
        return [
            (_lattice(self.seed, k), self.wavelength / 2**k, self.gain**k / total / _KEPT)
            for k in range(self.octaves)
        ]

    def window(self, row: float, col: float, height: int, width: int) -> Field:
        """Values at the pixel centres of a window: (H, W) float64.

        The interpolation is separable, so a window costs two small matrix products an octave.
        """
        rows = row + np.arange(height, dtype=np.float64) + 0.5
        cols = col + np.arange(width, dtype=np.float64) + 0.5
        out = np.zeros((height, width))
        for lattice, spacing, amplitude in self._layers():
            r, down = _matrix(rows / spacing)
            c, across = _matrix(cols / spacing)
            part = lattice.take(range(r, r + down.shape[1]), axis=0, mode="wrap").take(
                range(c, c + across.shape[1]), axis=1, mode="wrap"
            )
            out += amplitude * (down @ part @ across.T)
        return out

    def at(self, rows_N: Field, cols_N: Field) -> Field:
        """Values at scattered places: (N,) float64."""
        out = np.zeros(len(rows_N))
        for lattice, spacing, amplitude in self._layers():
            r, down = _taps(rows_N / spacing)
            c, across = _taps(cols_N / spacing)
            tap = np.arange(4)
            part = lattice[
                (r[:, None, None] + tap[None, :, None]) % _LATTICE,
                (c[:, None, None] + tap[None, None, :]) % _LATTICE,
            ]
            out += amplitude * np.einsum("nij,ni,nj->n", part, down, across)
        return out


def uniform(seed: int, *keys: NDArray[np.int64]) -> Field:
    """Uniform [0, 1) values that depend on the seed and on integer keys only (splitmix64)."""
    state = np.full(np.broadcast_shapes(*(k.shape for k in keys)), seed, np.uint64)
    for one in keys:
        state = (state ^ one.astype(np.uint64)) + np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state = state ^ (state >> np.uint64(31))
    return (state >> np.uint64(11)).astype(np.float64) * 2.0**-53


def grain(seed: int, row: int, col: int, height: int, width: int) -> Field:
    """Independent standard normal values a pixel, (H, W); they repeat every 256 px."""
    rows, cols = np.arange(row, row + height), np.arange(col, col + width)
    return _lattice(seed, 0)[np.ix_(rows % _LATTICE, cols % _LATTICE)]


def ramp(x: Field, low: float, high: float) -> Field:
    """Smooth step from 0 at `low` to 1 at `high`."""
    t = np.clip((x - low) / (high - low), 0.0, 1.0)
    return np.asarray(t * t * (3.0 - 2.0 * t))
