"""Stages of a training, their schedules, and those by default."""

from collections.abc import Mapping
from typing import Any, Literal

from satray.config.base import (
    Count,
    Factor,
    Fraction,
    Needs,
    NotNegative,
    Positive,
    Section,
    having,
    key,
)

SMITH = ("triangular", "triangular2", "exp_range")
"""Schedules that go up and down on straight lines."""
_ONE_CYCLE = having("name", "one_cycle")


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
    warmup: NotNegative = key(
        0.0, "linear warm-up before the schedule proper, part of the stage", unit="pseudo-epochs"
    )
    warmup_start: Factor = key(
        0.01,
        "share of the schedule's first rate that the warm-up starts from",
        needs=Needs("{above}warmup", lambda here, _: here.warmup > 0),
    )
    step: Positive = key(
        10.0,
        "step: length between drops",
        unit="pseudo-epochs",
        needs=having("name", "step"),
    )
    gamma: Factor = key(
        0.3,
        "step: factor at each drop; exp_range: factor of the swing from cycle to cycle",
        needs=having("name", "step", "exp_range"),
    )
    pct_start: float = key(
        0.3, "one_cycle: share of the stage that rises", gt=0, lt=1, needs=_ONE_CYCLE
    )
    div: Positive = key(25.0, "one_cycle: start = learning_rate / div", needs=_ONE_CYCLE)
    final_div: Positive = key(1e4, "one_cycle: end = start / final_div", needs=_ONE_CYCLE)
    cycle: Positive = key(
        4.0,
        "triangular, triangular2, exp_range: a cycle up and down; cosine_restarts: the first cycle",
        unit="pseudo-epochs",
        needs=having("name", *SMITH, "cosine_restarts"),
    )
    growth: float = key(
        1.0,
        "cosine_restarts: each cycle is so many times as long as the one before",
        ge=1,
        needs=having("name", "cosine_restarts"),
    )
    lowest: Fraction | None = key(
        None,
        "lowest rate as a share of the highest; default 0.25 for triangular, triangular2 and "
        "exp_range, 0 for cosine and cosine_restarts",
        needs=having("name", *SMITH, "cosine", "cosine_restarts"),
    )
    cycle_momentum: bool = key(
        False,
        "one_cycle, triangular, triangular2, exp_range: momentum (Adam: beta1) falls from 0.95 to "
        "0.85 while the rate rises",
        needs=having("name", "one_cycle", *SMITH),
    )


class StageOptions(Section):
    """A stretch of training with its own trainable part, learning rate, schedule and length."""

    trainable: str = key(
        "all",
        "head; all; the block that it starts from, in every tower; or TOWER.block, in that tower "
        "alone; `train --plan` lists the names",
    )
    learning_rate: Positive | Literal["auto"] = key(
        1e-3,
        "highest learning rate of the stage; auto: a range test before training finds it (job "
        "landscape), for a later stage too from the run's first weights",
    )
    layer_decay: Factor = key(
        1.0,
        "factor of the learning rate from the head to the last block, and from each block to the "
        "one before it; 1: all alike",
        needs=Needs("more than the head to train", lambda here, _: here.trainable != "head"),
    )
    schedule: ScheduleOptions = key(ScheduleOptions(), "learning-rate schedule")
    pseudo_epochs: Positive = key(
        30.0,
        "length of the stage",
        unit="pseudo-epochs",
        needs=Needs("no samples given", lambda here, _: here.samples is None),
    )
    samples: Count | None = key(
        None, "length of the stage in samples seen, in place of pseudo_epochs", unit="samples"
    )
    dropout: Fraction | None = key(None, "dropout in this stage; default the recipe's")


FROM_SCRATCH = (StageOptions(),)
"""Stages where nothing was taught before."""
_HEAD_FIRST = StageOptions(
    trainable="head",
    learning_rate=3e-3,
    schedule=ScheduleOptions(name="constant"),
    pseudo_epochs=3.0,
)
FINE_TUNING = (
    _HEAD_FIRST,
    StageOptions(
        learning_rate=2e-3,
        schedule=ScheduleOptions(name="cosine", warmup=1.0),
        pseudo_epochs=20.0,
    ),
)
"""Stages where weights are given: a head that fits them first, so that what it does not know yet
does not tear them. No layer decay: on AID 0.65 to 0.8 lost to none at each rate tried, by more than
the draw of tiles explains (bench/RESULTS.md)."""
TRANSFORMER_TUNING = (
    _HEAD_FIRST,
    FINE_TUNING[1].model_copy(update={"learning_rate": 1e-4, "layer_decay": 0.75}),
)
"""The same for transformers and ConvNeXts, whose weights do not survive a CNN's rates. Not measured
here: between what MAE fine-tunes a ViT-B at (AdamW, 5e-4 for 256 tiles, 0.65 a layer; arXiv
2111.06377, its `FINETUNE.md`) and ConvNeXt itself (5e-5 for 512 tiles, 0.8; arXiv 2201.03545,
table 5), nearer the rate that a batch of 32 lets the former have."""
TRANSFORMERS = (
    "vit_", "flexivit", "naflexvit", "deit", "beit", "eva", "swin", "convnext", "hiera", "cait",
    "xcit", "maxvit", "maxxvit", "coatnet", "davit", "mvit", "pvt", "twins",
)  # fmt: skip
"""How timm's names of backbones begin that are fine-tuned so."""


def usual_stages(weights: Any, variant: Any) -> tuple[StageOptions, ...]:
    """Stages by what is trained, as far as these two keys tell (`simple_cnn` is not published).

    Args:
        weights: key of `train`, as given.
        variant: key of `train`, as given.
    """
    if isinstance(variant, Section):
        variant = variant.model_dump()
    towers = variant.get("towers", ()) if isinstance(variant, Mapping) else ()
    names = [str(tower.get("backbone")) for tower in towers] or [str(variant)]
    ours = all(name.startswith("simple_cnn") for name in names)
    sources = weights.values() if isinstance(weights, Mapping) else (weights,)
    if all(each == "none" or (ours and each == "pretrained") for each in sources):
        return FROM_SCRATCH
    transformer = any(name.startswith(TRANSFORMERS) for name in names)
    return TRANSFORMER_TUNING if transformer else FINE_TUNING
