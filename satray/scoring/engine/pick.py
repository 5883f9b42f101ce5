"""Which engine runs each tower: by measurement on this machine, at outputs equal to eager torch's.

Legend: B windows or tiles, C bands, H x W px, D features, h x w cells.
"""

import math
import time
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from satray.models.bundle import Bundle
from satray.scoring.engine.exported import ExportCache
from satray.scoring.engine.make import Maker, refusal
from satray.scoring.engine.trial import (
    TOLERANCE,
    Choice,
    Trial,
    difference,
    fastest,
    tried_shape,
)
from satray.scoring.engine.trunk import Engine, EngineName, TowerEngine, Trunk

ROUNDS = 4
"""Timed forwards of an engine at most."""
PATIENCE = 2.0
"""Seconds of timed forwards of an engine after which it is not run again."""
WORTH = 300.0
"""Seconds of forwards from which on an export, which takes up to a minute, can pay."""

Timed = dict[tuple[str, int, EngineName], float]
"""Seconds by backbone, number of bands and engine: one timing does for towers of a kind."""


def pick(
    bundle: Bundle,
    shape: tuple[int, int, int],
    wanted: Literal["auto"] | EngineName = "auto",
    *,
    threads: int | None = None,
    folder: Path | None = None,
    pixels: float | None = None,
) -> tuple[Engine, Choice]:
    """The engine for a bundle, tried here and now.

    Engines are compared with eager torch on noise, and timed, with as many threads as torch has in
    this process. Other processes make the same with `build(bundle, choice.engines)`.

    Args:
        bundle: on the device that is to compute; its network stays as it is.
        shape: B, H and W of the inputs to come, px; a smaller one of the kind is tried.
        wanted: auto: the fastest; else this one for all towers.
        threads: of ONNX Runtime; default as many as torch has.
        folder: where exported graphs are kept; default `exported.default_folder()`.
        pixels: px (B x H x W in all) that the job will forward, about: auto exports nothing for a
            job that is soon done. Default: any number.

    Raises:
        InputError: `wanted` cannot run one of the towers, or gives other features.
    """
    threads = threads or torch.get_num_threads()
    steps = (max(1, round(grid.stride)) for grid in bundle.spec.grids.values())
    tried = tried_shape(shape, math.lcm(*steps))
    maker = Maker(bundle, threads, ExportCache(folder))
    trunks: dict[str, Trunk] = {}
    trials: dict[str, tuple[Trial, ...]] = {}
    engines: dict[str, EngineName] = {}
    timed: Timed = {}
    for tower in bundle.network.backbones():
        desk = _Desk(maker, tower, tried, timed)
        engines[tower] = desk.try_all(pixels) if wanted == "auto" else desk.try_one(wanted)
        trials[tower] = tuple(desk.trials)
        trunks[tower] = desk.trunks[engines[tower]]
    return TowerEngine(bundle, trunks), Choice(engines, trials, tried, threads)


class _Desk:
    """Tries engines on one tower."""

    def __init__(self, maker: Maker, tower: str, tried: tuple[int, int, int], timed: Timed) -> None:
        self._maker, self._tower, self._timed = maker, tower, timed
        self._pixels = math.prod(tried)
        self._device = maker.bundle.device
        noise = torch.Generator().manual_seed(0)
        B, H, W = tried
        x_BCHW = torch.randn(B, maker.bands[tower], H, W, generator=noise)
        self._x_BCHW = x_BCHW.to(self._device)
        self.trunks: dict[EngineName, Trunk] = {"eager": maker.make("eager", tower)}
        self._eager_BDhw = _forward(self.trunks["eager"], self._x_BCHW)
        self.trials: list[Trial] = []

    def try_one(self, engine: EngineName) -> EngineName:
        """Try the engine asked for; raises InputError if it does not do."""
        trial = Trial("eager") if engine == "eager" else self._judged(engine, timing=False)
        self.trials.append(trial)
        if trial.refused is not None:
            raise refusal(engine, self._tower, trial.refused)
        return engine

    def try_all(self, pixels: float | None) -> EngineName:
        """Try all engines, but for an export that would not pay."""
        if self._device.type != "cpu":
            return self.try_one("eager")
        self.trials.append(Trial("eager", self._seconds("eager"), 0.0))
        self.trials.append(self._judged("fused", timing=True))
        idle = self._idle(pixels)
        if idle is None:
            self.trials.append(self._judged("onnx", timing=True))
        else:
            self.trials.append(Trial("onnx", refused=idle))
        return fastest(tuple(self.trials))

    def _idle(self, pixels: float | None) -> str | None:
        """Why ONNX Runtime is not worth a trial; None where it is."""
        if pixels is None or self._maker.exported(self._tower):
            return None
        best = min(trial.seconds for trial in self.trials if trial.seconds is not None)
        expected = best * pixels / self._pixels
        return f"no export for {expected:.0f} s of forwards" if expected < WORTH else None

    def _judged(self, engine: EngineName, timing: bool) -> Trial:
        """Make an engine, compare it and time it."""
        try:
            trunk = self._maker.make(engine, self._tower)
            f_BDhw = _forward(trunk, self._x_BCHW)
        except Exception as error:  # an engine that fails, however, is one that is not taken
            said = (str(error).strip().splitlines() or [type(error).__name__])[0]
            return Trial(engine, refused=said[:200])
        gap = difference(f_BDhw, self._eager_BDhw)
        if not gap <= TOLERANCE:
            why = f"its features differ from eager torch's by {gap:.1e} of the largest"
            return Trial(engine, difference=gap, refused=why)
        self.trunks[engine] = trunk
        return Trial(engine, self._seconds(engine) if timing else None, gap)

    def _seconds(self, engine: EngineName) -> float:
        name = self._maker.bundle.network.backbones()[self._tower].name
        kind = (name, self._maker.bands[self._tower], engine)
        if kind not in self._timed:
            self._timed[kind] = _shortest(self.trunks[engine], self._x_BCHW)
        return self._timed[kind]


@torch.inference_mode()
def _forward(trunk: Trunk, x_BCHW: Tensor) -> Tensor:
    return trunk(x_BCHW)


def _shortest(trunk: Trunk, x_BCHW: Tensor) -> float:
    """Seconds of a forward, the shortest of a few; it has run once before."""
    found: list[float] = []
    while len(found) < ROUNDS and sum(found) < PATIENCE:
        start = time.perf_counter()
        _forward(trunk, x_BCHW)
        found.append(time.perf_counter() - start)
    return min(found)
