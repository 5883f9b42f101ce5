"""Which pixels a bundle was trained on, beside their usual size on the ground."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

from satray.errors import InputError

NEAR = 0.005
"""Share by which sizes may differ and still be one."""


@dataclass(frozen=True)
class TrainedPixels:
    """Tiles of one grid whose px show the ground at other sizes than the bundle's `resolution`.

    A map that stretches the ground does so: Web Mercator, degrees. A scene of that grid is taken as
    it is, where the tiles were.
    """

    crs: str
    """The CRS, authority string or WKT."""
    x: float
    """A step of one column in units of the CRS."""
    y: float
    """A step of one row in units of the CRS."""
    low: tuple[float, float]
    """Smallest px on the ground along x and y, m."""
    high: tuple[float, float]
    """Largest px on the ground along x and y, m."""

    def hold(self, crs: str, steps: Sequence[float], ground: Sequence[float]) -> bool:
        """Whether px of so many units of a CRS, and of so many m, are among these."""
        same = crs == self.crs and all(
            abs(step - own) <= 1e-3 * own for step, own in zip(steps, (self.x, self.y), strict=True)
        )
        spans = zip(self.low, ground, self.high, strict=True)
        return same and all(
            low * (1 - NEAR) <= metres <= high * (1 + NEAR) for low, metres, high in spans
        )


def read_trained(name: str, value: object) -> tuple[TrainedPixels, ...]:
    """Read the key of a bundle's `model.json`; raises InputError where it is something else."""
    keys = [entry.name for entry in fields(TrainedPixels)]
    try:
        if not isinstance(value, list):
            raise TypeError
        return tuple(
            TrainedPixels(
                str(one["crs"]),
                float(one["x"]),
                float(one["y"]),
                _pair(one["low"]),
                _pair(one["high"]),
            )
            for one in value
        )
    except (KeyError, TypeError, ValueError):
        raise InputError(
            f"{name}: found {str(value)[:80]}, accepted: a list of objects with {', '.join(keys)}"
        ) from None


def _pair(value: Sequence[float]) -> tuple[float, float]:
    x, y = value
    return float(x), float(y)
