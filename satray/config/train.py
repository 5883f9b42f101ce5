"""Keys of `train`."""

from typing import Literal

from pydantic import model_validator

from satray.config.base import Recipe, Section, key
from satray.config.model import FirstConv, Pooling, VariantOptions


class InputOptions(Section):
    """From a stored tile to the network's input, on the device."""

    size: int = key(224, "side of the network's input", unit="px", ge=8)
    resize: int | None = key(
        None, "side the tile is resized to before cropping; default `size`", unit="px", ge=8
    )
    evaluate: Literal["whole", "centre"] = key(
        "whole", "whole: the tile shrunk to `size`; centre: the middle of the resized tile"
    )
    normalize: Literal["auto", "statistics", "imagenet"] = key(
        "auto",
        "statistics: the index's mean and std; imagenet: the weights' (8-bit RGB); "
        "auto: imagenet where published weights in all towers meet 8-bit red, green, blue",
    )

    @model_validator(mode="after")
    def _crop_fits(self) -> "InputOptions":
        if self.resize is not None and self.resize < self.size:
            raise ValueError(f"resize={self.resize} is below size={self.size}")
        return self


class AugmentOptions(Section):
    """Random changes to training tiles; pure in (seed, pseudo-epoch, tile)."""

    flips: Literal["none", "horizontal", "d4"] = key(
        "d4", "none, left-right, or all eight flips and transposes"
    )
    crop: Literal["random", "centre"] = key(
        "random", "where the crop of `input.size` falls in the resized tile"
    )


class OptimizerOptions(Section):
    """The optimiser, made anew for each stage."""

    name: Literal["adam", "adamw", "sgd"] = key("adamw", "adam, adamw or sgd")
    weight_decay: float = key(0.01, "weight decay", ge=0)
    momentum: float = key(0.9, "momentum (sgd)", ge=0, lt=1)


class ScheduleOptions(Section):
    """How the learning rate runs within a stage, stepped per batch."""

    name: Literal["constant", "step", "one_cycle"] = key(
        "one_cycle", "constant, step (StepLR) or one_cycle"
    )
    step: float = key(10.0, "step: length between drops", unit="pseudo-epochs", gt=0)
    gamma: float = key(0.3, "step: factor at each drop", gt=0, le=1)
    pct_start: float = key(0.3, "one_cycle: share of the stage that rises", gt=0, lt=1)
    div: float = key(25.0, "one_cycle: start = learning_rate / div", gt=0)
    final_div: float = key(1e4, "one_cycle: end = start / final_div", gt=0)


class StageOptions(Section):
    """A stretch of training with its own trainable part, learning rate, schedule and length."""

    trainable: str = key("all", "head, all, or the block of the backbone it starts from")
    learning_rate: float = key(1e-3, "highest learning rate of the stage", gt=0)
    schedule: ScheduleOptions = key(ScheduleOptions(), "learning-rate schedule")
    pseudo_epochs: float = key(10.0, "length of the stage", unit="pseudo-epochs", gt=0)


class CacheOptions(Section):
    """Decoded tiles kept on each node's disk, so that they are read and decoded once."""

    enabled: bool = key(True, "keep decoded tiles", identity=False)
    folder: str | None = key(
        None, "local folder; default a folder of this user under the system's", identity=False
    )
    gib: float = key(8.0, "room a node; an index that needs more is not kept", identity=False, gt=0)


class TrainRecipe(Recipe):
    """Train a variant on a tile index."""

    index: str = key(..., "tile index: the `out` of a prepare run", path=True)
    variant: str | VariantOptions = key(
        "single3",
        "single3, single4, double4, mobilenet_v2, xception, resnet50_v2, inception_v3, simple_cnn, "
        "simple_cnn_dense, or {towers, pooling, head}",
    )
    pooling: Pooling | None = key(None, "avg, max or lse in place of the variant's own")
    weights: str | dict[str, str] = key(
        "none",
        "none, imagenet (fetched by name), or a file: .safetensors or .pth; or one a tower "
        "{tower: ...}",
        path=True,
        words=("none", "imagenet"),
    )
    first_conv: FirstConv = key(
        "kaiming", "how pretrained first weights meet other bands: kaiming, zero, mean, copy"
    )
    dropout: float = key(0.0, "dropout on the pooled features", ge=0, lt=1)
    input: InputOptions = key(InputOptions(), "network input")
    augment: AugmentOptions = key(AugmentOptions(), "augmentation")
    optimizer: OptimizerOptions = key(OptimizerOptions(), "optimiser")
    stages: tuple[StageOptions, ...] = key((StageOptions(),), "stages, in order", min_length=1)
    batch: int = key(32, "global batch, over all workers", unit="tiles", ge=1)
    pseudo_epoch: int | None = key(
        None, "samples between evaluations; default the train split", unit="samples", ge=1
    )
    shuffle: bool = key(True, "draw a new order of the train split each pass")
    best: Literal["auto", "map", "accuracy", "loss", "auc"] = key(
        "auto", "validation metric that picks the bundle: auto = map, or accuracy if multiclass"
    )
    precision: Literal["auto", "fp32", "bf16"] = key(
        "auto", "auto: bf16 autocast on GPUs, fp32 on CPUs"
    )
    sync_batchnorm: bool = key(False, "batch statistics over all workers (GPUs only)")
    deterministic: bool = key(False, "bitwise repeatable, at some speed")
    seed: int = key(0, "seed of weights, order and augmentation", ge=0)
    error_budget: float = key(
        0.05,
        "share of a pseudo-epoch's tiles that may be unreadable before training stops",
        identity=False,
        ge=0,
        le=1,
    )
    cache: CacheOptions = key(CacheOptions(), "decoded tiles kept", identity=False)
