"""Keys of augmentation, loss and averages of weights."""

from typing import Literal

from satray.config.base import Section, key


class AugmentOptions(Section):
    """Random changes to training tiles; pure in (seed, pseudo-epoch, tile)."""

    flips: Literal["none", "horizontal", "d4"] = key(
        "d4", "none, left-right, or all eight flips and transposes"
    )
    crop: Literal["random", "centre", "resized"] = key(
        "resized",
        "random, centre: where the crop of `input.size` falls in the resized tile; resized: a "
        "crop of random area and shape, resized to `input.size`",
    )
    scale: float = key(0.6, "resized: smallest share of the tile's area", gt=0, le=1)
    ratio: float = key(4 / 3, "resized: largest ratio of a crop's sides", ge=1)
    brightness: float = key(
        0.2, "largest shift of each band, in its standard deviations", ge=0, le=5
    )
    contrast: float = key(0.2, "largest relative change of each band's contrast", ge=0, lt=1)
    views: int | None = key(
        None,
        "draws of augmentation a tile; after so many they come again; none: always new",
        unit="draws",
        ge=1,
        le=65536,
    )
    mixup: float = key(
        0.0,
        "alpha of mixup: tiles and labels blended in pairs by Beta(alpha, alpha); 0: none",
        ge=0,
    )


class LossOptions(Section):
    """The loss on raw logits."""

    name: Literal["auto", "bce", "cross_entropy", "focal", "asymmetric"] = key(
        "auto",
        "auto: bce, or cross_entropy for multiclass; focal (binary, multilabel, multiclass); "
        "asymmetric (binary, multilabel)",
    )
    positive_weight: float | Literal["balanced"] | None = key(
        None,
        "bce: weight of positives; balanced: negatives / positives of each class in a pass over "
        "the train split (with `repeat` as it comes to be), at most 100",
    )
    gamma: float = key(2.0, "focal: focusing exponent", ge=0)
    gamma_negative: float = key(4.0, "asymmetric: focusing exponent of negatives", ge=0)
    gamma_positive: float = key(1.0, "asymmetric: focusing exponent of positives", ge=0)
    margin: float = key(0.05, "asymmetric: probability that negatives are let off", ge=0, lt=1)
    smoothing: float = key(
        0.0, "label smoothing: labels move so far towards 1/2 (or 1/K)", ge=0, lt=1
    )


class AverageOptions(Section):
    """Averages over the weights of a run."""

    ema: float = key(
        0.995,
        "decay a step of a moving average of the weights, which is then what is evaluated and "
        "kept; 0: none",
        ge=0,
        lt=1,
    )
    snapshots: Literal["none", "swa", "ensemble"] = key(
        "none",
        "weights kept at cycle ends (or at pseudo-epoch ends past `start`): swa averages them and "
        "renews batch statistics; ensemble averages their logits (one tower a snapshot)",
    )
    start: float = key(
        0.75,
        "share of training after which snapshots are kept where no schedule cycles",
        ge=0,
        lt=1,
    )
    most: int = key(5, "snapshots kept: the last ones", ge=1)


class CalibrateOptions(Section):
    """Temperature and thresholds, fitted on one half of validation and measured on the other."""

    temperature: bool = key(True, "fit the temperature that logits are divided by")
    thresholds: Literal["half", "f1", "f2"] = key(
        "f1", "half: 0.5 for all; f1, f2: the threshold of each class that is best by F1 or F2"
    )
    positives: int = key(
        50, "positives in the fitted half below which a class keeps 0.5", unit="tiles", ge=1
    )
