"""Numbers of another unit, dtype or scale than the bundle's: what is made of them, and why."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from satray.data.values import Change, Unit, Units, change_of, convertible, units_told
from satray.errors import DecodeError, InputError
from satray.scoring.reading import MisfitError


@dataclass(frozen=True)
class Conversion:
    """What makes a scene's numbers those that the bundle was trained on."""

    mode: Literal["auto", "none", "scale"] = "auto"
    """auto: by what the scene states, to the bundle's units; none: numbers are taken as they are;
    scale: value = stored * scale + offset, then cast."""
    scale: tuple[float, ...] = (1.0,)
    """One factor, or one a wanted band."""
    offset: tuple[float, ...] = (0.0,)
    """What is added after, in the bundle's units; one, or one a wanted band."""
    units: Units = ()
    """The bundle's, one a wanted band; empty where its tiles stated none."""
    means: tuple[float, ...] = ()
    """The bundle's mean of each wanted band, in stored numbers; empty where not known."""

    def check(self, bands: Sequence[str]) -> None:
        """Raise InputError where the numbers do not fit the bands."""
        for key, values in (("scale", self.scale), ("offset", self.offset)):
            if len(values) not in (1, len(bands)):
                raise InputError(
                    f"{key}: found {len(values)} numbers; accepted: one, or one for each of "
                    f"{', '.join(bands)}"
                )

    def of_scene(
        self, bands: Sequence[str], found: Sequence[Unit | None], stored: str, dtype: str
    ) -> tuple[Change | None, str | None]:
        """What is done to a scene's numbers, and what a reader must know of it.

        Args:
            bands: names of the wanted bands.
            found: what the scene states of each.
            stored: dtype of its files.
            dtype: the bundle's.

        Raises:
            MisfitError: numbers that cannot pass for the bundle's.
        """
        if self.mode == "scale":
            count = len(bands)
            gain, shift = (v * count if len(v) == 1 else v for v in (self.scale, self.offset))
            return Change(gain, shift), self._aside(bands, found, dtype)
        if stored != dtype and (self.mode == "none" or not self._known(found, stored, dtype)):
            raise MisfitError(
                f"dtype is {stored}, the bundle's is {dtype}; convert=scale with scale and "
                "offset converts"
            )
        if self.mode == "none":
            return None, self._aside(bands, found, dtype)
        try:
            change = change_of(found, self.units, dtype)
        except DecodeError as error:
            raise MisfitError(f"{error}; convert=scale converts, convert=none does not") from None
        if change is None and stored == dtype:
            if any(found) or not any(self.units):
                return None, None
            return None, f"states no scale or offset: taken for {units_told(bands, self.units)}"
        if change is None:
            change = Change((1.0,) * len(bands), (0.0,) * len(bands))
        done = [
            f"stored * {gain:.6g} {'-' if shift < 0 else '+'} {abs(shift):.6g}"
            for gain, shift in zip(change.gain, change.shift, strict=True)
        ]
        if any(self.units):
            whose = f"the bundle's: {units_told(bands, self.units)}"
        elif np.dtype(dtype).kind == "f":
            whose = "the bundle's tiles state none: taken for the values themselves"
        else:
            whose = "the bundle's tiles state none: taken for the same scale without offset"
        return change, (
            f"brought to the bundle's unit ({units_told(bands, done)}): states "
            f"{units_told(bands, found)}; {whose}"
        )

    def _known(self, found: Sequence[Unit | None], stored: str, dtype: str) -> bool:
        """Whether both sides state their units; floats that state none must be within reach."""
        if not convertible(found, self.units, dtype):
            return False
        if any(self.units) or np.dtype(stored).kind == "f":
            return True
        limits = np.iinfo(stored)
        return all(
            unit is not None and limits.min <= (mean - unit.offset) / unit.scale <= limits.max
            for unit, mean in zip(found, self.means, strict=False)
        )

    def _aside(self, bands: Sequence[str], found: Sequence[Unit | None], dtype: str) -> str | None:
        """That a key goes before what the scene states."""
        try:
            would = change_of(found, self.units, dtype)
        except DecodeError:
            would = None
        if self.mode == "none" and would is None:
            return None
        if not any(found):
            return None
        return f"convert={self.mode} goes before what it states ({units_told(bands, found)})"
