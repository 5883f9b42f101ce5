"""Snapshots of the weights: when they are taken, and where they and what is made of them lie.

Each is a file below the run's state, so that checkpoints stay small. A step's snapshot is the same
whenever it is taken, so a run that goes on from an earlier checkpoint writes it again. No torch.
"""

from __future__ import annotations

from satray.config.train import AverageOptions
from satray.storage import Storage, join
from satray.train.plan.schedules import cycle_ends
from satray.train.plan.stages import TrainingPlan

FOLDER = "snapshots"
"""Below the run's state."""
COMBINED = "combined"
"""Below the run's state: what became of the snapshots."""
STATE = "state.pt"
"""File of it: the averaged weights (swa only)."""
PREDICTIONS = "predictions.npz"
"""File of it: validation logits, labels and rows."""
RECORD = "record.json"
"""File of it, written last: metrics, steps, seconds."""


def snapshot_steps(plan: TrainingPlan, options: AverageOptions) -> tuple[int, ...]:
    """Steps of the run after which a snapshot is taken, rising; the last `options.most`.

    They are the cycle ends of the stages that train what the last stage trains: weights from
    before something was thawed have no place in an average with those from after. Where there
    are not two of them, pseudo-epoch ends past `options.start` of the run.
    """
    if options.snapshots == "none":
        return ()
    last = plan.stages[-1].options.trainable
    steps = [
        stage.first_step + end
        for stage in plan.stages
        if stage.options.trainable == last
        for end in cycle_ends(stage.options.schedule, stage.span)
    ]
    if len(steps) < 2:
        steps = [
            end
            for end in plan.ends
            if end > options.start * plan.total_steps
            and plan.stage_at(end - 1).options.trainable == last
        ]
    return tuple(sorted(set(steps)))[-options.most :]


def snapshot_note(plan: TrainingPlan, options: AverageOptions) -> str | None:
    """One line on what becomes of the snapshots; None where there are none."""
    steps = snapshot_steps(plan, options)
    if not steps:
        return None
    ways = {"swa": "averaged", "ensemble": "put side by side as towers"}
    seen = ", ".join(f"{step * plan.global_batch:,}" for step in steps)
    return f"snapshots after {seen} samples, {ways[options.snapshots]} at the end"


def snapshot_uri(state: str, step: int) -> str:
    """File of the snapshot after so many steps.

    Args:
        state: folder of the run's state.
        step: steps taken.
    """
    return join(state, FOLDER, f"step-{step:09d}.pt")


def combined_uri(state: str, file: str) -> str:
    """File of what became of the snapshots."""
    return join(state, COMBINED, file)


def pending(
    storage: Storage, state: str, plan: TrainingPlan, options: AverageOptions
) -> tuple[int, ...]:
    """Steps of the snapshots that still are to be combined when training is over."""
    if storage.exists(combined_uri(state, RECORD)):
        return ()
    return snapshot_steps(plan, options)


def renewal_steps(plan: TrainingPlan, options: AverageOptions) -> int:
    """Steps past the end of training that read train tiles for batch statistics: one pass."""
    return plan.train_rows // plan.global_batch if options.snapshots == "swa" else 0
