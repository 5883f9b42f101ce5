"""The job `check`: can the network learn one batch by heart, and if not, what does it look like?

No torch at import.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from satray.config.train import CheckRecipe, StageOptions
from satray.data.order import permutation
from satray.errors import InputError
from satray.metrics.scored import decide
from satray.runs.run import Outcome, Run, to_json
from satray.storage import Storage
from satray.train.setup import Setup
from satray.train.setup import read as setup_of
from satray.train.worker import Worker, work_on_one

if TYPE_CHECKING:
    from torch import Tensor

USUAL_RATE = 1e-3
"""Where the recipe's first stage leaves its own to a range test."""
FACTORS = (0.1, 10.0, 0.01, 100.0, 0.001)
"""Learning rates tried where the one asked for fails, as multiples of it."""
BETTER = 0.5
"""Another learning rate explains a failure where it ends below this share of the loss."""


@dataclass(frozen=True)
class Trace:
    """One attempt at the batch, at a constant learning rate."""

    learning_rate: float
    """Of all steps."""
    losses: tuple[float, ...]
    """Before each step, and after the last; ends early where learnt, or with one that is not
    finite."""
    accuracy: float
    """Share of right decisions at the end, 0 to 1."""
    learnt: bool
    """Whether loss and accuracy are what is asked for."""

    @property
    def last(self) -> float:
        """The loss at the end: the median of the last tenth, infinite where it is not finite."""
        if not math.isfinite(self.losses[-1]):
            return math.inf
        tail = sorted(self.losses[-max(1, len(self.losses) // 10) :])
        return tail[len(tail) // 2]


def read(recipe: CheckRecipe, storage: Storage) -> Setup:
    """Index and weight files, and what the recipe makes of them on one worker.

    What keeps a batch from being learnt by heart is left out: dropout and label smoothing.

    Raises:
        InputError: what `train` would refuse too, or a batch of one tile.
    """
    if recipe.batch < 2:
        raise InputError(f"batch={recipe.batch}: check needs tiles to tell apart; take at least 2")
    plain = {
        "resources": recipe.resources.model_copy(update={"workers": 1}),
        "loss": recipe.loss.model_copy(update={"smoothing": 0.0}),
        "drop_path": 0.0,
    }
    return setup_of(recipe.model_copy(update=plain), storage)


def plan(recipe: CheckRecipe, setup: Setup, storage: Storage) -> list[str]:
    """What would be done.

    Raises:
        InputError: a stage that cannot be trained, or weights that do not fit the network.
    """
    from satray.train.initial import outlook

    options = recipe.check
    return outlook(
        setup,
        storage,
        f"check: {recipe.batch} tiles of the train split, up to {options.steps} steps at learning "
        f"rate {rate_of(recipe):.3g} (stages.0.learning_rate); passes at loss < "
        f"{options.loss:g} and all decisions right",
    )


def work(recipe: CheckRecipe, setup: Setup, run: Run) -> Outcome:
    """Overfit a batch; publish `check.json`.

    Returns:
        an outcome whose `verdict` says in one line why the check is not passed, where it is not.
    """
    from satray.train.initial import prepare

    weights = prepare(setup, run)
    split = setup.index.part("train")
    rows = choose_rows(split.labels, recipe.batch, recipe.seed)
    rate = rate_of(recipe)
    main, *others = work_on_one(_examine, setup, run, weights, "check", recipe, rows, rate)
    kind, line = diagnose(main, others)
    passed = kind == "passed"
    document = {
        "passed": passed,
        "looks_like": kind,
        "says": line,
        "evidence": {"main": asdict(main), "others": [asdict(each) for each in others]},
        "tile_ids": split.table.column("tile_id").take(rows).to_pylist(),
    }
    run.publish("check.json", to_json(document))
    return Outcome(
        counts={"tiles": len(rows), "steps": len(main.losses) - 1},
        metrics={"loss": main.losses[-1], "accuracy": main.accuracy, "learning_rate": rate},
        summary=(f"passed: {len(rows)} tiles {line}",) if passed else (),
        verdict=None if passed else f"{line} (check.json)",
    )


def rate_of(recipe: CheckRecipe) -> float:
    """The learning rate to try: the first stage's."""
    given = recipe.stages[0].learning_rate
    return USUAL_RATE if isinstance(given, str) else given


def choose_rows(labels_NK: NDArray[Any], batch: int, seed: int) -> NDArray[np.int64]:
    """Rows of the split to learn: drawn at random, but with both kinds of each class if possible.

    Up to half of the batch goes to tiles with and without each class, the rarest class first.

    Args:
        labels_NK: of the split, 0 or 1.
        batch: rows wanted; the split has as many.
        seed: of the draw.
    """
    labels = np.asarray(labels_NK).astype(bool)
    order = permutation(seed, 0, len(labels))
    chosen: dict[int, None] = {}
    for k in np.argsort(np.minimum(labels.sum(axis=0), (~labels).sum(axis=0)), kind="stable"):
        for kind in (True, False):
            fitting = order[labels[order, k] == kind]
            have = any(labels[row, k] == kind for row in chosen)
            if len(fitting) and not have and len(chosen) < max(2, batch // 2):
                chosen[int(fitting[0])] = None
    chosen.update(dict.fromkeys(order.tolist()))
    return np.array(list(chosen)[:batch], dtype=np.int64)


def _examine(
    worker: Worker, recipe: CheckRecipe, rows: NDArray[np.int64], rate: float
) -> list[Trace]:
    """On the worker: try to learn the batch, and where that fails at other rates, anew each time.

    Loss and accuracy are those of the forward passes that are trained on.
    """
    import torch

    from satray.train.step import inputs_of

    (batch,) = worker.read(rows)
    preprocess, wanted = worker.task.setup.preprocess(), recipe.check
    inputs = inputs_of(batch, lambda stored, *_: preprocess(stored), worker.device)
    labels_BK = inputs.labels_BK.cpu().numpy()[inputs.valid]
    stage = replace(worker.task.setup.plan.stages[0], options=StageOptions(), dropout=0.0)
    traces: list[Trace] = []
    for factor in (1.0, *FACTORS):
        if traces and (traces[-1].learnt or math.isnan(traces[0].losses[0])):
            break
        network, take = worker.begin(stage, recipe.accumulate)
        outputs: list[Tensor] = []
        network.register_forward_hook(lambda _, __, out, to=outputs: to.append(out.detach()))
        losses: list[float] = []
        accuracy, learnt = 0.0, False
        while len(losses) <= wanted.steps and not learnt:
            outputs.clear()
            losses.append(take(inputs, factor * rate))
            if math.isnan(losses[-1]):
                break
            logits_BK = torch.cat(outputs).float().cpu().numpy()[inputs.valid]
            accuracy = accuracy_of(logits_BK, labels_BK, worker.task.setup.task)
            learnt = losses[-1] < wanted.loss and accuracy == 1
        traces.append(Trace(factor * rate, tuple(losses), accuracy, learnt))
    return traces


def accuracy_of(logits_BK: NDArray[Any], labels_BK: NDArray[Any], task: str) -> float:
    """Share of right decisions, 0 to 1; of `multiclass`, of tiles that are right."""
    right_BK = decide(logits_BK, task) == (labels_BK > 0.5)
    return float(right_BK.all(axis=1).mean() if task == "multiclass" else right_BK.mean())


def diagnose(main: Trace, others: Sequence[Trace]) -> tuple[str, str]:
    """Say what attempts look like, in a word and in a line; what explains most comes first.

    Args:
        main: at the learning rate asked for.
        others: at other ones, from the same weights, where that failed.

    Returns:
        `passed`, `not_finite`, `rate_too_high`, `rate_too_low` or `unfinished`; and why.
    """
    first, steps = main.losses[0], len(main.losses) - 1
    rate = f"learning rate {main.learning_rate:.3g}"
    if main.learnt:
        return "passed", (
            f"learnt in {steps} steps, loss {main.losses[-1]:.4g}, accuracy {main.accuracy:.0%}, "
            f"{rate}"
        )
    if not math.isfinite(first):
        return "not_finite", (
            "the loss or its gradient is not finite before the first step: look at the first "
            "weights and at the mean and deviation that tiles are normalised by"
        )
    ends = f"loss {first:.4g} -> {main.last:.4g} in {steps} steps"
    best = min(others, key=lambda trace: (not trace.learnt, trace.last), default=main)
    if best.learnt or best.last < BETTER * main.last:
        low = best.learning_rate > main.learning_rate
        end = f"learnt in {len(best.losses) - 1} steps" if best.learnt else f"loss {best.last:.4g}"
        return "rate_too_low" if low else "rate_too_high", (
            f"{rate} is too {'low' if low else 'high'}: {ends}, and from the same weights at "
            f"{best.learning_rate:.3g}: {end}"
        )
    shown = ", ".join(f"{each.learning_rate:.2g}: {each.last:.4g}" for each in others)
    met = f"{ends}, accuracy {main.accuracy:.0%}, {rate}" + (f" (others, {shown})" if shown else "")
    return "unfinished", (
        f"not there yet: {met}; more check.steps may do, two tiles may look the same and have "
        "other labels, or the network is too small, or is not shown what tells the tiles apart"
    )
