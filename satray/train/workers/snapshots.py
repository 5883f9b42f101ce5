"""Where the snapshots of a run's weights lie, and what is made of them.

Each is a file below the run's state, so that checkpoints stay small. A step's snapshot is the same
whenever it is taken, so a run that goes on from an earlier checkpoint writes it again. No torch.
"""

from __future__ import annotations

from satray.config.train import AverageOptions
from satray.storage import Storage, join
from satray.train.plan import TrainingPlan, snapshot_steps

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
