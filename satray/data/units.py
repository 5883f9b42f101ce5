"""What stored numbers mean, band by band, and how those of one unit become those of another.

A file or its STAC Item may state `value = stored * scale + offset`. The unit of an archive, and of
a bundle trained on it, is what its tiles state, or what the recipe of `prepare` does. Numbers that
state another are brought to it; those that state none are taken to be in it. Where the archive
states none, its integers are taken for the same scale without an offset, as sensors' numbers were
before offsets came into use, and its floats for the values themselves.

Legend: C bands, H x W pixels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from satray.errors import DecodeError

NAMELESS = frozenset(("", "1", "-", "none", "unitless", "dimensionless", "dn"))
"""Names of units, lower case, that say nothing."""

PERCENT = frozenset(("%", "percent", "per cent", "pct"))
"""Names of hundredths, lower case."""


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
            if (gain, shift) == (1, 0) and x_CHW.dtype == wanted:
                y_HW[...] = x_HW  # 64 bits are more than a float holds
                continue
            value_HW = x_HW.astype(np.float64) * gain + shift
            y_HW[...] = value_HW if wanted.kind == "f" else whole(value_HW, wanted)
        return y_CHW


def unit_of(band: str, scale: Any, offset: Any, name: Any = None) -> Unit | None:
    """The unit that a file or an Item states.

    Args:
        band: for messages.
        scale: a number, or the text of one; None where not stated.
        offset: the same.
        name: of the unit; whatever is no text is none.

    Returns:
        None where neither scale nor offset is stated.

    Raises:
        DecodeError: no numbers, not finite, or a scale of 0.
    """
    if scale is None and offset is None:
        return None
    numbers = {}
    for key, value, default in (("scale", scale, 1.0), ("offset", offset, 0.0)):
        try:
            if isinstance(value, bool):
                raise TypeError
            number = default if value is None else float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number) or (key == "scale" and number == 0):
            other = " other than 0" if key == "scale" else ""
            raise DecodeError(
                f"band {band} states {key} {value!r}; accepted: a finite number{other}"
            )
        numbers[key] = number
    text = name.strip() if isinstance(name, str) else ""
    return Unit(numbers["scale"], numbers["offset"], "" if text.lower() in NAMELESS else text)


def file_units(source: Any, bands: Sequence[int]) -> Units:
    """The units that a file states of bands, from 1; GDAL gives 1 and 0 where it states none.

    Raises:
        DecodeError: as `unit_of`.
    """
    of_all = list(zip(source.scales, source.offsets, source.units, strict=True))
    stated = [(band, *of_all[band - 1]) for band in bands]
    if all((scale, offset) == (1, 0) for _, scale, offset, _ in stated):
        return ()
    return tuple(
        None if (scale, offset) == (1, 0) else unit_of(str(band), scale, offset, name)
        for band, scale, offset, name in stated
    )


def units_of_file(own: Sequence[Unit | None], archive: Units) -> Units:
    """What a file states of bands, else what the archive that it is of does."""
    if not own:
        return archive
    return tuple(unit or (archive[n] if archive else None) for n, unit in enumerate(own))


def as_units(plain: Sequence[Sequence[Any] | None]) -> Units:
    """Units of plain tuples, as JSON and bundles hold them."""
    return tuple(None if some is None else Unit(*some) for some in plain)


def units_told(names: Sequence[str], units: Sequence[Any]) -> str:
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
    if all(pair == (1, 0) for pair in pairs):
        return None
    return Change(tuple(gain for gain, _ in pairs), tuple(shift for _, shift in pairs))


def convertible(found: Sequence[Unit | None], wanted: Sequence[Unit | None], dtype: str) -> bool:
    """Whether both sides state what their numbers mean, so that dtypes may differ."""
    told = wanted or (None,) * len(found)
    return bool(found) and all(
        have is not None and _understood(want, dtype) is not None
        for have, want in zip(found, told, strict=True)
    )


def whole(value_HW: NDArray[np.float64], wanted: np.dtype[Any]) -> NDArray[np.float64]:
    """Rounded, and within what a dtype of whole numbers holds."""
    limits = np.iinfo(wanted)
    # the largest of 64 bits rounds up to what no longer fits
    top = float(limits.max) if wanted.itemsize < 8 else np.nextafter(float(limits.max), 0)
    rounded: NDArray[np.float64] = np.clip(np.rint(np.nan_to_num(value_HW)), limits.min, top)
    return rounded


def _understood(unit: Unit | None, dtype: str) -> Unit | None:
    """An archive's unit: floats that state none are the values themselves."""
    return Unit(1.0, 0.0) if unit is None and np.dtype(dtype).kind == "f" else unit


def _fraction(unit: Unit) -> Unit:
    """A unit of percents as one of plain numbers, whatever these are of."""
    percent = unit.name.lower() in PERCENT
    return Unit(unit.scale / 100, unit.offset / 100) if percent else unit


def _change(found: Unit | None, wanted: Unit | None, dtype: str) -> tuple[float, float]:
    if found is None or found == wanted:
        return 1.0, 0.0
    want = _understood(wanted, dtype) or Unit(found.scale, 0.0, found.name)
    if found.name.lower() != want.name.lower():
        found, want = _fraction(found), _fraction(want)
    if found.name and want.name and found.name.lower() != want.name.lower():
        raise DecodeError(f"values in {found.name} where {want.name} is wanted")
    return found.scale / want.scale, (found.offset - want.offset) / want.scale
