"""Keys of stages and their schedules."""

from typing import Literal

from pydantic import model_validator

from satray.config.base import Section, key


class ScheduleOptions(Section):
    """How the learning rate runs within a stage, stepped per batch."""

    name: Literal[
        "constant",
        "step",
        "triangular",
        "triangular2",
        "exp_range",
        "one_cycle",
        "cosine",
        "cosine_restarts",
    ] = key(
        "one_cycle",
        "constant; step (StepLR); triangular, triangular2, exp_range (Smith's cycles); one_cycle; "
        "cosine; cosine_restarts (SGDR)",
    )
    warmup: float = key(
        0.0,
        "linear warm-up before the schedule proper, part of the stage",
        unit="pseudo-epochs",
        ge=0,
    )
    warmup_start: float = key(
        0.01, "share of the schedule's first rate that the warm-up starts from", gt=0, le=1
    )
    step: float = key(10.0, "step: length between drops", unit="pseudo-epochs", gt=0)
    gamma: float = key(
        0.3,
        "step: factor at each drop; exp_range: factor of the swing from cycle to cycle",
        gt=0,
        le=1,
    )
    pct_start: float = key(0.3, "one_cycle: share of the stage that rises", gt=0, lt=1)
    div: float = key(25.0, "one_cycle: start = learning_rate / div", gt=0)
    final_div: float = key(1e4, "one_cycle: end = start / final_div", gt=0)
    cycle: float = key(
        4.0,
        "triangular, triangular2, exp_range: a cycle up and down; cosine_restarts: the first cycle",
        unit="pseudo-epochs",
        gt=0,
    )
    growth: float = key(
        1.0, "cosine_restarts: each cycle is so many times as long as the one before", ge=1
    )
    lowest: float | None = key(
        None,
        "lowest rate as a share of the highest; default 0.25 for triangular, triangular2 and "
        "exp_range, 0 for cosine and cosine_restarts",
        ge=0,
        lt=1,
    )
    cycle_momentum: bool = key(
        False,
        "one_cycle, triangular, triangular2, exp_range: momentum (Adam: beta1) falls from 0.95 to "
        "0.85 while the rate rises",
    )


class StageOptions(Section):
    """A stretch of training with its own trainable part, learning rate, schedule and length."""

    trainable: str = key(
        "all",
        "head; all; the block that it starts from, in every tower; or TOWER.block, in that tower "
        "alone; `train --plan` lists the names",
    )
    learning_rate: float | Literal["auto"] = key(
        1e-3,
        "highest learning rate of the stage; auto: a range test before training finds it (job "
        "landscape), for a later stage too from the run's first weights",
    )
    layer_decay: float = key(
        1.0,
        "factor of the learning rate from the head to the last block, and from each block to the "
        "one before it; 1: all alike",
        gt=0,
        le=1,
    )
    schedule: ScheduleOptions = key(ScheduleOptions(), "learning-rate schedule")
    pseudo_epochs: float = key(30.0, "length of the stage", unit="pseudo-epochs", gt=0)
    samples: int | None = key(
        None, "length of the stage in samples seen, in place of pseudo_epochs", unit="samples", ge=1
    )
    dropout: float | None = key(None, "dropout in this stage; default the recipe's", ge=0, lt=1)

    @model_validator(mode="after")
    def _rate_is_positive(self) -> "StageOptions":
        if self.learning_rate != "auto" and self.learning_rate <= 0:
            raise ValueError(f"learning_rate={self.learning_rate:g}: accepted: above 0, or auto")
        return self


FROM_SCRATCH = (StageOptions(),)
"""Stages where nothing was taught before."""
FINE_TUNING = (
    StageOptions(
        trainable="head",
        learning_rate=3e-3,
        schedule=ScheduleOptions(name="constant"),
        pseudo_epochs=3.0,
    ),
    StageOptions(
        learning_rate=2e-3,
        schedule=ScheduleOptions(name="cosine", warmup=1.0),
        pseudo_epochs=20.0,
    ),
)
"""Stages where weights are given: a head that fits them first, so that what it does not know yet
does not tear them. No layer decay: on AID 0.65 to 0.8 lost to none at each rate tried, by more than
the draw of tiles explains (bench/RESULTS.md)."""


class RangeOptions(Section):
    """The learning-rate range test (landscape, and `learning_rate: auto`)."""

    lowest: float = key(1e-7, "first learning rate", gt=0)
    highest: float = key(10.0, "last learning rate, where the loss has not diverged before", gt=0)
    steps: int = key(100, "batches from lowest to highest", unit="batches", ge=20)
    seeds: int = key(3, "repetitions, whose suggestions' median counts", ge=1)
    smoothing: float = key(
        0.98, "weight of the past in the debiased average of the loss", ge=0, lt=1
    )
    stop: float = key(4.0, "stop where the smoothed loss is so many times its best", gt=1)
    suggestion: Literal["valley", "steep", "minimum"] = key(
        "valley", "which suggestion `auto` takes"
    )

    @model_validator(mode="after")
    def _rises(self) -> "RangeOptions":
        if self.highest <= self.lowest:
            raise ValueError(f"highest={self.highest:g} is not above lowest={self.lowest:g}")
        return self
