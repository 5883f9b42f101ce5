"""The job `check`: can the network learn one batch? No torch at import."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from satray.config.train import CheckRecipe, TrainRecipe
from satray.data.order import permutation
from satray.errors import InputError
from satray.runs.run import Outcome, Run, to_json
from satray.storage import Storage
from satray.train.check.diagnose import Evidence, Verdict, diagnose, labels_note
from satray.train.plan.description import about
from satray.train.plan.setup import Setup, unchanged
from satray.train.plan.setup import read as setup_of

if TYPE_CHECKING:  # it imports torch
    from satray.models.network import Network

USUAL_RATE = 1e-3
"""Where the recipe's stages leave theirs to a range test."""


def read(recipe: CheckRecipe, storage: Storage) -> Setup:
    """Index and weight files, and what the recipe makes of them on one worker.

    Raises:
        InputError: what `train` would refuse too, or a batch of one tile.
    """
    if recipe.batch < 2:
        raise InputError(f"batch={recipe.batch}: check needs tiles to tell apart; take at least 2")
    return setup_of(alone(recipe), storage)


def plan(recipe: CheckRecipe, setup: Setup, storage: Storage) -> list[str]:
    """What would be done.

    Raises:
        InputError: `check.trainable` is no block of the network, or weights do not fit it.
    """
    from satray.train.workers.initial import prepared

    options = recipe.check
    _, loaded = prepared(setup, storage, _check_trainable)
    return [
        *about(setup),
        *loaded,
        f"check: {recipe.batch} tiles of the train split, up to {options.steps} steps at learning "
        f"rate {rate_of(setup.recipe):.3g}; passes at loss < {options.loss:g} and all decisions "
        "right",
        *unchanged(setup, storage),
    ]


def work(recipe: CheckRecipe, setup: Setup, run: Run) -> Outcome:
    """Overfit a batch; publish `check.json`. Ray is up.

    Returns:
        an outcome whose `verdict` says in one line why the check is not passed, where it is not.
    """
    from satray.train import measure
    from satray.train.check.task import run_check
    from satray.train.workers import initial

    with run.activity("preparing"):
        setup = measure.complete(setup, run)
        weights = initial.stage(setup, run, _check_trainable)
        rows = choose_rows(setup.index.part("train").labels, recipe.batch, recipe.seed)
    evidence = run_check(setup, recipe, run, weights, rows, rate_of(setup.recipe))
    verdict, note = diagnose(evidence), labels_note(evidence)
    ids = setup.index.part("train").table.column("tile_id").take(rows).to_pylist()
    run.publish("check.json", to_json(_document(verdict, note, evidence, ids)))
    notes = (note,) if note else ()
    return Outcome(
        counts={"tiles": evidence.tiles, "steps": evidence.main.steps},
        metrics={
            "loss": evidence.main.losses[-1],
            "accuracy": evidence.main.accuracy,
            "learning_rate": evidence.main.learning_rate,
        },
        summary=(verdict.line, *notes) if verdict.passed else notes,
        verdict=None if verdict.passed else f"{verdict.line} (check.json)",
    )


def alone(recipe: CheckRecipe) -> CheckRecipe:
    """The recipe for one process, which is all that a check takes."""
    one = recipe.resources.model_copy(update={"workers": 1})
    return recipe.model_copy(update={"resources": one})


def _check_trainable(network: "Network", setup: Setup) -> None:
    from satray.train.loop.stage_check import check_trainable

    assert isinstance(setup.recipe, CheckRecipe)
    check_trainable(network, setup.recipe.check.trainable, "check.")


def rate_of(recipe: TrainRecipe) -> float:
    """The learning rate to try, of a check's recipe."""
    assert isinstance(recipe, CheckRecipe)
    if recipe.check.learning_rate is not None:
        return recipe.check.learning_rate
    given = [s.learning_rate for s in recipe.stages if not isinstance(s.learning_rate, str)]
    return max(given, default=USUAL_RATE)


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
    for row in order.tolist():
        if len(chosen) >= batch:
            break
        chosen[row] = None
    return np.array(list(chosen), dtype=np.int64)


def _document(
    verdict: Verdict, note: str | None, evidence: Evidence, ids: list[str]
) -> dict[str, Any]:
    return {
        "passed": verdict.passed,
        "looks_like": verdict.kind,
        "says": verdict.line,
        "labels": note,
        "evidence": asdict(evidence),
        "tile_ids": ids,
    }
