"""How many trials run at once on the resources at hand. Pure arithmetic."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Available:
    """What there is to work with."""

    cpus: float
    """Logical CPUs of the cluster, by Ray's count; on one machine more than it has cores."""
    gpus: float
    """GPUs of the cluster."""
    nodes: int
    """Machines."""
    cores: int
    """Cores of the driver's machine that may be used."""


@dataclass(frozen=True)
class Demand:
    """What a trial that trains its backbone takes."""

    workers: int
    """Train workers, a CPU each."""
    gpu: bool
    """Whether they take GPUs."""
    gpu_share: float = 1.0
    """Share of a GPU that each takes."""


def heads_at_once(there: Available, wanted: int | None = None) -> int:
    """Trials that train a head from features: one thread and one CPU each.

    Ray is told of more CPUs than a small machine has cores, for tasks that wait for tiles; heads
    compute, so there are no more of them than cores.

    Args:
        there: what there is.
        wanted: by the recipe; None: as many as fit.
    """
    cpus = min(there.cpus, there.cores) if there.nodes == 1 else there.cpus
    return _held(max(1, int(cpus)), wanted)


def backbones_at_once(there: Available, demand: Demand, wanted: int | None = None) -> int:
    """Trials that train on workers of their own.

    On GPUs as many as their shares hold: whole workers a GPU, since a share never spans two.
    Without GPUs one worker a machine, since each takes all its cores. In both cases the CPUs must
    be enough: one a worker, and one for each of the trial's two streams of tiles. Ray Data divides
    what Train leaves by the number of streams and rounds down; with less than one CPU for each, all
    of them would wait for ever.

    Args:
        there: what there is.
        demand: of a trial.
        wanted: by the recipe; None: as many as fit.
    """
    if demand.gpu:
        a_gpu = math.floor(1 / demand.gpu_share + 1e-9)
        fitting = int(there.gpus * a_gpu) // demand.workers
    else:
        fitting = there.nodes // demand.workers
    by_cpus = int(there.cpus // (demand.workers + 2))
    return _held(max(1, min(fitting, by_cpus)), wanted)


def _held(most: int, wanted: int | None) -> int:
    """More at once than fit would wait, or starve each other."""
    return most if wanted is None else min(most, wanted)
