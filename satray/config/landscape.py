"""Keys of `landscape`."""

from satray.config.base import key
from satray.config.train import TrainRecipe


class LandscapeRecipe(TrainRecipe):
    """Find the learning rate of a training stage by a range test.

    Takes every recipe of `train`; what is tested is the part that the stage trains.
    """

    stage: int = key(0, "stage whose trainable part is tested, 0 for the first", ge=0)
