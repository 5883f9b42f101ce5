"""Keys of `evaluate`."""

from typing import ClassVar, Literal

from satray.config.base import ReadPath, Recipe, key


class EvaluateRecipe(Recipe):
    """Predict a split of a tile index and measure it."""

    makes: ClassVar[str] = (
        "report.html, plots/, predictions/ (Parquet), metrics.json, failures.parquet"
    )

    bundle: ReadPath = key(..., "bundle: the `out` of a train run, or the bundle folder")
    index: ReadPath = key(..., "tile index: the `out` of a prepare run")
    split: Literal["train", "val", "test"] = key("val", "part of the index")
    batch: int = key(64, "tiles a forward pass", unit="tiles", identity=False, ge=1)
    symmetries: Literal["none", "d4"] = key(
        "none", "d4: logits and maps averaged over the eight flips and transposes of each tile"
    )
    bootstrap: int = key(
        1000, "draws of tiles for the intervals of the figures; 0: no intervals", ge=0, le=100_000
    )
    gallery: tuple[str, ...] | None = key(
        None,
        "classes whose most and least confident tiles the report shows; [] for none (the worst "
        "errors are shown all the same); default the 20 with most positives",
    )
    reproduce: ReadPath | None = key(
        None,
        "earlier evaluate run to compare all logits with; the job ends with status 1 where they "
        "differ",
    )
    tolerance: float = key(1e-4, "reproduce: largest difference of a logit", ge=0)
    error_budget: float = key(
        0.0,
        "share of tiles that may fail before the job ends with status 3",
        identity=False,
        ge=0,
        le=1,
    )
