"""Keys of `train`."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import model_validator

from satray.config.base import Recipe, Section, key
from satray.config.model import FirstConv, Pooling, VariantOptions
from satray.config.regularise import AugmentOptions, AverageOptions, CalibrateOptions, LossOptions
from satray.config.stages import FINE_TUNING, FROM_SCRATCH, RangeOptions, StageOptions


class NormalizeOptions(Section):
    """Numbers to normalise by, of values after the radiometry."""

    mean: tuple[float, ...] = key(..., "mean of each input band, in the variant's band order")
    std: tuple[float, ...] = key(..., "standard deviation of each input band")


class InputOptions(Section):
    """From a stored tile to the network's input, on the device."""

    size: int = key(224, "side of the network's input", unit="px", ge=8)
    resize: int | None = key(
        None, "side the tile is resized to before cropping; default `size`", unit="px", ge=8
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
    weight_decay: float = key(0.05, "weight decay", ge=0)
    momentum: float = key(0.9, "momentum (sgd)", ge=0, lt=1)


class CacheOptions(Section):
    """Decoded tiles kept on each node's disk, so that they are read and decoded once."""

    enabled: bool = key(True, "keep decoded tiles", identity=False)
    folder: str | None = key(
        None, "local folder; default a folder of this user under the system's", identity=False
    )
    gib: float | None = key(
        None,
        "GiB a node; of an index that needs more the first tiles are kept; default half of the "
        "free disk",
        identity=False,
        gt=0,
    )


class TrainRecipe(Recipe):
    """Train a variant on a tile index.

    Stages by default: with weights the head first, then all of it at a lower rate, after a warm-up;
    from scratch all of it at once. `--print-config` lists them; stages.N.KEY changes one of their
    keys, stages=[...] takes their place.
    """

    makes: ClassVar[str] = (
        "bundle/, history.parquet, metrics.json, curves.png, tensorboard/; landscape.png where a "
        "learning rate is auto, unreadable.parquet where tiles cannot be read"
    )

    index: str = key(..., "tile index: the `out` of a prepare run", path=True)
    variant: str | VariantOptions = key(
        "single3",
        "single3, single4, double4, mobilenet_v2, xception, resnet50_v2, inception_v3, simple_cnn, "
        "simple_cnn_dense, or {towers, pooling, head}",
    )
    pooling: Pooling | None = key(None, "avg, max or lse in place of the variant's own")
    weights: str | dict[str, str] = key(
        "pretrained",
        "pretrained: timm's default weights of each backbone, fetched once by name; "
        "pretrained:TAG: another of its tags; imagenet: those of the Planet report; a file, "
        ".safetensors or .pth; none: from scratch, as unpublished backbones (simple_cnn) always; "
        "or one a tower {tower: ...}",
        path=True,
        words=("none", "pretrained", "imagenet"),
    )
    first_conv: FirstConv = key(
        "kaiming",
        "how pretrained first weights meet other bands: kaiming, zero, mean, copy; in_place "
        "(reproduction only): those of red, green, blue for the first three bands whatever they "
        "are, as the Planet report did",
    )
    dropout: float = key(0.0, "dropout on the pooled features", ge=0, lt=1)
    input: InputOptions = key(InputOptions(), "network input")
    augment: AugmentOptions = key(AugmentOptions(), "augmentation")
    loss: LossOptions = key(LossOptions(), "loss")
    repeat: float = key(
        0.0,
        "class-aware sampling: tiles of classes rarer than this share of the train split come "
        "sqrt(repeat / share) times a pass; 0: every tile once",
        ge=0,
        le=1,
    )
    average: AverageOptions = key(AverageOptions(), "averages of weights")
    calibrate: CalibrateOptions = key(CalibrateOptions(), "temperature and thresholds")
    landscape: RangeOptions = key(RangeOptions(), "range test of `learning_rate: auto`")
    optimizer: OptimizerOptions = key(OptimizerOptions(), "optimiser")
    stages: tuple[StageOptions, ...] = key(
        (),
        "stages, in order; default with weights: the head, then all of it at a lower rate; from "
        "scratch: all of it",
        min_length=1,
    )
    batch: int = key(32, "global batch, over all workers", unit="tiles", ge=1)
    pseudo_epoch: int | None = key(
        None,
        "samples from one evaluation to the next, which is what is called a pseudo-epoch; default "
        "the train split",
        unit="samples",
        ge=1,
    )
    shuffle: bool = key(True, "draw a new order of the train split each pass")
    best: Literal["auto", "map", "accuracy", "loss", "auc"] = key(
        "auto", "validation metric that picks the bundle: auto = map, or accuracy if multiclass"
    )
    precision: Literal["auto", "fp32", "bf16"] = key(
        "auto", "auto: bf16 autocast on GPUs and processors that compute in it, else fp32"
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
    tracking: Literal["tensorboard", "mlflow", "none"] = key(
        "tensorboard",
        "where the history goes beside the run folder; tensorboard: in a local `out`, events come "
        "as training goes on; in an object store, at the end; mlflow: MLFLOW_TRACKING_URI",
        identity=False,
    )

    @model_validator(mode="after")
    def _usual_stages(self) -> "TrainRecipe":
        if not self.stages:  # not among the keys that were given: `model_fields_set` says so
            self.__dict__["stages"] = self.usual("stages", self.__dict__)
        return self

    @classmethod
    def usual(cls, name: str, given: Mapping[str, Any]) -> tuple[Section, ...]:
        """Stages by what is trained, as far as the keys tell: `simple_cnn` is not published."""
        if name != "stages":
            return super().usual(name, given)
        weights, variant = given.get("weights", "pretrained"), given.get("variant", "single3")
        if isinstance(variant, VariantOptions):
            variant = variant.model_dump()
        towers = variant.get("towers", ()) if isinstance(variant, Mapping) else ()
        ours = isinstance(variant, str) and variant.startswith("simple_cnn")
        ours = ours or (bool(towers) and all(t.get("backbone") == "simple_cnn" for t in towers))
        sources = weights.values() if isinstance(weights, Mapping) else (weights,)
        scratch = all(each == "none" or (ours and each == "pretrained") for each in sources)
        return FROM_SCRATCH if scratch else FINE_TUNING
