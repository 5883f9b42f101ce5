"""Stored values of another dtype or scale than the bundle's, converted as the recipe states."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from satray.errors import InputError
from satray.scoring.reading import MisfitError


@dataclass(frozen=True)
class Conversion:
    """What makes a scene's values those that the bundle was trained on."""

    mode: Literal["none", "scale"] = "none"
    """none: values are taken as they are; scale: value = stored * scale + offset, then cast."""
    scale: tuple[float, ...] = (1.0,)
    """One factor, or one a wanted band."""
    offset: tuple[float, ...] = (0.0,)
    """What is added after, in the bundle's units; one, or one a wanted band."""

    def check(self, bands: Sequence[str]) -> None:
        """Raise InputError where the numbers do not fit the bands."""
        for key, values in (("scale", self.scale), ("offset", self.offset)):
            if len(values) not in (1, len(bands)):
                raise InputError(
                    f"{key}: found {len(values)} numbers; accepted: one, or one for each of "
                    f"{', '.join(bands)}"
                )

    def refuse(self, stored: str, wanted: str) -> None:
        """Raise MisfitError where values of one dtype cannot pass for the other's."""
        if self.mode == "none" and stored != wanted:
            raise MisfitError(
                f"dtype is {stored}, the bundle's is {wanted}; convert=scale with scale and "
                "offset converts"
            )

    def __call__(self, x_CHW: NDArray[Any], dtype: str) -> NDArray[Any]:
        """Convert stored values; whole numbers are rounded, and kept within what the dtype holds.

        What is not finite becomes 0 in a dtype of whole numbers; it is no valid px anyway.
        """
        if self.mode == "none":
            return x_CHW
        wanted = np.dtype(dtype)
        y_CHW = np.empty(x_CHW.shape, wanted)
        for place, x_HW in enumerate(x_CHW):
            scale, offset = (v[place if len(v) > 1 else 0] for v in (self.scale, self.offset))
            value_HW = x_HW.astype(np.float64) * scale + offset
            if wanted.kind != "f":
                value_HW = _whole(value_HW, wanted)
            y_CHW[place] = value_HW
        return y_CHW


def _whole(value_HW: NDArray[np.float64], wanted: np.dtype[Any]) -> NDArray[np.float64]:
    limits = np.iinfo(wanted)
    # the largest of 64 bits rounds up to what no longer fits
    top = float(limits.max) if wanted.itemsize < 8 else np.nextafter(float(limits.max), 0)
    rounded: NDArray[np.float64] = np.clip(np.rint(np.nan_to_num(value_HW)), limits.min, top)
    return rounded
