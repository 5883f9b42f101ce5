"""What a trial of engines gives, and what is made of it: plain arithmetic.

Legend: B windows or tiles, D features, h x w cells, H x W px.
"""

import math
from dataclasses import dataclass

from torch import Tensor

from satray.scoring.engine.trunk import NAMES, EngineName

TOLERANCE = 1e-4
"""Largest difference from eager torch that is let through, as `difference` counts it."""
MARGIN = 0.97
"""What an engine may take at most of a plainer one's time, to be preferred to it."""
TRIED_PX = 512 * 512
"""Px of the input that engines are tried on, about: less than a window, for a short trial."""


@dataclass(frozen=True)
class Trial:
    """How one engine did with one tower."""

    engine: EngineName
    """Which."""
    seconds: float | None = None
    """Of one forward of the input tried, the shortest of a few; None where it was not timed."""
    difference: float | None = None
    """From eager torch, see `difference`; None where it did not run."""
    refused: str | None = None
    """Why it is out; None where it is not."""


@dataclass(frozen=True)
class Choice:
    """What runs each tower, and why; small, and travels to other processes."""

    engines: dict[str, EngineName]
    """Tower -> engine."""
    trials: dict[str, tuple[Trial, ...]]
    """Tower -> all engines looked at."""
    tried: tuple[int, int, int]
    """B, H and W of the input that they were tried on, px."""
    threads: int
    """Threads of one forward."""

    def lines(self) -> list[str]:
        """A line a tower for people."""
        return [
            f"{tower}: {self.engines[tower]} ({'; '.join(map(_told, trials))})"
            for tower, trials in self.trials.items()
        ]


def fastest(trials: tuple[Trial, ...]) -> EngineName:
    """The fastest engine; a plainer one where it is nearly as fast, eager where none was timed."""
    best: EngineName = "eager"
    shortest = math.inf
    for trial in sorted(trials, key=lambda each: NAMES.index(each.engine)):
        if trial.refused is not None or trial.seconds is None:
            continue
        if trial.seconds < MARGIN * shortest:
            best, shortest = trial.engine, trial.seconds
    return best


def difference(f_BDhw: Tensor, eager_BDhw: Tensor) -> float:
    """The largest difference of any feature, over the largest feature of eager torch.

    Infinite where shapes differ or a number is not finite.
    """
    if f_BDhw.shape != eager_BDhw.shape or not bool(f_BDhw.isfinite().all()):
        return math.inf
    most = float(eager_BDhw.abs().max())
    gap = float((f_BDhw.double() - eager_BDhw.double()).abs().max())
    if gap == 0:
        return 0.0
    return gap / most if 0 < most < math.inf else math.inf


def tried_shape(shape: tuple[int, int, int], step: int) -> tuple[int, int, int]:
    """A smaller input of the kind of the ones to come.

    Args:
        shape: B, H and W of those, px.
        step: a side that is shortened becomes a multiple of it, px.
    """
    B, H, W = shape
    if min(shape) < 1:
        raise ValueError(f"shape {shape}: three positive numbers wanted")
    most = math.isqrt(TRIED_PX)
    H, W = (side if side <= most else max(step, most // step * step) for side in (H, W))
    return max(1, min(B, TRIED_PX // (H * W))), H, W


def _told(trial: Trial) -> str:
    if trial.refused is not None:
        return f"{trial.engine}: {trial.refused}"
    took = "" if trial.seconds is None else f" {1e3 * trial.seconds:.0f} ms"
    return f"{trial.engine}{took}"
