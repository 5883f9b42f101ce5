"""What is no measurement, and what stands in for it: the rule for statistics, tiles and scenes.

A value is measured where no mask or alpha hides its pixel, where it is finite, and where it is not
the nodata value that its band declares. Nodata holds band by band, save what is a measurement
wherever another band has one: values of 8 bits, and the 0 of whole numbers, are nodata only where
every band that declares one holds its own. A band that declares none has no say.

Legend: C bands, H x W pixels.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from satray.errors import DecodeError

Nodata = Sequence[float | None]
"""Declared nodata of each band, as read; None: declares none."""

HUGE = 1e20
"""Values of this size and beyond measure nothing."""

SPELT = 1e-5
"""Relative difference within which a huge value is the one that is declared: texts name the
largest floats by as few as six digits, and what rounds beyond them reads as infinity."""


def held(x_HW: NDArray[Any], nodata: float | None) -> NDArray[np.bool_]:
    """Where a band holds its nodata value (H, W), compared in its dtype.

    Nowhere where the dtype has no such value. Huge floats are compared within `SPELT`.
    """
    found: NDArray[np.bool_]
    if nodata is None or not (x_HW.dtype.kind == "f" or _is_whole(nodata, x_HW.dtype)):
        found = np.zeros(x_HW.shape, bool)
    elif x_HW.dtype.kind != "f":
        found = x_HW == x_HW.dtype.type(int(nodata))
    elif np.isnan(nodata):
        found = np.isnan(x_HW)
    elif abs(nodata) >= HUGE:
        found = _near(x_HW, nodata)
    else:
        with np.errstate(over="ignore"):  # 16 bits
            found = x_HW == x_HW.dtype.type(nodata)
    return found


def _near(x_HW: NDArray[Any], nodata: float) -> NDArray[np.bool_]:
    """Where floats hold a huge value, as exactly as texts name it."""
    largest = float(np.finfo(x_HW.dtype).max)
    if np.isfinite(nodata) and abs(nodata) * (1 - SPELT) > largest:
        return np.zeros(x_HW.shape, bool)  # what is finite but beyond the dtype is in no band
    with np.errstate(over="ignore"):
        share_HW = x_HW / x_HW.dtype.type(np.clip(nodata, -largest, largest))
    return np.asarray((share_HW >= 1 - SPELT) & ((share_HW <= 1 + SPELT) | np.isinf(share_HW)))


def together(dtype: np.dtype[Any], nodata: float | None) -> bool:
    """Whether a value is nodata only where all bands that declare one hold their own."""
    return nodata is not None and (
        dtype.itemsize == 1 or (dtype.kind != "f" and not np.isnan(nodata) and nodata == 0)
    )


def void(x_CHW: NDArray[Any], nodata: Nodata) -> NDArray[np.bool_]:
    """Where every band that declares nodata holds its own (H, W); everywhere where none does."""
    return _all([hole for hole in _holes(x_CHW, nodata) if hole is not None], x_CHW.shape[1:])


def measured(
    x_CHW: NDArray[Any],
    nodata: Nodata,
    shown: NDArray[np.bool_] | None = None,
    void_HW: NDArray[np.bool_] | None = None,
) -> NDArray[np.bool_] | None:
    """Which values are measured (C, H, W); None where all are.

    Args:
        x_CHW: stored values.
        nodata: of each band.
        shown: (H, W) or (C, H, W) where no mask and no alpha hides them; None: everywhere.
        void_HW: `void` of all bands of the file, where these are some of them only.
    """
    holes = _holes(x_CHW, nodata)
    declared = [hole for hole in holes if hole is not None]
    floats = x_CHW.dtype.kind == "f"
    if not floats and shown is None and not any(hole.any() for hole in declared):
        return None
    valid_CHW = np.isfinite(x_CHW) if floats else np.ones(x_CHW.shape, bool)
    if shown is not None:
        valid_CHW &= shown
    if void_HW is None:
        void_HW = _all(declared, x_CHW.shape[1:])
    for valid_HW, hole_HW, value in zip(valid_CHW, holes, nodata, strict=True):
        if hole_HW is not None:
            valid_HW &= ~(void_HW if together(x_CHW.dtype, value) else hole_HW)
    return None if valid_CHW.all() else valid_CHW


def _holes(x_CHW: NDArray[Any], nodata: Nodata) -> list[NDArray[np.bool_] | None]:
    return [
        None if value is None else held(x_HW, value)
        for x_HW, value in zip(x_CHW, nodata, strict=True)
    ]


def _all(holes: Sequence[NDArray[np.bool_]], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    return np.asarray(np.logical_and.reduce(holes)) if holes else np.ones(shape, bool)


def filled(x_CHW: NDArray[Any], valid_CHW: NDArray[np.bool_] | None) -> NDArray[Any]:
    """Put the band's mean over what is measured where it is not; 0 where nothing is.

    Args:
        x_CHW: stored values; as they are where all are measured.
        valid_CHW: which are measured; None: all.
    """
    if valid_CHW is None:
        return x_CHW
    y_CHW = x_CHW.copy()
    for y_HW, valid_HW in zip(y_CHW, valid_CHW, strict=True):
        if not valid_HW.all():
            y_HW[~valid_HW] = mean_of(y_HW[valid_HW])
    return y_CHW


def mean_of(values: NDArray[Any]) -> Any:
    """What stands in for values that are missing beside these (n,): their mean, as the dtype can.

    Whole numbers are rounded; 0 where there are none.
    """
    if values.size == 0:
        return values.dtype.type(0)
    mean = values.mean(dtype=np.float64)
    if values.dtype.kind == "f":
        return values.dtype.type(mean)
    # rounding may pass the largest value of 64 bits
    return values.dtype.type(min(round(float(mean)), int(values.max())))


def refuse_empty(valid_CHW: NDArray[np.bool_] | None, bands: Sequence[str] | None = None) -> None:
    """Raise DecodeError where no pixel is measured in every band; names bands that have none."""
    if valid_CHW is None or valid_CHW.all(axis=0).any():
        return
    empty = [i for i, valid_HW in enumerate(valid_CHW) if not valid_HW.any()]
    if empty and len(empty) < len(valid_CHW):
        names = ", ".join(bands[i] if bands else f"{i + 1} of those taken" for i in empty)
        raise DecodeError(f"no valid pixels: band {names} holds no data")
    raise DecodeError("no valid pixels: all are nodata, masked, transparent or not finite")


def _is_whole(nodata: float, dtype: np.dtype[Any]) -> bool:
    """Whether whole numbers of a dtype hold a value."""
    limits = np.iinfo(dtype)
    return bool(
        np.isfinite(nodata) and nodata == int(nodata) and limits.min <= int(nodata) <= limits.max
    )
