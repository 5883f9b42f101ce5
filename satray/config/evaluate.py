"""Keys of `evaluate`."""

from typing import Literal

from satray.config.base import Recipe, key


class EvaluateRecipe(Recipe):
    """Predict a split of a tile index and measure it."""

    bundle: str = key(..., "bundle: the `out` of a train run, or the bundle folder", path=True)
    index: str = key(..., "tile index: the `out` of a prepare run", path=True)
    split: Literal["train", "val", "test"] = key("val", "part of the index")
    batch: int = key(64, "tiles a forward pass", unit="tiles", identity=False, ge=1)
    error_budget: float = key(
        0.0, "share of tiles that may fail before the job ends with status 3", ge=0, le=1
    )
