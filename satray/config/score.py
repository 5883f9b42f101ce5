"""Keys of the jobs that take a bundle: `score`, `evaluate`, `export`."""

from typing import Annotated, Literal, Self

from pydantic import field_validator, model_validator

from satray.config.base import (
    ONE_ALONE,
    Count,
    Factor,
    NotNegative,
    Positive,
    ReadPath,
    Recipe,
    Section,
    Share,
    Texts,
    idle_keys,
    key,
    names_of_bands,
)

_SCENES = {"tiles": (None,)}
"""What keys need that are for scenes."""


class CamOptions(Section):
    """Class activation maps to write."""

    classes: Texts | None = key(
        None, "classes to map; [all] for every class; default: none of tiles, every one of scenes"
    )
    kind: Literal["dense", "argmax", "both"] | None = key(
        None,
        "dense: weighted features; argmax: what a maximum pooling really used; default: dense, "
        "and of scenes both where the bundle pools with max",
    )


class DetectionOptions(Section):
    """Peaks of scenes' maps as points."""

    write: bool = key(True, "write them; a bundle without maps has none")
    classes: Texts | None = key(
        None, "classes to find; default those of cam.classes, every one where it is []"
    )
    distance: NotNegative = key(
        0.5, "of two nearer to each other the weaker is dropped", unit="tiles"
    )


class ScheduleOptions(Section):
    """How runs with only_new share one `out`."""

    lease: float = key(
        900.0,
        "seconds without a sign of life after which another run takes a scene over",
        unit="s",
        identity=False,
        ge=5,
    )
    settle: NotNegative = key(
        60.0, "seconds that a scene has to stay unchanged", unit="s", identity=False
    )
    max_attempts: Count = key(
        3, "attempts at one version of a scene", unit="attempts", identity=False
    )


class ScoreRecipe(Recipe):
    """Score tiles, or whole scenes, with a bundle."""

    bundle: ReadPath = key(..., "bundle: the `out` of a train run, or the bundle folder")
    tiles: ReadPath | None = key(None, "prefix of tiles, or a tile index; this or scenes")
    scenes: ReadPath | None = key(
        None,
        "rasters or STAC Items below a prefix, one file, or a Parquet list of scene, uri, band",
    )
    bands: Texts | dict[str, int | str] | None = key(
        None,
        "names of the bands of one file in order, or of scenes a mapping: a wanted band -> its "
        "number, name or description; default what Items, files or the index say",
    )
    pages: Literal["bands", "first"] = key(
        "bands", "of TIFFs: bands: pages of one size and dtype are bands; first: only the first is"
    )
    extensions: Texts | None = key(
        None,
        "image files of a prefix to take by extension, as [tif]; default every known one",
        min_length=1,
    )
    cam: CamOptions = key(CamOptions(), "class activation maps")
    symmetries: Literal["none", "d4"] = key(
        "none", "d4: logits and maps averaged over the eight flips and transposes of each tile"
    )
    batch: Count = key(64, "tiles a forward pass", unit="tiles", identity=False)
    error_budget: Share = key(
        0.05,
        "share of tiles, or scenes, that may fail before the job ends with status 3",
        identity=False,
    )

    mode: Literal["auto", "dense", "tiles"] = key(
        "auto",
        "scenes: dense: windows, each cell as of the whole scene; tiles: one by one, as in "
        "training; auto: for all scenes the one that is cheaper on large ones",
        needs=_SCENES,
    )
    stride: Factor = key(
        1.0, "scenes: from tile to tile; below 1 tiles overlap", unit="tiles", needs=_SCENES
    )
    window: int = key(
        1024,
        "scenes: longest side of what is read for one forward pass",
        unit="px",
        ge=64,
        needs=_SCENES,
    )
    min_valid: Share = key(
        0.5, "scenes: share of a tile's px with data below which it has no scores", needs=_SCENES
    )
    gsd: Literal["auto", "none"] | Positive = key(
        "auto",
        "scenes: m a px that the bundle was trained on; auto: what the bundle says; none: px as "
        "they are",
        unit="m",
        needs=_SCENES,
    )
    convert: Literal["auto", "none", "scale"] = key(
        "auto",
        "scenes: auto: by the scale and offset that Items and files state, to the bundle's unit; "
        "none: as stored; scale: value = stored * scale + offset, in the bundle's unit and dtype",
        needs=_SCENES,
    )
    scale: float | tuple[float, ...] = key(
        1.0, "scenes: one factor, or one a band", needs=_SCENES | {"convert": ("scale",)}
    )
    offset: float | tuple[float, ...] = key(
        0.0, "scenes: what is added, one or one a band", needs=_SCENES | {"convert": ("scale",)}
    )
    drift: Literal["off", "warn", "refuse"] = key(
        "warn", "scenes: whose values lie a deviation or more off the training's", needs=_SCENES
    )
    engine: Literal["auto", "eager", "openvino"] = key(
        "auto",
        "what computes features on CPUs: eager torch, or OpenVINO, in fp32 equal to 1e-4; auto: "
        "OpenVINO where it can and there is enough to do",
        identity=False,
    )
    precision: Literal["auto", "fp32", "bf16"] = key(
        "auto",
        "of backbones; auto: bf16 on GPUs that compute in it, where training was allowed to, else "
        "fp32; bf16 halves the time on processors that compute in it",
    )
    detections: DetectionOptions = key(
        DetectionOptions(), "scenes: peaks of maps as points", needs=_SCENES
    )
    datetime: str | None = key(
        None,
        "scenes: regular expression for a scene's name, whose group `datetime` is its time (ISO "
        "8601 or digits: YYYYMMDD[T]hhmmss, YYYYDDD); default its Item, TIFF tag or time of "
        "storage",
        needs=_SCENES,
    )
    only_new: bool = key(
        False,
        "scenes: for schedules: only those that no run has scored into this `out`",
        needs=_SCENES,
    )
    schedule: ScheduleOptions = key(
        ScheduleOptions(), "scenes: with only_new", needs=_SCENES | {"only_new": (True,)}
    )

    _named = field_validator("bands")(names_of_bands)

    @property
    def shares_out(self) -> bool:
        """Whether `out` serves the many runs of a schedule."""
        return self.only_new

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        """Refuse tiles and scenes together, and keys that would do nothing."""
        if (self.tiles is None) == (self.scenes is None):
            found = "neither" if self.tiles is None else "both"
            raise ValueError(f"tiles, scenes: found {found}; accepted: exactly one of them")
        for line in idle_keys(self):
            raise ValueError(line)
        if self.tiles is not None:
            if isinstance(self.bands, dict):
                raise ValueError("bands: found a mapping; accepted with tiles=: names in order")
            if self.cam.kind == "both":
                raise ValueError("cam.kind=both: accepted with tiles=: dense, argmax")
        if self.only_new and self.out is None:
            raise ValueError("out: required with only_new=true, since its runs share one")
        return self


class EvaluateRecipe(Recipe):
    """Predict a split of a tile index and measure it."""

    bundle: ReadPath = key(..., "bundle: the `out` of a train run, or the bundle folder")
    index: ReadPath = key(..., "tile index: the `out` of a prepare run")
    split: Literal["train", "val", "test"] = key("val", "part of the index")
    batch: Count = key(64, "tiles a forward pass", unit="tiles", identity=False)
    symmetries: Literal["none", "d4"] = key(
        "none", "d4: logits and maps averaged over the eight flips and transposes of each tile"
    )
    bootstrap: int = key(
        1000, "draws of tiles for the intervals of the figures; 0: no intervals", ge=0, le=100_000
    )
    reproduce: ReadPath | None = key(
        None,
        "earlier evaluate run to compare all logits with; the job ends with status 1 where they "
        "differ",
    )
    tolerance: NotNegative = key(1e-4, "reproduce: largest difference of a logit")
    error_budget: Share = key(
        0.0, "share of tiles that may fail before the job ends with status 3", identity=False
    )


Format = Literal["encoder", "onnx", "torch"]


class ExportRecipe(Recipe):
    """Take a bundle out of satray: its backbones as encoders, and the classifier as a program."""

    bundle: ReadPath = key(..., "bundle: the `out` of a train run, or the bundle folder")
    formats: Annotated[tuple[Format, ...], ONE_ALONE] = key(
        ("encoder", "onnx", "torch"),
        "encoder: a feature pyramid a tower, for satray.models.encoder.load_encoder; onnx and "
        "torch (.pt2): the whole classifier, on training tiles' stored pixels",
        min_length=1,
    )
