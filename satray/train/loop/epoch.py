"""What the loop tells about a run: each pseudo-epoch in full, and where it stands in between."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from satray.metrics.summary import Metrics, flat
from satray.metrics.trap import Watch
from satray.train.loop.evaluation import Predictions


@dataclass(frozen=True)
class EpochReport:
    """One pseudo-epoch and its evaluation; the same on all ranks but for the seconds."""

    pseudo_epoch: int
    """0 for the first."""

    stage: int
    """Stage of its last step, 0 for the first."""

    stage_began: int
    """Samples seen when that stage began."""

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
    """See `satray.metrics.summary.compute_metrics`."""

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

    watch: Watch
    """How often each class is predicted; those predicted always or never though they occur both
    ways (the majority trap)."""

    predictions: Predictions = field(repr=False)
    """The validation logits behind the metrics."""

    def row(self) -> dict[str, Any]:
        """Flat and plain: one row of the history.

        `ap` of class c becomes `ap_c`, its predicted-positive rate `ppr_c`, its recall
        (multiclass) `recall_of_c`.
        """
        row: dict[str, Any] = {
            name: getattr(self, name)
            for name in self.__dataclass_fields__
            if name not in ("metrics", "predictions", "watch")
        }
        row.update(flat(self.metrics))
        row.update({f"ppr_{name}": value for name, value in self.watch.rates.items()})
        row["classes_always"] = len(self.watch.always)
        row["classes_never"] = len(self.watch.never)
        return row


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
