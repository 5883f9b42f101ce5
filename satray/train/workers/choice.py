"""Which weights become the bundle: the best checkpoint's, or those made of the snapshots."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from satray.metrics.summary import said
from satray.runs.run import Run
from satray.train.loop.evaluation import Predictions
from satray.train.setup import Setup
from satray.train.tracking import Row, nested
from satray.train.workers import checkpoints, snapshots
from satray.train.workers.combining import read_state

WORST = -1e30
"""Score of a metric that is not a number."""


@dataclass(frozen=True)
class Choice:
    """The weights of the bundle and how they do on validation."""

    kind: str
    """`checkpoint`, `swa` or `ensemble`."""

    states: tuple[dict[str, Tensor], ...]
    """State dicts: several for an ensemble."""

    validation: dict[str, Any]
    """Metrics, `ap` by class, and `val_loss`."""

    predictions: Predictions
    """Of the validation split, by the plain mean of several states' logits."""

    combined: dict[str, Any] | None
    """What became of the snapshots, chosen or not: `kind`, `steps`, `validation`, `seconds`."""

    def mark(self, best: Row) -> int | None:
        """Samples seen at the evaluation that made the bundle; None where no single one did."""
        return int(best["samples_seen"]) if self.kind == "checkpoint" else None

    def origin(self) -> dict[str, Any]:
        """For the bundle's provenance: which weights, and the samples seen that they are from."""
        steps = self.combined["steps"] if self.combined and self.kind != "checkpoint" else None
        return {"weights_of": self.kind} | ({} if steps is None else {"snapshots": steps})


def score(validation: dict[str, Any], best: str) -> float:
    """What checkpoints and combinations are compared by: more is better."""
    value = -float(validation["val_loss"]) if best == "loss" else float(validation[best])
    return WORST if math.isnan(value) else value


def choose(setup: Setup, run: Run, best_state: str, best: Row) -> Choice:
    """The better of the best checkpoint and the combination of snapshots, where there is one.

    Args:
        setup: the run, resolved.
        run: its folder.
        best_state: URI of the best checkpoint's state.
        best: its row of the history.
    """
    storage, state = run.storage, run.state
    record = None
    uri = snapshots.combined_uri(state, snapshots.RECORD)
    if setup.recipe.average.snapshots != "none" and storage.exists(uri):
        record = json.loads(storage.read(uri))
    checkpoint = nested(best)
    found = record["validation"] if record else None
    if record is None or found is None or score(found, setup.best) <= score(checkpoint, setup.best):
        return Choice(
            "checkpoint",
            (checkpoints.load(storage, best_state).kept,),
            checkpoint,
            checkpoints.predictions(storage, best_state),
            record,
        )
    if record["kind"] == "swa":
        uris = [snapshots.combined_uri(state, snapshots.STATE)]
    else:
        uris = [snapshots.snapshot_uri(state, step) for step in record["steps"]]
    file = snapshots.combined_uri(state, snapshots.PREDICTIONS)
    return Choice(
        record["kind"],
        tuple(read_state(storage, uri) for uri in uris),
        found,
        Predictions.from_bytes(storage.read(file)),
        record,
    )


def choice_lines(choice: Choice, best: str, checkpoint: Row) -> tuple[str, ...]:
    """What became of the snapshots, for the person; nothing where there are none."""
    record = choice.combined
    if record is None:
        return ()
    name = "val_loss" if best == "loss" else best
    found = record["validation"]
    made = "not finite" if found is None else said(found[name])
    what = {"swa": "average", "ensemble": "ensemble"}[record["kind"]]
    taken = f"the {what}" if choice.kind != "checkpoint" else "the best checkpoint"
    return (
        f"{what} of {len(record['steps'])} snapshots: {name} {made}, best checkpoint "
        f"{said(checkpoint[name])}; the bundle is {taken}",
    )
