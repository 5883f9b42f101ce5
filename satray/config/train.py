"""Keys of `train`, and of `check` and `landscape`, which take its recipes."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import field_validator, model_validator

from satray.config.base import (
    Count,
    Factor,
    Fraction,
    IsPath,
    LocalPath,
    Natural,
    NotNegative,
    Positive,
    ReadPath,
    Recipe,
    Section,
    Seed,
    Share,
    Texts,
    key,
)

Pooling = Literal["avg", "max", "lse"]
FirstConv = Literal["kaiming", "zero", "mean", "copy", "in_place"]


# With which values of another key of its section a key does something.
_RESIZED = {"crop": ("resized",)}
_FOCAL = {"name": ("focal",)}
_ASYMMETRIC = {"name": ("asymmetric",)}
_ENABLED = {"enabled": (True,)}


class TowerOptions(Section):
    """One backbone and the bands it looks at."""

    name: str = key(..., "name of the tower, [a-z0-9]+", pattern=r"^[a-z0-9]+$")
    backbone: str = key(..., "simple_cnn or any timm model name (resnet18, mobilenetv2_100, ...)")
    bands: Texts = key(..., "bands in input order; a repeated name repeats the band", min_length=1)


class VariantOptions(Section):
    """Towers, a pooling and a head over their concatenated pooled features."""

    towers: tuple[TowerOptions, ...] = key(..., "one or more towers", min_length=1)
    pooling: Pooling = key(
        "avg", "avg = GAP, max = GMP, lse = log-sum-exp", needs={"head": ("linear",)}
    )
    head: Literal["linear", "dense"] = key("linear", "linear, or dense (no CAMs)")

    @field_validator("towers")
    @classmethod
    def _distinct(cls, towers: tuple[TowerOptions, ...]) -> tuple[TowerOptions, ...]:
        names = [tower.name for tower in towers]
        if len(set(names)) != len(names):
            raise ValueError(f"tower names must differ, found {', '.join(names)}")
        return towers


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
    scale: Factor = key(0.6, "resized: smallest share of the tile's area", needs=_RESIZED)
    ratio: float = key(4 / 3, "resized: largest ratio of a crop's sides", ge=1, needs=_RESIZED)
    brightness: float = key(
        0.2, "largest shift of each band, in its standard deviations", ge=0, le=5
    )
    contrast: Fraction = key(0.2, "largest relative change of each band's contrast")
    views: int | None = key(
        None,
        "draws of augmentation a tile; after so many they come again; none: always new",
        unit="draws",
        ge=1,
        le=65536,
    )
    mixup: NotNegative = key(
        0.0, "alpha of mixup: tiles and labels blended in pairs by Beta(alpha, alpha); 0: none"
    )
    cutmix: NotNegative = key(
        0.0,
        "alpha of cutmix: a box of another tile pasted, its share of the area by Beta(alpha, "
        "alpha), labels blended alike; 0: none; with mixup each is done to half of the tiles",
    )
    erase: Share = key(
        0.0,
        "share of tiles with a box, of 2 to 33 % of the area, set to the bands' means (random "
        "erasing)",
    )


class LossOptions(Section):
    """The loss on raw logits."""

    name: Literal["auto", "bce", "cross_entropy", "focal", "asymmetric"] = key(
        "auto",
        "auto: bce, or cross_entropy for multiclass; focal (binary, multilabel, multiclass); "
        "asymmetric (binary, multilabel)",
    )
    positive_weight: Positive | Literal["balanced"] | None = key(
        None,
        "bce: weight of positives; balanced: negatives / positives of each class in a pass over "
        "the train split (with `repeat` as it comes to be), at most 100",
    )
    gamma: NotNegative = key(2.0, "focal: focusing exponent", needs=_FOCAL)
    gamma_negative: NotNegative = key(
        4.0, "asymmetric: focusing exponent of negatives", needs=_ASYMMETRIC
    )
    gamma_positive: NotNegative = key(
        1.0, "asymmetric: focusing exponent of positives", needs=_ASYMMETRIC
    )
    margin: Fraction = key(
        0.05, "asymmetric: probability that negatives are let off", needs=_ASYMMETRIC
    )
    smoothing: Fraction = key(0.0, "label smoothing: labels move so far towards 1/2 (or 1/K)")


class AverageOptions(Section):
    """Averages over the weights of a run."""

    ema: Fraction = key(
        0.995,
        "decay a step of a moving average of the weights, which is then what is evaluated and "
        "kept; 0: none",
    )
    swa: bool = key(
        False,
        "also average the weights at the last five cycle ends (where no schedule cycles: at "
        "pseudo-epoch ends of the last quarter of training) and renew batch statistics (SWA); the "
        "bundle is the better of that and the best checkpoint",
    )


class CalibrateOptions(Section):
    """Temperature and thresholds, fitted on one half of validation and measured on the other."""

    temperature: bool = key(True, "fit the temperature that logits are divided by")
    thresholds: Literal["half", "f1", "f2"] = key(
        "f1",
        "half: 0.5 for all; f1, f2: the threshold of each class that is best by F1 or F2, where it "
        "has 50 positives to fit it on",
    )


class RangeOptions(Section):
    """The learning-rate range test (landscape, and `learning_rate: auto`)."""

    lowest: Positive = key(1e-7, "first learning rate")
    highest: Positive = key(10.0, "last learning rate, where the loss has not diverged before")
    steps: int = key(100, "batches from lowest to highest", unit="batches", ge=20)
    seeds: Count = key(3, "repetitions, whose suggestions' median counts")

    @model_validator(mode="after")
    def _rises(self) -> "RangeOptions":
        if self.highest <= self.lowest:
            raise ValueError(f"highest={self.highest:g} is not above lowest={self.lowest:g}")
        return self


class NormalizeOptions(Section):
    """Numbers to normalise by, of values after the radiometry."""

    mean: tuple[float, ...] = key(..., "mean of each input band, in the variant's band order")
    std: tuple[Positive, ...] = key(..., "standard deviation of each input band")


class InputOptions(Section):
    """From a stored tile to the network's input, on the device."""

    size: int = key(224, "side of the network's input", unit="px", ge=8)
    resize: int | None = key(
        None,
        "side the tile is resized to before cropping; default `size`",
        unit="px",
        ge=8,
    )
    evaluate: Literal["whole", "centre"] = key(
        "whole", "whole: the tile shrunk to `size`; centre: the middle of the resized tile"
    )
    radiometry: Literal["stored", "pil_compat", "percentile"] = key(
        "stored",
        "stored: values as they are; percentile: 2nd to 98th percentile of each band to 0..1, "
        "clipped; pil_compat (reproduction only): what PIL makes of Planet's 4-band TIFFs, colours "
        "divided by NIR",
    )
    normalize: Literal["auto", "statistics", "imagenet"] | NormalizeOptions = key(
        "auto",
        "statistics: the index's mean and std; imagenet: the weights' (8-bit RGB); {mean, std}: "
        "numbers; auto: imagenet where published weights in all towers meet 8-bit red, green, blue",
    )
    evaluate_flip: bool = key(
        False,
        "reproduction only: flip validation tiles left-right at random, as the Planet report's "
        "code did",
    )

    @model_validator(mode="after")
    def _crop_fits(self) -> "InputOptions":
        if self.resize is not None and self.resize < self.size:
            raise ValueError(f"resize={self.resize} is below size={self.size}")
        return self


class OptimizerOptions(Section):
    """The optimiser, made anew for each stage."""

    name: Literal["adam", "adamw", "sgd"] = key("adamw", "adam, adamw or sgd")
    weight_decay: NotNegative = key(0.05, "weight decay")
    momentum: Fraction = key(0.9, "momentum (sgd)", needs={"name": ("sgd",)})
    clip: NotNegative = key(
        10.0,
        "norm of all gradients together above which they are scaled down to it, as healthy "
        "training rarely needs; 0: never",
    )


class CacheOptions(Section):
    """Decoded tiles kept on each node's disk, so that they are read and decoded once."""

    enabled: bool = key(True, "keep decoded tiles")
    folder: LocalPath | None = key(
        None,
        "local folder, in which each user gets one; default the system's temporary folder",
        needs=_ENABLED,
    )
    gib: Positive | None = key(
        None,
        "GiB a node; of an index that needs more the first tiles are kept; default half of the "
        "free disk",
        needs=_ENABLED,
    )


# Stages

Schedule = Literal[
    "constant", "step", "triangular", "triangular2", "exp_range", "one_cycle", "cosine",
    "cosine_restarts",
]  # fmt: skip
SMITH = ("triangular", "triangular2", "exp_range")
"""Schedules that go up and down on straight lines."""
_ONE_CYCLE = {"name": ("one_cycle",)}
_CYCLES = {"name": (*SMITH, "cosine_restarts")}


class ScheduleOptions(Section):
    """How the learning rate runs within a stage, stepped per batch."""

    name: Schedule = key(
        "one_cycle",
        "constant; step (StepLR); triangular, triangular2, exp_range (Smith's cycles); one_cycle; "
        "cosine; cosine_restarts (SGDR)",
    )
    warmup: NotNegative | Literal["auto"] = key(
        0.0,
        "linear warm-up from a hundredth of the schedule's first rate, before the schedule proper, "
        "part of the stage; auto: a tenth of the stage, at most 1",
        unit="pseudo-epochs",
    )
    step: Positive = key(
        10.0, "step: length between drops", unit="pseudo-epochs", needs={"name": ("step",)}
    )
    gamma: Factor = key(
        0.3,
        "step: factor at each drop; exp_range: factor of the swing from cycle to cycle",
        needs={"name": ("step", "exp_range")},
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
        needs=_CYCLES,
    )
    growth: float = key(
        1.0,
        "cosine_restarts: each cycle is so many times as long as the one before",
        ge=1,
        needs={"name": ("cosine_restarts",)},
    )
    lowest: Fraction | None = key(
        None,
        "lowest rate as a share of the highest; default 0.25 for triangular, triangular2 and "
        "exp_range, 0 for cosine and cosine_restarts",
        needs={"name": (*SMITH, "cosine", "cosine_restarts")},
    )
    cycle_momentum: bool = key(
        False,
        "one_cycle, triangular, triangular2, exp_range: momentum (Adam: beta1) falls from 0.95 to "
        "0.85 while the rate rises",
        needs={"name": ("one_cycle", *SMITH)},
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
    )
    schedule: ScheduleOptions = key(ScheduleOptions(), "learning-rate schedule")
    pseudo_epochs: Positive = key(
        30.0,
        "length of the stage",
        unit="pseudo-epochs",
        needs={"samples": (None,)},
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
        schedule=ScheduleOptions(name="cosine", warmup="auto"),
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
    "vit", "former", "deit", "beit", "eva", "swin", "convnext", "hiera", "cait", "xcit", "coat",
    "focalnet", "pvt", "twins", "nest_", "pit_", "tnt_", "volo", "aimv2", "edgenext", "mambaout",
    "rdnet", "csatv2", "mobilenetv5", "sequencer",
)  # fmt: skip
"""What timm's names of backbones hold that are fine-tuned so: of those it publishes, all with layer
norm in place of batch norm, and hybrids that call themselves so. Only VGGs, NFNets and MLP mixers
have no batch norm either."""


def usual_stages(keys: Mapping[str, Any]) -> tuple[StageOptions, ...]:
    """Stages by what is trained, as far as `weights` and `variant` tell, given or not.

    Where towers are declared timm is asked, and imported, for whose weights are published.

    Args:
        keys: of `train`, validated.
    """
    weights, variant = keys.get("weights", "pretrained"), keys.get("variant", "single3")
    towers = variant.towers if isinstance(variant, VariantOptions) else ()
    backbones = {tower.name: tower.backbone for tower in towers}
    sources = weights
    if not isinstance(weights, Mapping):
        sources = dict.fromkeys(backbones or [str(variant)], weights)
    ours = str(variant).startswith("simple_cnn")

    def taught(tower: str, source: str) -> bool:
        if source == "pretrained":
            return _published(backbones[tower]) if tower in backbones else not ours
        return source != "none"

    if not any(taught(tower, source) for tower, source in sources.items()):
        return FROM_SCRATCH
    names = backbones.values()
    transformer = any(part in name for name in names for part in TRANSFORMERS)
    return TRANSFORMER_TUNING if transformer else FINE_TUNING


def _published(backbone: str) -> bool:
    """Whether timm knows weights of a backbone; imports it, but for ours."""
    if backbone == "simple_cnn":
        return False
    import timm

    try:
        cfg = timm.get_pretrained_cfg(backbone)
    except RuntimeError:  # no such tag, which is told when its weights are looked for
        return True
    return cfg is not None and bool(cfg.has_weights)


# The recipes

WeightsPath = Annotated[str, IsPath(words=("none", "pretrained", "imagenet"))]


class TrainRecipe(Recipe):
    """Train a variant on a tile index.

    Stages by default: with weights the head first, then all of it at a lower rate, after a warm-up
    (of transformers much lower, and lower still in early blocks); from scratch all of it at once.
    `--print-config` lists them; stages.N.KEY changes one of their keys, stages=[...] takes their
    place.
    """

    index: ReadPath = key(..., "tile index: the `out` of a prepare run")
    variant: str | VariantOptions = key(
        "single3",
        "single3, single4, double4, mobilenet_v2, xception, resnet50_v2, inception_v3, simple_cnn, "
        "simple_cnn_dense, or {towers, pooling, head}",
    )
    pooling: Pooling | None = key(None, "avg, max or lse in place of the variant's own")
    weights: WeightsPath | dict[str, WeightsPath] = key(
        "pretrained",
        "pretrained: timm's default weights of each backbone, fetched once by name; "
        "pretrained:TAG: another of its tags; imagenet: those of the Planet report; a file, "
        ".safetensors or .pth; none: from scratch, as unpublished backbones (simple_cnn) always; "
        "or one a tower {tower: ...}",
    )
    first_conv: FirstConv = key(
        "kaiming",
        "how pretrained first weights meet other bands: kaiming, zero, mean, copy; in_place "
        "(reproduction only): those of red, green, blue for the first three bands whatever they "
        "are, as the Planet report did",
    )
    dropout: Fraction = key(0.0, "dropout on the pooled features")
    drop_path: Fraction = key(
        0.0,
        "stochastic depth: how often the last block's branch is left out of training, and earlier "
        "ones in proportion; for backbones that have it",
    )
    input: InputOptions = key(InputOptions(), "network input")
    augment: AugmentOptions = key(AugmentOptions(), "augmentation")
    loss: LossOptions = key(LossOptions(), "loss")
    repeat: Share = key(
        0.0,
        "class-aware sampling: tiles of classes rarer than this share of the train split come "
        "sqrt(repeat / share) times a pass; 0: every tile once",
    )
    average: AverageOptions = key(AverageOptions(), "averages of weights")
    calibrate: CalibrateOptions = key(CalibrateOptions(), "temperature and thresholds")
    landscape: RangeOptions = key(RangeOptions(), "range test of `learning_rate: auto`")
    optimizer: OptimizerOptions = key(OptimizerOptions(), "optimiser")
    stages: tuple[StageOptions, ...] = key(
        usual_stages,
        "stages, in order; default with weights: the head, then all of it at a lower rate; from "
        "scratch: all of it",
        min_length=1,
    )
    batch: Count = key(
        32,
        "global batch, over all workers; batch norms see their worker's share of it",
        unit="tiles",
    )
    accumulate: Count = key(
        1,
        "parts that each worker's share of a batch goes through the network in, one after the "
        "other, to save memory; the step is the whole batch's, but batch norms see a part",
        unit="parts",
    )
    pseudo_epoch: Count | None = key(
        None,
        "samples from one evaluation to the next, which is what is called a pseudo-epoch; default "
        "the train split",
        unit="samples",
    )
    shuffle: bool = key(True, "draw a new order of the train split each pass")
    best: Literal["auto", "map", "accuracy", "loss", "auc"] = key(
        "auto", "validation metric that picks the bundle: auto = map, or accuracy if multiclass"
    )
    precision: Literal["auto", "fp32", "bf16"] = key(
        "auto",
        "auto: bf16 autocast on GPUs and processors that compute in it, else fp32 (never TF32)",
    )
    compile: Literal["auto"] | bool = key(
        "auto",
        "torch.compile of the network, which costs a minute or so at each stage's start; auto: on "
        "GPUs",
        identity=False,
    )
    deterministic: bool = key(False, "bitwise repeatable, at some speed")
    seed: Seed = key(0, "seed of weights, order and augmentation")
    error_budget: Share = key(
        0.05,
        "share of a pseudo-epoch's tiles that may be unreadable before training stops",
        identity=False,
    )
    cache: CacheOptions = key(CacheOptions(), "decoded tiles kept", identity=False)
    tracking: Literal["tensorboard", "mlflow", "none"] = key(
        "tensorboard",
        "where the history goes beside the run folder; tensorboard: in a local `out`, events come "
        "as training goes on; in an object store, at the end; mlflow: MLFLOW_TRACKING_URI",
        identity=False,
    )


class CheckOptions(Section):
    """Overfitting one batch."""

    steps: Count = key(300, "steps on the batch, at the most", unit="batches")
    loss: Positive = key(0.01, "loss below which the batch counts as learnt")


class CheckRecipe(TrainRecipe):
    """Overfit one fixed batch, and say why where that fails, which ends with status 1.

    Takes every recipe of `train`. What counts: index, variant, pooling, weights, first_conv, input,
    loss (without smoothing; balanced weights as `repeat` makes them), optimizer,
    stages.0.learning_rate (where it is auto: 1e-3), batch, accumulate, precision, deterministic,
    error_budget, seed, check. All of the network is trained, whatever the stages train.
    """

    check: CheckOptions = key(CheckOptions(), "the test")


class LandscapeRecipe(TrainRecipe):
    """Find the learning rate of a training stage by a range test.

    Takes every recipe of `train`; what is tested is the part that the stage trains, from the run's
    first weights.
    """

    stage: Natural = key(
        0,
        "stage whose trainable part is tested, 0 for the first; a later stage too starts from the "
        "run's first weights, not from what the stages before it learn",
    )
    landscape: RangeOptions = key(RangeOptions(), "the test")
