"""What stored numbers mean: which are measured, in what unit; and tiles of one size from several.

One rule for all who read.

A value is measured where no mask or alpha hides its pixel, where it is finite and below `HUGE`, and
where it is not the nodata value that its band declares. Nodata holds band by band, save what is a
measurement wherever another band has one: values of 8 bits, and the 0 of whole numbers, are nodata
only where every band that declares one holds its own. A band that declares none has no say.

A file or its STAC Item may state `value = stored * scale + offset`. The unit of an archive, and of
a bundle trained on it, is what its tiles state, or what the recipe of `prepare` does. Numbers that
state another are brought to it; those that state none are taken to be in it. Where the archive
states none, its integers are taken for the same scale without an offset, as sensors' numbers were
before offsets came into use, and its floats for the values themselves.

Legend: C bands, H x W pixels.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from satray.errors import DecodeError

Nodata = Sequence[float | None]
"""Declared nodata of each band, as read; None: declares none."""

HUGE = 1e20
"""Floats of this size and beyond measure nothing: fills, however a file spells them."""

NAMELESS = frozenset(("", "1", "-", "none", "unitless", "dimensionless", "dn"))
"""Names of units, lower case, that say nothing."""

PERCENT = frozenset(("%", "percent", "per cent", "pct"))
"""Names of hundredths, lower case."""


def valid_values(
    x_CHW: NDArray[Any],
    nodata: Nodata,
    shown: NDArray[np.bool_] | None = None,
    others: Callable[[], tuple[NDArray[Any], Nodata]] | None = None,
) -> NDArray[np.bool_] | None:
    """Which values are measured (C, H, W); None where all are.

    Args:
        x_CHW: stored values.
        nodata: of each band.
        shown: (H, W) or (C, H, W) where no mask and no alpha hides them; None: everywhere.
        others: gives values and nodata of the file's other bands; asked only where they decide.
    """
    holes = _holes(x_CHW, nodata)
    floats = x_CHW.dtype.kind == "f"
    if not floats and shown is None and not any(hole.any() for hole in holes.values()):
        return None
    valid_CHW = np.abs(x_CHW) < HUGE if floats else np.ones(x_CHW.shape, bool)
    if shown is not None:
        valid_CHW &= shown
    joint = [band for band in holes if together(x_CHW.dtype, nodata[band])]
    if joint:
        void_HW = np.logical_and.reduce(list(holes.values()))
        if others is not None and void_HW.any():
            void_HW = np.logical_and.reduce([void_HW, *_holes(*others()).values()])
        holes |= {band: np.asarray(void_HW) for band in joint}
    for band, hole_HW in holes.items():
        valid_CHW[band] &= ~hole_HW
    return None if valid_CHW.all() else valid_CHW


def held(x_HW: NDArray[Any], nodata: float | None) -> NDArray[np.bool_]:
    """Where a band holds its nodata value (H, W), compared in its dtype.

    Nowhere where it declares none, or one that the dtype lacks.
    """
    value = sentinel(x_HW.dtype, nodata)
    return np.zeros(x_HW.shape, bool) if value is None else np.asarray(x_HW == value)


def sentinel(dtype: np.dtype[Any], nodata: float | None) -> Any:
    """A nodata value as a number of a dtype; None where there is none to look for.

    So where none is declared, or one that the dtype lacks, or one that measures nothing anyway.
    """
    has = False
    if nodata is not None and dtype.kind == "f":
        has = abs(nodata) < HUGE
    elif nodata is not None:
        limits = np.iinfo(dtype)
        has = limits.min <= nodata <= limits.max and nodata == int(nodata)
    return dtype.type(nodata) if has else None


def together(dtype: np.dtype[Any], nodata: float | None) -> bool:
    """Whether a value is nodata only where all bands that declare one hold their own."""
    return nodata is not None and (dtype.itemsize == 1 or (dtype.kind != "f" and nodata == 0))


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
    return values.dtype.type(mean if values.dtype.kind == "f" else round(float(mean)))


def refuse_empty(valid_CHW: NDArray[np.bool_] | None, bands: Sequence[str] | None = None) -> None:
    """Raise DecodeError where no pixel is measured in every band; names bands that have none."""
    if valid_CHW is None or valid_CHW.all(axis=0).any():
        return
    empty = [i for i, valid_HW in enumerate(valid_CHW) if not valid_HW.any()]
    if empty and len(empty) < len(valid_CHW):
        names = ", ".join(bands[i] if bands else f"{i + 1} of those taken" for i in empty)
        raise DecodeError(f"no valid pixels: band {names} holds no data")
    raise DecodeError("no valid pixels: all are nodata, masked, transparent or not finite")


class Unit(NamedTuple):
    """What a band's stored numbers mean: value = stored * scale + offset."""

    scale: float
    """Values a stored step; finite and not 0."""
    offset: float
    """Value of a stored 0."""
    name: str = ""
    """Name of the values' unit; empty where nobody says."""

    def __str__(self) -> str:
        name = f" ({self.name})" if self.name else ""
        return f"scale {self.scale:.6g}, offset {self.offset:.6g}{name}"


Units = tuple[Unit | None, ...]
"""One a band, None for a band that states none; `()` where no band does."""


@dataclass(frozen=True)
class Change:
    """From one unit to another: stored * gain + shift, one number each a band."""

    gain: tuple[float, ...]
    """Factors."""
    shift: tuple[float, ...]
    """What is added after, in the units wanted."""

    def __call__(self, x_CHW: NDArray[Any], dtype: str) -> NDArray[Any]:
        """Change stored numbers (C, H, W).

        Whole numbers are rounded, and kept within what the dtype holds. What is not finite becomes
        0 in a dtype of whole numbers; it is no valid px anyway.
        """
        wanted = np.dtype(dtype)
        y_CHW = np.empty(x_CHW.shape, wanted)
        for y_HW, x_HW, gain, shift in zip(y_CHW, x_CHW, self.gain, self.shift, strict=True):
            value_HW = x_HW.astype(np.float64) * gain + shift
            y_HW[...] = value_HW if wanted.kind == "f" else whole(value_HW, wanted)
        return y_CHW


def unit_of(band: str, scale: Any, offset: Any, name: Any = None) -> Unit | None:
    """The unit that a file or an Item states; None where neither scale nor offset is stated.

    Percents become plain numbers, whatever these are of.

    Args:
        band: for messages.
        scale: a number, or the text of one; None where not stated.
        offset: the same.
        name: of the unit; whatever is no text is none.

    Raises:
        DecodeError: no numbers, not finite, a scale of 0, or so large or small that values in
            other units, or their squares, are no floats.
    """
    if scale is None and offset is None:
        return None
    numbers = []
    for key, value, default in (("scale", scale, 1.0), ("offset", offset, 0.0)):
        try:
            number = default if value is None else float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        lacks = key == "scale" and abs(number) < 1 / HUGE
        if isinstance(value, bool) or lacks or not abs(number) <= HUGE:
            raise DecodeError(
                f"band {band} states {key} {value!r}; accepted: a finite number"
                + f" other than 0, of {1 / HUGE:g}" * (key == "scale")
                + f" to {HUGE:g}"
            )
        numbers.append(number)
    text = name.strip() if isinstance(name, str) else ""
    if text.lower() in PERCENT:
        return Unit(numbers[0] / 100, numbers[1] / 100)
    return Unit(numbers[0], numbers[1], "" if text.lower() in NAMELESS else text)


def units_of_file(own: Sequence[Unit | None], archive: Units) -> Units:
    """What a file states of bands, else what the archive that it is of does."""
    if not own:
        return archive
    return tuple(unit or (archive[n] if archive else None) for n, unit in enumerate(own))


def as_units(plain: Sequence[Sequence[Any] | None]) -> Units:
    """Units of plain tuples, as JSON and bundles hold them."""
    return tuple(None if some is None else Unit(*some) for some in plain)


def units_text(names: Sequence[str], units: Sequence[Any]) -> str:
    """What some bands state (units or other texts), those that state the same together."""
    groups: dict[str, list[str]] = {}
    for name, unit in zip(names, units, strict=True):
        groups.setdefault("none" if unit is None else str(unit), []).append(name)
    if len(groups) <= 1:
        return next(iter(groups), "none")
    return "; ".join(f"{', '.join(some)}: {text}" for text, some in groups.items())


def change_of(
    found: Sequence[Unit | None], wanted: Sequence[Unit | None], dtype: str
) -> Change | None:
    """What makes stored numbers those that an archive holds; None where they are.

    Args:
        found: of each band; `()` where none states any.
        wanted: the archive's, one a band, or `()`.
        dtype: the archive's.

    Raises:
        DecodeError: values of units with different names.
    """
    if not any(found):
        return None
    wanted = wanted or (None,) * len(found)
    pairs = [_change(have, want, dtype) for have, want in zip(found, wanted, strict=True)]
    gains, shifts = zip(*pairs, strict=True)
    return None if set(pairs) == {(1, 0)} else Change(gains, shifts)


def convertible(found: Sequence[Unit | None], wanted: Sequence[Unit | None], dtype: str) -> bool:
    """Whether both sides state what their numbers mean, so that dtypes may differ."""
    target = wanted or (None,) * len(found)
    return bool(found) and all(
        have is not None and _understood(want, dtype) is not None
        for have, want in zip(found, target, strict=True)
    )


def whole(value_HW: NDArray[np.float64], wanted: np.dtype[Any]) -> NDArray[np.float64]:
    """Rounded, and within what a dtype of whole numbers holds."""
    limits = np.iinfo(wanted)
    rounded: NDArray[np.float64] = np.clip(np.rint(np.nan_to_num(value_HW)), limits.min, limits.max)
    return rounded


def resample(x_CHW: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """Resize bilinearly, as `torch.nn.functional.interpolate(antialias=True)` does.

    Args:
        x_CHW: pixels (C, H, W), any integer or float dtype.
        height: rows wanted.
        width: columns wanted.

    Returns:
        Pixels (C, height, width) in the same dtype; integers are rounded to nearest.
    """
    dtype = x_CHW.dtype
    working = np.float32 if dtype.itemsize <= 2 or dtype == np.float32 else np.float64
    rows, columns = _weights(x_CHW.shape[1], height), _weights(x_CHW.shape[2], width)
    y_CHW = rows.astype(working) @ x_CHW.astype(working) @ columns.T.astype(working)
    if dtype.kind != "f":
        # the weights of a row sum to 1 up to rounding: stay inside of what there was
        y_CHW = np.clip(np.rint(y_CHW), x_CHW.min(), x_CHW.max())
    return np.asarray(y_CHW, dtype=dtype)


def _holes(x_CHW: NDArray[Any], nodata: Nodata) -> dict[int, NDArray[np.bool_]]:
    """Where bands hold the nodata that they declare, by band."""
    bands = zip(x_CHW, nodata, strict=True)
    return {n: held(x, value) for n, (x, value) in enumerate(bands) if value is not None}


def _understood(unit: Unit | None, dtype: str) -> Unit | None:
    """An archive's unit: floats that state none are the values themselves."""
    return Unit(1.0, 0.0) if unit is None and np.dtype(dtype).kind == "f" else unit


def _change(found: Unit | None, wanted: Unit | None, dtype: str) -> tuple[float, float]:
    if found is None or found == wanted:
        return 1.0, 0.0
    want = _understood(wanted, dtype) or Unit(found.scale, 0.0, found.name)
    if found.name and want.name and found.name.lower() != want.name.lower():
        raise DecodeError(f"values in {found.name} where {want.name} is wanted")
    return found.scale / want.scale, (found.offset - want.offset) / want.scale


@lru_cache(maxsize=256)
def _weights(size: int, wanted: int) -> NDArray[np.float64]:
    """Row-stochastic matrix (wanted, size) of the triangle filter at half-pixel centres."""
    scale = size / wanted
    support = max(scale, 1.0)
    centres = (np.arange(wanted) + 0.5) * scale
    distance = np.abs(np.arange(size)[None, :] + 0.5 - centres[:, None]) / support
    w = np.clip(1.0 - distance, 0.0, None)
    result: NDArray[np.float64] = w / w.sum(axis=1, keepdims=True)
    return result
