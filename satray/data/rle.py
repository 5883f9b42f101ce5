"""Run-length masks as the Airbus ship competition writes them.

A mask is `start length start length ...`: pixels counted from 1, down the columns (top to bottom,
then left to right). An empty cell is an empty mask.
"""

import re

import numpy as np
from numpy.typing import NDArray

from satray.errors import InputError

RUNS = re.compile(r"[1-9]\d{0,9}\s+[1-9]\d{0,9}(?:\s+[1-9]\d{0,9}\s+[1-9]\d{0,9})*", re.ASCII)
"""What a mask that is not empty looks like, spaces at its ends removed."""


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


def rle_encode(mask: NDArray[np.generic]) -> str:
    """Write a (height, width) mask as runs; empty where it has no pixel that is not 0."""
    flat = np.ascontiguousarray((np.asarray(mask) != 0).T).reshape(-1).astype(np.int8)
    edges = np.flatnonzero(np.diff(flat, prepend=0, append=0))
    starts, ends = edges[0::2], edges[1::2]
    pairs = np.stack([starts + 1, ends - starts], axis=1).reshape(-1)
    return " ".join(map(str, pairs.tolist()))
