"""What stored values mean to the network: themselves, places between percentiles, PIL's levels.

Only what is chosen and its numbers, without torch; `satray.models.preprocess` computes.
"""

from typing import Literal

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

RadiometryName = Literal["stored", "pil_compat", "percentile"]


@dataclass(frozen=True, config=ConfigDict(strict=True, extra="forbid", allow_inf_nan=False))
class Radiometry:
    """How stored values become the values that are normalised."""

    name: RadiometryName = "stored"
    """stored: as they are; percentile: each band's `low` to `high` becomes 0 to 1, clipped;
    pil_compat: 0 to 1, what PIL makes of 16-bit files of four bands, nir last (`models.pil`)."""

    low: tuple[float, ...] = ()
    """percentile: the value of each band that becomes 0, in stored units; else none."""

    high: tuple[float, ...] = ()
    """percentile: the value of each band that becomes 1, in stored units; else none."""

    def reads(self, bands: tuple[str, ...]) -> tuple[str, ...]:
        """The bands to read for a network that looks at `bands`: pil_compat needs nir too."""
        needed = ("nir",) if self.name == "pil_compat" and "nir" not in bands else ()
        return (*bands, *needed)
