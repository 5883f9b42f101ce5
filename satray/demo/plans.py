"""What the demo asks of each job: the recipes of its steps."""

from typing import TYPE_CHECKING, Literal

from satray.config.demo import DemoRecipe
from satray.config.evaluate import EvaluateRecipe
from satray.config.model import TowerOptions, VariantOptions
from satray.config.prepare import PrepareRecipe, SplitOptions
from satray.config.score import CamOptions, DetectionOptions, ScoreRecipe
from satray.config.stages import StageOptions
from satray.config.train import InputOptions, TrainRecipe
from satray.storage import join

if TYPE_CHECKING:  # it imports rasterio
    from satray.demo.generator import Archive

CLASS = "ship"
"""The class that is pointed at."""

SPLIT: Literal["test"] = "test"
"""The part that is measured: nothing was learned from it, and no bundle was chosen by it."""

VAL, TEST = 0.15, 0.2
"""Shares of the archive that choose the bundle, and that measure it."""

SCENE = 768
"""Side of the scene (px)."""

PASSES = 2
"""A pseudo-epoch of the demo, in passes over the training tiles."""

_RGB = TowerOptions(name="rgb", backbone="simple_cnn", bands=("red", "green", "blue"))
_NIR = TowerOptions(name="nir", backbone="simple_cnn", bands=("nir", "nir", "nir"))

NETWORKS: dict[str, VariantOptions] = {
    # Maximum pooling, as in the ship post: one strong cell decides, and so the map points.
    "simple_cnn": VariantOptions(towers=(_RGB,), pooling="max"),
    "double4_small": VariantOptions(towers=(_RGB, _NIR), pooling="max"),
}
"""The networks that are trained: colours alone, and double4's two towers on the small backbone."""


def prepare_recipe(recipe: DemoRecipe, out: str, archive: "Archive") -> PrepareRecipe:
    """Index the archive and divide it."""
    return PrepareRecipe(
        out=join(out, "prepare"),
        storage=recipe.storage,
        resources=recipe.resources,
        images=archive.images,
        labels=archive.labels,
        split=SplitOptions(by="draw", val=VAL, test=TEST, seed=recipe.seed),
    )


def train_recipe(recipe: DemoRecipe, out: str, name: str, train_tiles: int) -> TrainRecipe:
    """Train one of `NETWORKS` from scratch."""
    return TrainRecipe(
        out=join(out, f"train-{name}"),
        storage=recipe.storage,
        resources=recipe.resources,
        index=join(out, "prepare"),
        variant=NETWORKS[name],
        input=InputOptions(size=recipe.size),
        weights="none",
        stages=(StageOptions(learning_rate=3e-3, pseudo_epochs=recipe.pseudo_epochs),),
        batch=min(32, train_tiles),
        pseudo_epoch=PASSES * train_tiles,
        seed=recipe.seed,
    )


def evaluate_recipe(recipe: DemoRecipe, out: str, name: str) -> EvaluateRecipe:
    """Measure it on the test tiles."""
    return EvaluateRecipe(
        out=join(out, f"evaluate-{name}"),
        storage=recipe.storage,
        resources=recipe.resources,
        bundle=join(out, f"train-{name}"),
        index=join(out, "prepare"),
        split=SPLIT,
    )


def score_recipe(recipe: DemoRecipe, out: str, name: str, archive: "Archive") -> ScoreRecipe:
    """Score every tile of the archive, with maps of the ships."""
    return ScoreRecipe(
        out=join(out, f"score-{name}"),
        storage=recipe.storage,
        resources=recipe.resources,
        bundle=join(out, f"train-{name}"),
        tiles=archive.images,
        cam=CamOptions(classes=(CLASS,)),
    )


def scene_recipe(recipe: DemoRecipe, out: str, name: str) -> ScoreRecipe:
    """Score the scene, by overlapping tiles, and point at the ships in it.

    Ships may lie close together, so points may too: an eighth of a tile, a cell of the map.
    """
    return ScoreRecipe(
        out=join(out, f"scene-{name}"),
        storage=recipe.storage,
        resources=recipe.resources,
        bundle=join(out, f"train-{name}"),
        scenes=join(out, "archive", "scene.tif"),
        stride=0.5,
        cam=CamOptions(classes=(CLASS,)),
        detections=DetectionOptions(distance=0.125),
    )
