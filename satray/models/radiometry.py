"""What stored values mean to the network: themselves, places between percentiles, PIL's levels.

Only what is chosen and its numbers, without torch; `satray.models.values` computes.
"""

import sys
from dataclasses import dataclass
from typing import Literal, cast, get_args

from satray.errors import InputError

PlainUnit = tuple[float, float, str]
"""Scale, offset and name of a unit: value = stored * scale + offset (`tiles.units.Unit`)."""

RadiometryName = Literal["stored", "pil_compat", "percentile"]


@dataclass(frozen=True)
class Radiometry:
    """How stored values become the values that are normalised."""

    name: RadiometryName = "stored"
    """stored: as they are; percentile: each band's `low` to `high` becomes 0 to 1, clipped;
    pil_compat: 0 to 1, what PIL makes of 16-bit files of four bands, nir last (see `values`)."""

    low: tuple[float, ...] = ()
    """percentile: the value of each band that becomes 0, in stored units; else none."""

    high: tuple[float, ...] = ()
    """percentile: the value of each band that becomes 1, in stored units; else none."""

    def reads(self, bands: tuple[str, ...]) -> tuple[str, ...]:
        """The bands to read for a network that looks at `bands`: pil_compat needs nir too."""
        needed = ("nir",) if self.name == "pil_compat" and "nir" not in bands else ()
        return (*bands, *needed)

    def check(self, bands: tuple[str, ...]) -> None:
        """Refuse what does not fit the bands that are read.

        Raises:
            InputError: a number too few or too many, or bounds that fall.
        """
        wanted = len(bands) if self.name == "percentile" else 0
        if (len(self.low), len(self.high)) != (wanted, wanted):
            raise InputError(
                f"radiometry: found {len(self.low)} low and {len(self.high)} high numbers for "
                f"{self.name}, accepted: {wanted} each"
            )
        if not all(low <= high for low, high in zip(self.low, self.high, strict=True)):
            raise InputError(f"radiometry: found low {self.low}, high {self.high}: low is above")


def read_radiometry(name: str, value: object) -> Radiometry:
    """Read what `model.json` has of it; raises InputError where it is something else."""
    keys = {"name", "low", "high"}
    if not isinstance(value, dict) or value.keys() != keys:
        raise InputError(f"{name}: found {str(value)[:80]}, accepted: name, low, high")
    if value["name"] not in get_args(RadiometryName):
        raise InputError(
            f"{name}.name: found {value['name']!r}, accepted: {', '.join(get_args(RadiometryName))}"
        )
    return Radiometry(
        cast(RadiometryName, value["name"]),
        _numbers(f"{name}.low", value["low"]),
        _numbers(f"{name}.high", value["high"]),
    )


def read_units(name: str, value: object) -> tuple[PlainUnit | None, ...]:
    """Read what `model.json` has of units; raises InputError where it is something else."""
    found = value if isinstance(value, list) else [value]
    units = []
    for one in found:
        given = one if isinstance(one, list) and len(one) == 3 else (0, 0, "")
        scale, offset, unit = given
        good = _is_number(scale) and scale != 0 and _is_number(offset) and isinstance(unit, str)
        if one is not None and not good:
            raise InputError(
                f"{name}: found {str(one)[:80]}, accepted: a list of scale, offset and name of a "
                "unit, or null, for each band"
            )
        units.append(None if one is None else (float(scale), float(offset), unit))
    return tuple(units)


def _numbers(name: str, value: object) -> tuple[float, ...]:
    if not isinstance(value, list) or not all(_is_number(number) for number in value):
        raise InputError(f"{name}: found {str(value)[:80]}, accepted: a list of numbers")
    return tuple(float(number) for number in value)


def _is_number(value: object) -> bool:
    """Whether it is a finite number that a float can hold; NaN is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= sys.float_info.max
