"""Where bands hold no measurement: the rule of `tiles.nodata`, for bands of several files. Pure."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def holes(x_HW: NDArray[Any], nodata: float | None) -> NDArray[np.bool_]:
    """Where a band holds its nodata value (H, W); nowhere without one."""
    if nodata is None:
        return np.zeros(x_HW.shape, dtype=bool)
    found: NDArray[np.bool_] = np.isnan(x_HW) if np.isnan(nodata) else x_HW == nodata
    return found


def has_data(x_CHW: NDArray[Any], nodata: list[float | None]) -> NDArray[np.bool_]:
    """Where a pixel is neither nodata nor, in any band, not finite (H, W).

    Args:
        x_CHW: bands, maybe of several files.
        nodata: of each; a band that declares none has no say.
    """
    valid_HW = np.ones(x_CHW.shape[1:], dtype=bool)
    declared = [(x_HW, v) for x_HW, v in zip(x_CHW, nodata, strict=True) if v is not None]
    if declared:
        found = [holes(x_HW, value) for x_HW, value in declared]
        alone = any(np.isnan(value) or value < 0 for _, value in declared)
        valid_HW &= ~(np.any(found, axis=0) if alone else np.all(found, axis=0))
    if x_CHW.dtype.kind == "f":
        for x_HW in x_CHW:
            valid_HW &= np.isfinite(x_HW)
    return valid_HW
