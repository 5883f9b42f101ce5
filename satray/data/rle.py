"""Run-length masks as the Airbus ship competition writes them.

A mask is `start length start length ...`: pixels counted from 1, down the columns (top to bottom,
then left to right). An empty cell is an empty mask.
"""

import numpy as np
from numpy.typing import NDArray

from satray.data.label_formats import RUNS
from satray.errors import InputError


def rle_decode(runs: str, height: int, width: int) -> NDArray[np.uint8]:
    """Draw a mask.

    Args:
        runs: `start length ...`, 1-based, column-major; empty for an empty mask.
        height: rows, px.
        width: columns, px.

    Returns:
        (height, width) uint8, 1 within a run. Runs may overlap.

    Raises:
        InputError: `runs` is not such a text, or a run leaves the image.
    """
    flat = np.zeros(height * width, np.uint8)
    text = runs.strip()
    if text:
        if RUNS.fullmatch(text) is None:
            raise InputError(
                f"mask {text[:40]!r} is not run-length: pairs of start and length, counted from 1"
            )
        pairs = np.array(text.split(), np.int64).reshape(-1, 2)
        starts = pairs[:, 0] - 1
        ends = starts + pairs[:, 1]
        if int(ends.max()) > flat.size:
            raise InputError(
                f"mask run ends at pixel {int(ends.max())}, the image has {height} x {width} = "
                f"{flat.size}"
            )
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
            flat[start:end] = 1
    return np.ascontiguousarray(flat.reshape(width, height).T)
