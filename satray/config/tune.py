"""Keys of `tune`."""

from typing import Any, Literal

from satray.config.base import (
    Count,
    Factor,
    ReadPath,
    Recipe,
    Section,
    Seed,
    WrittenPath,
    key,
    paths_in,
    type_at,
)
from satray.config.train import TrainRecipe

AXIS = (
    "a list of values; {values: [...]}; {uniform: [low, high]}; {log_uniform: [low, high]}; or "
    "{integer: [low, high]}"
)
"""What an axis may be, in words."""


class StopOptions(Section):
    """Which trials end early."""

    name: Literal["none", "asha"] = key(
        "none",
        "none: every trial runs its length; asha: at equal samples seen, all but the best end",
    )
    grace: Count | None = key(
        None,
        "samples before which no trial is ended; default a tenth of the longest trial's",
        unit="samples",
        needs={"name": ("asha",)},
    )
    factor: int = key(
        3,
        "one in so many goes on at each rung; rungs are so many times apart",
        ge=2,
        needs={"name": ("asha",)},
    )


class FeatureOptions(Section):
    """Features of frozen backbones, extracted once and read by every trial that trains a head.

    They are of augment.views draws of augmentation a tile: 8 where a trial does not say, 1 where
    nothing is drawn.
    """

    folder: WrittenPath | None = key(
        None,
        "where features are kept, local or URI; default features/ below `out`. Name one to share "
        "them between sweeps",
        identity=False,
    )


class TuneRecipe(Recipe):
    """Search configurations of `train`: variants, learning rates, schedules, any of its keys.

    Trials that train the head alone share the features of frozen backbones; the others train on
    workers of their own, as `train` does.
    """

    index: ReadPath = key(..., "tile index: the `out` of a prepare run")
    base: dict[str, Any] = key(
        {},
        "keys of train that all trials share, nested or dotted; where neither base nor space names "
        "what stages train, they train the head alone",
    )
    space: dict[str, Any] = key(
        {},
        f"key of train -> {AXIS}; each with `when: {{key: [values]}}` where it belongs to these "
        "alone, a range with `points` for a grid. Default: heads on the built-in variants with "
        "CAMs that the index has bands for and somebody has published weights of (with "
        "base.weights=none: all of them) x learning rate x schedule",
    )
    search: Literal["grid", "random", "optuna"] = key(
        "grid",
        "grid: all combinations, 3 points a range unless it says `points`; random; optuna: by what "
        "trials before have shown",
    )
    trials: Count | None = key(
        None, "how many configurations; default all of a grid, else 32", unit="trials"
    )
    metric: Literal["auto", "map", "accuracy", "loss", "auc"] = key(
        "auto",
        "validation metric that trials are compared by: auto = base.best, else map, or accuracy if "
        "multiclass",
    )
    stop: StopOptions = key(StopOptions(), "which trials end early")
    landscape: bool = key(
        False,
        "a range test a variant first: log-uniform learning rates around what it finds replace "
        "those of the space",
    )
    features: FeatureOptions = key(FeatureOptions(), "features of frozen backbones")
    refit: bool = key(
        False,
        "train the best configuration again, as `train` would, and where it is a head on "
        "pretrained weights go on to fine-tune all of it: bundle/ and best.yaml are then that "
        "training's, with figures of its own, and refit/ holds its history and curves",
    )
    seed: Seed = key(0, "seed of the search, and of every trial where base and space give none")
    concurrent: Literal["auto"] | Count = key(
        "auto",
        "trials at once, never more than fit what is up when the first begin; auto: as many as fit",
        identity=False,
    )
    gpu_share: Factor = key(
        1.0,
        "share of a GPU that each trial's worker takes, so that several fit on one",
        identity=False,
    )

    def paths(self, *, written: bool = True) -> list[tuple[str, str]]:
        """Its own, and those that base and space give to trials, such as files of weights."""
        given = [("base", name, value) for name, value in self.base.items()]
        for name, axis in self.space.items():
            values = axis.get("values") if isinstance(axis, dict) else axis
            if isinstance(values, list):
                given += [("space", name, each) for each in values]
        inner = [
            path
            for above, name, value in given
            for path in paths_in(type_at(TrainRecipe, name), value, f"{above}.{name}")
        ]
        return super().paths(written=written) + inner
