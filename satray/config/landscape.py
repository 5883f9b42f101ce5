"""Keys of `landscape`."""

from typing import ClassVar

from satray.config.base import key
from satray.config.stages import RangeOptions
from satray.config.train import TrainRecipe


class LandscapeRecipe(TrainRecipe):
    """Find the learning rate of a training stage by a range test.

    Takes every recipe of `train`; what is tested is the part that the stage trains, from the run's
    first weights.
    """

    makes: ClassVar[str] = "landscape.parquet, landscape.png, metrics.json (suggested rates)"

    stage: int = key(
        0,
        "stage whose trainable part is tested, 0 for the first; a later stage too starts from the "
        "run's first weights, not from what the stages before it learn",
        ge=0,
    )
    landscape: RangeOptions = key(RangeOptions(), "the test")
