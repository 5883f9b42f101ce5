"""Keys of `score`."""

from typing import ClassVar, Literal

from satray.config.base import Recipe, Section, key


class CamOptions(Section):
    """Class activation maps to write."""

    classes: tuple[str, ...] = key((), "classes to map; [all] for every class; none by default")
    kind: Literal["dense", "argmax"] = key(
        "dense", "dense: weighted features; argmax: what a maximum pooling really used"
    )


class ScoreRecipe(Recipe):
    """Score tiles with a bundle."""

    makes: ClassVar[str] = (
        "predictions/ (GeoParquet where there is ground), cam/ (COGs), failures.parquet"
    )

    bundle: str = key(..., "bundle: the `out` of a train run, or the bundle folder", path=True)
    tiles: str = key(..., "prefix of tiles, or a tile index", path=True)
    bands: tuple[str, ...] | None = key(
        None, "names of the files' bands in order; default what the files or the index say"
    )
    cam: CamOptions = key(CamOptions(), "class activation maps")
    symmetries: Literal["none", "d4"] = key(
        "none", "d4: logits and maps averaged over the eight flips and transposes of each tile"
    )
    batch: int = key(64, "tiles a forward pass", unit="tiles", identity=False, ge=1)
    error_budget: float = key(
        0.05, "share of tiles that may fail before the job ends with status 3", ge=0, le=1
    )
