"""The scene's picture, gathered from the windows as they are read. Pure.

Legend: C bands shown, H x W net px of a window, h x w px of the picture.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from satray.scoring.dense.windows import Span
from satray.scoring.products.quicklook import picture_size

BOX = 4
"""Side of the square of px that one of the picture is the mean of, at most."""
COLOURS = ("red", "green", "blue")


@dataclass(frozen=True)
class Canvas:
    """Where the picture's px lie in the scene."""

    rows: NDArray[np.int64]
    """(h,) net row that each row of the picture shows."""
    cols: NDArray[np.int64]
    """(w,) net column that each shows."""
    bands: tuple[int, ...]
    """Places of the bands shown: red, green and blue, or the first."""
    box: tuple[int, int]
    """Rows and columns of net px that are averaged, from those on."""

    @property
    def width(self) -> int:
        """Columns of the picture."""
        return len(self.cols)

    def within(self, rows: Span) -> Span:
        """Rows of the picture that show some net rows."""
        found = np.searchsorted(self.rows, (rows.start, rows.stop))
        return Span(int(found[0]), int(found[1]))

    def across(self, cols: Span) -> Span:
        """Columns of the picture that show some net columns."""
        found = np.searchsorted(self.cols, (cols.start, cols.stop))
        return Span(int(found[0]), int(found[1]))

    def sample(
        self,
        pixels_CHW: NDArray[Any],
        valid_HW: NDArray[np.bool_],
        origin: tuple[int, int],
        rows: Span,
        cols: Span,
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """The part of the picture that a window shows, (C, h, w), and where it has data.

        Args:
            pixels_CHW: of the window.
            valid_HW: where it has data.
            origin: its first net row and column.
            rows: of the picture, shown by this window.
            cols: the same.
        """
        there = (
            self.rows[rows.start : rows.stop] - origin[0],
            self.cols[cols.start : cols.stop] - origin[1],
        )
        H, W = valid_HW.shape
        shape = (len(there[0]), len(there[1]))
        total = np.zeros((len(self.bands), *shape), dtype=np.float64)
        count = np.zeros(shape, dtype=np.int64)
        for down in range(self.box[0]):
            for right in range(self.box[1]):
                at = np.ix_(np.minimum(there[0] + down, H - 1), np.minimum(there[1] + right, W - 1))
                good = valid_HW[at]
                count += good
                for place, band in enumerate(self.bands):
                    total[place] += np.where(good, pixels_CHW[band][at], 0)
        mean: NDArray[np.float32] = (total / np.maximum(count, 1)).astype(np.float32)
        return mean, count > 0


def canvas_of(size: tuple[int, int], net: tuple[int, int], bands: Sequence[str]) -> Canvas:
    """Lay out a scene's picture.

    Args:
        size: height and width of the scene, stored px: they decide the picture's shape.
        net: the same, net px.
        bands: of the pixels that will come.
    """
    shape = picture_size(*size)
    places = [
        ((np.arange(count) + 0.5) * length / count).astype(np.int64)
        for count, length in zip(shape, net, strict=True)
    ]
    box = [max(1, min(BOX, length // count)) for count, length in zip(shape, net, strict=True)]
    colours = all(name in bands for name in COLOURS)
    shown = tuple(bands.index(name) for name in COLOURS) if colours else (0,)
    return Canvas(places[0], places[1], shown, (box[0], box[1]))
