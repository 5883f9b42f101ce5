"""Equal bins of scores."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 15


def bin_of(scores: NDArray[Any], bins: int) -> NDArray[np.intp]:
    """Number of the bin (a, b] of [0, 1] that each score is in, 0 for the first."""
    inner = np.linspace(0, 1, bins + 1)[1:-1]
    return np.searchsorted(inner, scores, side="left")
