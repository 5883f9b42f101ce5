"""Keys of `demo`."""

from satray.config.base import Recipe, key


class DemoRecipe(Recipe):
    """Generate a small archive and run the whole line on it."""

    tiles: int = key(600, "tiles in the generated archive", unit="tiles", ge=40)
    size: int = key(64, "side of a tile", unit="px", ge=32)
    pseudo_epochs: float = key(6.0, "length of each training", unit="pseudo-epochs", gt=0)
    seed: int = key(0, "seed of everything", ge=0)
