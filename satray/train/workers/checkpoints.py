"""What Ray Train's state folder says about a run: the latest and the best checkpoint. No Ray.

Ray keeps `checkpoint_manager_snapshot.json` beside the checkpoints and goes on from it when a
run of the same name starts again. It is overwritten in place, so a crash can leave it torn, and
Ray then refuses to start; `mend` makes it anew from the checkpoints.
"""

import json
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from satray.errors import InputError
from satray.storage import Storage, join, parent

if TYPE_CHECKING:
    from satray.train.loop.evaluation import Predictions
    from satray.train.loop.state import TrainState

NAME = "train"
"""Name of the Ray Train run; unique within the state folder of a satray run."""
SNAPSHOT = "checkpoint_manager_snapshot.json"
STATE = "state.pt"
"""File of a checkpoint: the training state."""
PREDICTIONS = "predictions.npz"
"""File of a checkpoint: validation logits, labels and rows."""
REPORT = "report.json"
"""File of a checkpoint: its score and its pseudo-epoch."""


def folder_name(pseudo_epochs: int) -> str:
    """Folder of the checkpoint after so many pseudo-epochs."""
    return f"pseudo-epoch-{pseudo_epochs:06d}"


@dataclass(frozen=True)
class Checkpoints:
    """Where a run stands."""

    pseudo_epochs: int = 0
    """Pseudo-epochs finished and kept."""
    latest: str | None = None
    """URI of the latest checkpoint's state; None before the first."""
    best: str | None = None
    """URI of the best checkpoint's state."""
    best_pseudo_epoch: int = 0
    """Pseudo-epochs finished at the best checkpoint."""


def find(storage: Storage, state: str) -> Checkpoints:
    """Read the snapshot below a run's state folder; nothing where there is none."""
    uri = join(state, NAME, SNAPSHOT)
    if not storage.exists(uri):
        return Checkpoints()
    snapshot = json.loads(storage.read(uri))
    latest = snapshot.get("latest_checkpoint_result")
    if latest is None:
        return Checkpoints()
    best = snapshot["checkpoint_results"][-1]  # sorted by score, ties by age

    def place(result: dict[str, str]) -> str:
        return join(state, NAME, result["checkpoint_dir_name"], STATE)

    return Checkpoints(
        pseudo_epochs=int(latest["metrics"]["pseudo_epochs"]),
        latest=place(latest),
        best=place(best),
        best_pseudo_epoch=int(best["metrics"]["pseudo_epochs"]),
    )


def mend(storage: Storage, state: str) -> bool:
    """Write the snapshot anew where it cannot be read or names what is not there.

    Returns:
        whether that was needed.
    """
    try:
        found = find(storage, state)
        if all(uri is None or storage.exists(uri) for uri in (found.latest, found.best)):
            return False
    except (ValueError, KeyError, TypeError, IndexError):
        pass
    results = []
    for entry in storage.list(join(state, NAME)):
        folder, _, file = entry.key.partition("/")
        if file != REPORT:
            continue
        try:
            metrics = json.loads(storage.read(entry.uri))
            load(storage, join(state, NAME, folder, STATE))
        except (ValueError, InputError):
            continue  # an upload that did not end
        results.append({"checkpoint_dir_name": folder, "metrics": metrics})
    storage.delete(join(state, NAME, SNAPSHOT))
    if results:
        storage.write(join(state, NAME, SNAPSHOT), json.dumps(_snapshot(results)).encode())
    return True


def _snapshot(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Ray 2.60's own form: results by rising score, and when each was reported."""
    by_age = sorted(results, key=lambda result: result["metrics"]["pseudo_epochs"])
    by_score = sorted(by_age, key=lambda result: result["metrics"]["score"])
    return {
        "ray_version": version("ray"),
        "checkpoint_results": by_score,
        "checkpoint_report_indices": [by_age.index(result) for result in by_score],
        "latest_checkpoint_result": by_age[-1],
        "pending_training_results": [],
        "pending_validation_specs": [],
        "current_report_index": len(by_age),
        "validated_checkpoint_dir_names": [],
        "timed_out_validation_checkpoint_dir_names": [],
        "failed_validation_checkpoint_dir_names": [],
    }


def predictions(storage: Storage, uri: str) -> "Predictions":
    """Read the validation logits of the checkpoint whose state is at `uri`."""
    from satray.train.loop.evaluation import Predictions

    return Predictions.from_bytes(storage.read(join(parent(uri), PREDICTIONS)))


def load(storage: Storage, uri: str) -> "TrainState":
    """Read the training state at a checkpoint."""
    from satray.train.loop.state import TrainState

    return TrainState.from_bytes(storage.read(uri))
