"""A look at a scene's values: small windows at full resolution, spread evenly over it.

Not an overview: its averages spread less than pixels do, and GDAL would open what a TIFF names as
its overview, wherever that is.
"""

from satray.data.statistics import BandCounts, count_tile, merge
from satray.scoring.scenes.opened import Scene

SIDE = 256
"""Side of a window, stored px."""
ACROSS = 4
"""Windows along a side: at most 16, a megapixel in all."""


def sample_places(size: int) -> list[tuple[int, int]]:
    """Start and length of the windows along an axis of `size` px; all of it where that is less."""
    if size <= ACROSS * SIDE:
        return [(0, size)]
    gap = (size - ACROSS * SIDE) / ACROSS
    return [(round(gap / 2 + i * (SIDE + gap)), SIDE) for i in range(ACROSS)]


def sample(scene: Scene) -> tuple[BandCounts, ...]:
    """Count the values of a scene's bands in some windows, over what is data there.

    Raises:
        DecodeError: one of them cannot be read.
    """
    parts = []
    for row, height in sample_places(scene.facts.height):
        for column, width in sample_places(scene.facts.width):
            parts.append(count_tile(*scene.read(row, column, height, width)))
    return merge(parts)
