"""What the loop tells about a run: each pseudo-epoch in full, and where it stands in between."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from satray.training.evaluation import Predictions
from satray.training.metrics import Metrics


@dataclass(frozen=True)
class EpochReport:
    """One pseudo-epoch and its evaluation; the same on all ranks but for the seconds."""

    pseudo_epoch: int
    """0 for the first."""

    stage: int
    """Stage of its last step, 0 for the first."""

    step: int
    """Steps taken since the start of the run."""

    samples_seen: int
    """Samples seen since the start of the run, over all workers."""

    times_seen: float
    """The same in units of the train split."""

    learning_rate: float
    """Of the last step."""

    train_loss: float
    """Mean over the readable samples of this pseudo-epoch, over all workers."""

    val_loss: float
    """Mean over the readable tiles of the validation split."""

    metrics: Metrics
    """See `satray.training.metrics.compute_metrics`."""

    images_per_second: float
    """Samples trained on a second, over all workers, evaluation left out."""

    seconds_data: float
    """This worker waited for batches to train on. On a GPU: only while it had nothing to do."""

    seconds_compute: float
    """This worker trained."""

    seconds_evaluate: float
    """This worker evaluated, reading included."""

    unreadable: int
    """Train samples of this pseudo-epoch that could not be read (weight 0), over all workers."""

    val_unreadable: int
    """Validation tiles that could not be read."""

    predictions: Predictions = field(repr=False)
    """The validation logits behind the metrics."""

    def row(self) -> dict[str, Any]:
        """Flat and plain: one row of the history. `ap` of class c becomes `ap_c`."""
        flat: dict[str, Any] = {
            name: getattr(self, name)
            for name in self.__dataclass_fields__
            if name not in ("metrics", "predictions")
        }
        flat.update({name: value for name, value in self.metrics.items() if name != "ap"})
        flat.update({f"ap_{name}": value for name, value in self.metrics["ap"].items()})
        return flat


@dataclass(frozen=True)
class Progress:
    """Where a run stands, told about once a second."""

    pseudo_epoch: int
    """0 for the first."""

    step: int
    """Steps taken."""

    total_steps: int
    """Steps of the run."""

    samples_seen: int
    """Over all workers."""

    loss: float
    """Mean over the global batch of the last step."""

    learning_rate: float
    """Of the last step."""

    images_per_second: float
    """In this pseudo-epoch, over all workers."""
