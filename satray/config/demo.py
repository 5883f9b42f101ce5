"""Keys of `demo`."""

from typing import ClassVar

from satray.config.base import Recipe, key


class DemoRecipe(Recipe):
    """Generate a small archive and run the whole line on it."""

    makes: ClassVar[str] = (
        "archive/; prepare/, and train-NAME/, evaluate-NAME/, score-NAME/ of two networks; "
        "demo.json, maps.png"
    )

    tiles: int = key(600, "tiles in the generated archive", unit="tiles", ge=40)
    size: int = key(64, "side of a tile", unit="px", ge=32)
    pseudo_epochs: float = key(6.0, "length of each training", unit="pseudo-epochs", gt=0)
    seed: int = key(0, "seed of everything", ge=0)
