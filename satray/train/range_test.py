"""The learning-rate range test: the job `landscape`, and `learning_rate: auto` before training.

Leslie Smith's test (arXiv 1506.01186) in fastai's form: the learning rate grows exponentially
from batch to batch, the loss is averaged with a debiased memory, and the curve without its first
tenth and its last five points says where learning sets in and where it breaks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import TypeAdapter

from satray.config.train import LandscapeRecipe, RangeOptions
from satray.data.order import TrainOrder
from satray.errors import InputError, TrainingError, counted
from satray.report.curves import Panel, landscape
from satray.runs.run import Outcome, Run, to_json
from satray.storage import Storage, join
from satray.train.imbalance import repeat_factors
from satray.train.setup import Setup
from satray.train.setup import read as setup_of
from satray.train.worker import Worker, work_on_one

FILE = "range_tests.json"
"""Below a run's state: what was found, so that a run that goes on does not search again."""
SMOOTHING = 0.98
"""Weight of the past in the debiased average of the loss, as fastai's."""
BURST = 4.0
"""A sweep ends where the smoothed loss is so many times its best."""
LAST = 5
"""Points at the end of a curve that say nothing: the loss is bursting there."""
FEWEST = 4
"""Points that a curve needs in between, at the least."""
_STREAM = 3001
"""Keeps the sweeps' generators apart from training's."""


# Arithmetic


@dataclass(frozen=True)
class Curve:
    """One sweep; it ends where the loss burst."""

    learning_rates: tuple[float, ...]
    """Learning rate of each step."""
    losses: tuple[float, ...]
    """Loss of each step, before its update; finite."""
    smoothed: tuple[float, ...]
    """Debiased moving average of the losses."""
    steps: int
    """Steps that were planned."""


@dataclass(frozen=True)
class Suggestions:
    """Learning rates that a curve suggests."""

    valley: float
    """Half of the way along the longest fall of the loss (fastai's default)."""
    steep: float
    """Where the loss falls fastest by the logarithm of the rate."""
    minimum: float
    """A tenth of the rate at which the loss is lowest."""

    @property
    def bounds(self) -> tuple[float, float]:
        """What an automatic choice is kept within: steep / 3 to 3 x minimum."""
        return self.steep / 3, self.minimum * 3

    @property
    def chosen(self) -> float:
        """The learning rate that `auto` takes: the valley, kept within the bounds.

        Where the bounds cross, the upper one wins: a rate too high costs more than one too low.
        """
        low, high = self.bounds
        return min(max(self.valley, low), high)


@dataclass(frozen=True)
class Finding:
    """The range test of one stage."""

    stage: int
    """0 for the first of the recipe's."""
    trainable: str
    """What was trained."""
    curves: tuple[Curve, ...]
    """One a seed."""

    @property
    def suggestions(self) -> Suggestions:
        """The median over the seeds, halfway on a logarithmic scale; raises TrainingError."""
        logarithms = np.log([list(asdict(suggest(curve)).values()) for curve in self.curves])
        return Suggestions(*np.exp(np.median(logarithms, axis=0)).tolist())

    @property
    def learning_rate(self) -> float:
        """What `auto` takes."""
        return self.suggestions.chosen

    def line(self) -> str:
        """All that matters in one line."""
        shown = ", ".join(f"{name} {rate:.2g}" for name, rate in asdict(self.suggestions).items())
        return (
            f"range test of stages[{self.stage}] ({self.trainable}): {shown} (median of "
            f"{counted(len(self.curves), 'seed')}); learning rate {self.learning_rate:.3g}"
        )

    def figures(self) -> dict[str, Any]:
        """For metrics.json: rates found, not the curves."""
        return {
            "stage": self.stage,
            "trainable": self.trainable,
            "learning_rate": self.learning_rate,
            "bounds": list(self.suggestions.bounds),
            **asdict(self.suggestions),
            "seeds": [asdict(suggest(curve)) for curve in self.curves],
        }


_FINDINGS = TypeAdapter(tuple[Finding, ...])


def sweep(take: Callable[[float], float | None], options: RangeOptions) -> Curve:
    """Step while the learning rate grows from `lowest` to `highest`, and give the losses met.

    It ends where a loss is not finite, or where the smoothed loss is `BURST` times its best.

    Args:
        take: takes a step at a learning rate, and gives the loss before it; None where there was
            nothing to learn from, which makes no point of the curve.
        options: rates and steps.
    """
    rates = np.geomspace(options.lowest, options.highest, options.steps).tolist()
    met: list[float] = []
    losses: list[float] = []
    smoothed: list[float] = []
    total = 0.0
    for rate in rates:
        loss = take(rate)
        if loss is None:
            continue
        if not math.isfinite(loss):
            break
        total = SMOOTHING * total + (1 - SMOOTHING) * loss
        met.append(rate)
        losses.append(loss)
        smoothed.append(total / (1 - SMOOTHING ** len(losses)))  # unbiased, as Adam's moments
        if smoothed[-1] > BURST * min(smoothed):
            break
    return Curve(tuple(met), tuple(losses), tuple(smoothed), options.steps)


def suggest(curve: Curve) -> Suggestions:
    """What one curve suggests.

    Raises:
        TrainingError: too few points are left between its first tenth and its last five.
    """
    kept = slice(curve.steps // 10, -LAST)
    x, y = np.array(curve.learning_rates[kept]), np.array(curve.smoothed[kept])
    if len(x) < FEWEST:
        raise TrainingError(
            f"range test: the loss burst after {len(curve.losses)} of {curve.steps} batches, too "
            "early to suggest anything; take a smaller landscape.lowest"
        )
    slope = np.diff(y) / np.diff(np.log(x))
    return Suggestions(
        valley=float(x[valley_index(y)]),
        steep=float(x[int(slope.argmin())]),
        minimum=float(x[int(y.argmin())] / 10),
    )


def valley_index(losses: Sequence[float] | NDArray[np.float64]) -> int:
    """Where fastai's `valley` lies: in the longest falling subsequence that ends earliest.

    The window of a subsequence of L points that ends at e starts at e - L; the point is
    start + L // 3 + L // 6.
    """
    longest = np.ones(len(losses), dtype=np.int64)
    values = np.asarray(losses, dtype=np.float64)
    for i in range(1, len(values)):
        before = longest[:i][values[:i] > values[i]]
        if len(before):
            longest[i] = before.max() + 1
    end = int(longest.argmax())
    length = int(longest[end])
    if length == 1:  # nothing falls
        return 0
    return max(0, end - length + int(length / 3) + int(length / 6))


def picture(findings: Sequence[Finding], title: str) -> bytes:
    """`landscape.png`."""
    panels = [
        Panel(
            title=f"stages[{finding.stage}] ({finding.trainable})",
            curves=[(c.learning_rates, c.losses, c.smoothed) for c in finding.curves],
            suggestions=asdict(finding.suggestions),
            chosen=finding.learning_rate,
        )
        for finding in findings
    ]
    return landscape(panels, title)


# Tests of stages


def settle(setup: Setup, run: Run, initial: str) -> tuple[Setup, tuple[Finding, ...]]:
    """Find the learning rates that the recipe leaves open (`auto`), once a run.

    Args:
        setup: the run, resolved.
        run: its folder.
        initial: URI of the network's first weights, from which each test starts.

    Returns:
        The set-up with a plan that has all rates, and what was found; nothing where all rates
        were given.

    Raises:
        TrainingError: see `explore`.
    """
    wanted = [stage.number for stage in setup.plan.stages if stage.peak is None]
    if not wanted:
        return setup, ()
    found = explore(setup, run, initial, wanted)
    rates: list[float | None] = [None] * len(setup.plan.stages)
    for finding in found:
        run.say(finding.line())
        rates[finding.stage] = finding.learning_rate
    return replace(setup, plan=setup.plan.with_rates(rates)), found


def explore(setup: Setup, run: Run, initial: str, stages: Sequence[int]) -> tuple[Finding, ...]:
    """Find learning rates for some stages, once: a run that goes on reads what it found.

    Each test starts from the network's first weights, on batches as they would come in training.

    Args:
        setup: the run, resolved.
        run: its folder.
        initial: URI of the network's first weights.
        stages: which stages, 0 for the first.

    Raises:
        TrainingError: a loss that bursts before it says anything, or tiles that cannot be read.
    """
    kept = join(run.state, FILE)
    if run.storage.exists(kept):
        return _FINDINGS.validate_json(run.storage.read(kept))
    wanted = setup.recipe.landscape
    run.say(
        f"range test: {len(stages) * wanted.seeds} sweeps of {wanted.steps} batches of "
        f"{setup.recipe.batch}, {wanted.lowest:g} to {wanted.highest:g}"
    )
    found = work_on_one(_sweeps, setup, run, initial, "range test", stages)
    run.storage.write(kept, _FINDINGS.dump_json(found))
    return found


def _sweeps(worker: Worker, stages: Sequence[int]) -> tuple[Finding, ...]:
    """All sweeps of some stages; on the worker."""
    seeds, found = range(worker.task.setup.recipe.landscape.seeds), []
    for place, stage in enumerate(stages):
        curves = tuple(_sweep(worker, stage, seed, place * len(seeds) + seed) for seed in seeds)
        found.append(Finding(stage, worker.task.setup.recipe.stages[stage].trainable, curves))
    return tuple(found)


def _sweep(worker: Worker, stage: int, seed: int, number: int) -> Curve:
    """One sweep over batches as training with that seed would draw them, always shuffled."""
    from satray.train.mixing import Mixing
    from satray.train.process import seed_torch
    from satray.train.step import AugmentedTiles, ahead, inputs_of

    setup, recipe, device = worker.task.setup, worker.task.setup.recipe, worker.device
    options = recipe.landscape
    # A batch goes through in as many parts as with the run's workers: so it fits the device, and
    # batch norms see what they will see.
    parts = recipe.accumulate * setup.plan.workers
    _, take = worker.begin(setup.plan.stages[stage], parts)
    seed_torch(recipe.seed, _STREAM, number)
    drawn = recipe.seed + seed
    make = AugmentedTiles.of(recipe, setup.preprocess(), drawn)
    mixing = Mixing.of(recipe.augment, drawn)
    repeats = repeat_factors(worker.task.train.labels, recipe.repeat)
    samples = options.steps * recipe.batch
    order = TrainOrder(len(worker.task.train), (samples,), drawn, True, repeats)
    read = worker.read(order.rows(0))
    inputs = ahead((inputs_of(batch, make, device, mixing=mixing) for batch in read), device)

    def step(rate: float) -> float | None:
        batch = next(inputs)
        return take(batch, rate) if batch.valid.any() else None

    return sweep(step, options)


# The job


def read(recipe: LandscapeRecipe, storage: Storage) -> Setup:
    """Index and weight files, and what the recipe makes of them.

    Raises:
        InputError: what `train` would refuse too, or no such stage.
    """
    setup = setup_of(recipe, storage)
    stages = len(setup.recipe.stages)
    if recipe.stage >= stages:
        raise InputError(
            f"stage={recipe.stage}: the recipe has {counted(stages, 'stage')}; "
            f"accepted: {'0' if stages == 1 else f'0 to {stages - 1}'}"
        )
    return setup


def plan(recipe: LandscapeRecipe, setup: Setup, storage: Storage) -> list[str]:
    """What would be done.

    Raises:
        InputError: a stage that cannot be trained, or weights that do not fit the network.
    """
    from satray.train.initial import outlook

    wanted = recipe.landscape
    samples = wanted.seeds * wanted.steps * recipe.batch
    return outlook(
        setup,
        storage,
        f"range test of stages[{recipe.stage}] ({setup.recipe.stages[recipe.stage].trainable}): "
        f"{counted(wanted.seeds, 'sweep')} of {wanted.steps} batches of {recipe.batch}, learning "
        f"rate {wanted.lowest:g} to {wanted.highest:g}; up to {samples:,} samples, "
        f"{samples / setup.train_tiles:.1f} times the train split",
    )


def work(recipe: LandscapeRecipe, setup: Setup, run: Run) -> Outcome:
    """Sweep; publish `landscape.parquet`, `landscape.png` and `metrics.json`."""
    from satray.train.initial import prepare

    weights = prepare(setup, run)
    (finding,) = explore(setup, run, weights, (recipe.stage,))
    columns = ("learning_rate", "loss", "smoothed")
    table = [
        {"seed": seed, "step": step, **dict(zip(columns, point, strict=True))}
        for seed, curve in enumerate(finding.curves)
        for step, point in enumerate(
            zip(curve.learning_rates, curve.losses, curve.smoothed, strict=True)
        )
    ]
    run.publish_table("landscape.parquet", pa.Table.from_pylist(table))
    title = f"{run.run_id}: learning-rate landscape of {setup.variant_name}"
    run.publish("landscape.png", picture((finding,), title))
    figures = finding.figures()
    run.publish("metrics.json", to_json(figures))
    return Outcome(
        counts={
            "train_tiles": setup.train_tiles,
            "sweeps": len(finding.curves),
            "batches": len(table),
            "samples": len(table) * recipe.batch,
        },
        metrics={name: figures[name] for name in ("valley", "steep", "minimum", "learning_rate")},
        summary=(
            finding.line(),
            f"use stages.{recipe.stage}.learning_rate={finding.learning_rate:.2g}, or cycle "
            f"between a quarter of it and it: landscape.png, landscape.parquet",
        ),
    )
