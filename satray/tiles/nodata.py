"""What is no measurement in a tile: which values are nodata, and what stands in for them.

Legend: C data bands, H x W pixels.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def holes_of(x_CHW: NDArray[Any], nodata: Sequence[float | None]) -> NDArray[np.bool_] | None:
    """Which values of the data bands are nodata (C, H, W), by the rule of `decode.decode`.

    None where not every band declares it.
    """
    holes = []
    for x_HW, value in zip(x_CHW, nodata, strict=True):
        if value is None:
            return None
        holes.append(np.isnan(x_HW) if np.isnan(value) else x_HW == value)
    if any(value is not None and (np.isnan(value) or value < 0) for value in nodata):
        return np.stack(holes)
    return np.broadcast_to(np.all(holes, axis=0), x_CHW.shape)


def nodata_filled(x_CHW: NDArray[Any], nodata: float) -> NDArray[Any]:
    """Replace nodata in a plain TIFF (C, H, W): all bands are data and declare it."""
    holes_CHW = holes_of(x_CHW, (nodata,) * len(x_CHW))
    floats = x_CHW.dtype.kind == "f"
    if holes_CHW is None or not (floats or holes_CHW.any()):
        return x_CHW
    valid_HW: NDArray[np.bool_] = ~np.any(holes_CHW, axis=0)
    if floats:
        valid_HW &= np.isfinite(x_CHW).all(axis=0)
    return filled(x_CHW, holes_CHW, valid_HW)


def filled(
    x_CHW: NDArray[Any],
    holes_CHW: NDArray[np.bool_] | None = None,
    valid_HW: NDArray[np.bool_] | None = None,
) -> NDArray[Any]:
    """Put each band's mean where it is not finite or a hole; 0 where there is nothing to average.

    The mean is over `valid_HW`; without, over what is finite in the band.
    """
    bad_CHW = np.zeros(x_CHW.shape, bool) if holes_CHW is None else holes_CHW
    if x_CHW.dtype.kind == "f":
        bad_CHW = bad_CHW | ~np.isfinite(x_CHW)
    if not bad_CHW.any():
        return x_CHW
    y_CHW = x_CHW.copy()
    for y_HW, bad_HW in zip(y_CHW, bad_CHW, strict=True):
        good = y_HW[~bad_HW if valid_HW is None else valid_HW]
        if good.size == 0:
            y_HW[bad_HW] = 0
        elif y_HW.dtype.kind == "f":
            y_HW[bad_HW] = good.mean(dtype=np.float64)
        else:  # rounding may pass the largest value of 64 bits
            y_HW[bad_HW] = min(round(float(good.mean(dtype=np.float64))), int(good.max()))
    return y_CHW
