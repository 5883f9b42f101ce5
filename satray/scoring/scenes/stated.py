"""What a scene's Item, or its files, state of a band's numbers: nodata, scale and offset."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from satray.data.values import Unit, unit_of
from satray.errors import DecodeError
from satray.scoring.reading import MisfitError

OFFSET_DONE = "earthsearch:boa_offset_applied"
"""Property of Items whose provider has taken the offset off, and may state it nevertheless."""
BASELINE = "s2:processing_baseline"
"""Property of Sentinel-2's Items."""


@dataclass(frozen=True)
class Stated:
    """What an Item states of a band's stored numbers, as it stands there; None: nothing."""

    nodata: Any = None
    """The value that is no measurement."""
    scale: Any = None
    """value = stored * scale + offset."""
    offset: Any = None
    """See scale."""
    name: Any = None
    """Of the value's unit."""
    note: str = ""
    """What a reader must know."""
    done: bool = field(default=False, repr=False)
    """Whether an offset is in the numbers already."""

    def beside(self, own: Unit | None) -> "Stated":
        """With what the file itself states where this is silent."""
        if own is None:
            return self
        offset, note = self.offset, self.note
        if offset is None and own.offset:
            offset, note = (0.0, _aside(own.offset)) if self.done else (own.offset, "")
        scale = own.scale if self.scale is None else self.scale
        return replace(self, scale=scale, offset=offset, name=self.name or own.name, note=note)

    def unit(self, band: str) -> Unit | None:
        """What the numbers mean; None where it states neither scale nor offset.

        Raises:
            MisfitError: a scale or offset that is none.
        """
        try:
            return unit_of(band, self.scale, self.offset, self.name)
        except DecodeError as error:
            raise MisfitError(str(error)) from None

    def hidden(self, dtype: str) -> float | None:
        """The nodata; None where it states none, or one that the dtype cannot hold.

        Raises:
            MisfitError: no number.
        """
        if self.nodata is None:
            return None
        try:
            value = float(self.nodata)
        except (TypeError, ValueError, OverflowError):
            raise MisfitError(
                f"states nodata {self.nodata!r}; accepted: a number, nan, inf or -inf"
            ) from None
        if np.dtype(dtype).kind == "f":
            return value
        limits = np.iinfo(dtype)
        return value if value.is_integer() and limits.min <= value <= limits.max else None


def stated_in(sources: Sequence[dict[str, Any]], *, done: bool) -> Stated:
    """Of each field what the first of some objects says that says it."""

    def get(key: str) -> Any:
        names = (key, f"raster:{key}", f"file:{key}")
        return next((o[n] for o in sources for n in names if o.get(n) is not None), None)

    scale, offset = get("scale"), get("offset")
    note = ""
    if done and offset not in (None, 0):
        offset, note = 0.0, _aside(offset)
    return Stated(get("nodata"), scale, offset, get("unit"), note, done)


def _aside(offset: Any) -> str:
    return f"offset {offset} left aside: {OFFSET_DONE} says that it is in the numbers already"


def scaled(sources: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The objects that say a scale or an offset."""
    names = ("scale", "raster:scale", "offset", "raster:offset")
    return [some for some in sources if any(some.get(name) is not None for name in names)]


def baseline_note(properties: dict[str, Any]) -> str:
    """A note on Sentinel-2's numbers, 1000 higher since baseline 04.00; empty for others."""
    found = properties.get(BASELINE)
    try:
        late = float(str(found)) >= 4
    except ValueError:
        return ""
    told = f"{BASELINE} {found} without an offset: if its numbers are 1000 higher than before 04.00"
    return f"{told}, convert=scale offset=-1000 says so" if late else ""
