"""An open raster as bands: pages of a TIFF, alpha, and what masks show.

Tiles and scenes alike are read through it. What array writers make of (bands, height, width) is
one image, a band a page; overviews and masks are no pages, and GDAL tells them apart. All pages are
of the file itself.

Legend: C bands, H x W pixels.
"""

import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, MaskFlags

from satray.data.values import Units, unit_of
from satray.errors import DecodeError, counted

PagesKey = Literal["bands", "first"]
"""bands: pages of the first one's size and dtype are bands, in order; first: only that one is."""

DTYPES = (
    *("uint8", "uint16", "uint32", "int8", "int16", "int32", "float16", "float32", "float64"),
)
"""Stored dtypes that are read: values that a float64 holds."""

MASK = ".msk"
"""What GDAL appends to a raster's name for a mask that lies beside it."""

MOST = 1024
"""Pages of a file that are looked at."""

_PAGE = re.compile(r"GTIFF_DIR:(\d+):(.*)", re.DOTALL)


class Raster:
    """An open raster. Whatever is not of single bands (size, place, tags) is the first page's."""

    def __init__(
        self, source: Any, open_page: Callable[[str], Any], pages: PagesKey = "bands"
    ) -> None:
        """Take an open dataset, and open its further pages.

        Args:
            source: rasterio's dataset of the first page; closed with the raster.
            open_page: opens another name of the same file.
            pages: which pages are bands.

        Raises:
            DecodeError: dtypes that are not read, a palette, more pages than `MOST`, or pages with
                masks of their own.
        """
        self.source = source
        self.height: int = source.height
        """Rows, px."""
        self.width: int = source.width
        """Columns, px."""
        self.dtype = ", ".join(sorted(set(source.dtypes)))
        """NumPy name of the values' dtype."""
        self.pages: list[Any] = [source]
        """Pages whose bands are taken."""
        self.pages_left: tuple[str, ...] = ()
        """The pages that are not taken because they are unlike the first: what each is."""
        self._mask: Any = None
        if self.dtype not in DTYPES:
            raise DecodeError(f"dtype {self.dtype}; accepted: one integer or float dtype")
        if ColorInterp.palette in source.colorinterp:
            raise DecodeError("colours of a palette; accepted: a band for red, green and blue each")
        with ExitStack() as opened:
            opened.callback(source.close)
            if source.driver == "GTiff" and pages == "bands":
                self._take_pages(lambda name: opened.enter_context(open_page(name)))
            self._opened = opened.pop_all()

    def take_mask(self, mask: "Raster") -> None:
        """Let the `.msk` that lies beside it hide pixels; it is closed with the raster.

        Raises:
            DecodeError: it is of another size.
        """
        self._mask = mask.source
        self._opened.callback(mask.close)
        if self._mask.shape != self.source.shape:
            raise DecodeError(
                f"its {MASK} is {mask.height} x {mask.width} px, the image {self.height} x "
                f"{self.width}; accepted: a mask of the image's size"
            )

    def close(self) -> None:
        """Close all of it."""
        self._opened.close()

    @property
    def count(self) -> int:
        """Bands of all pages taken."""
        return len(self._at)

    @cached_property
    def colours(self) -> tuple[str, ...]:
        """GDAL's colour interpretation of each band, lower case."""
        return tuple(colour.name for colour in self._each("colorinterp"))

    @cached_property
    def descriptions(self) -> tuple[str | None, ...]:
        """The bands' own."""
        return self._each("descriptions")

    @cached_property
    def nodata(self) -> tuple[float | None, ...]:
        """Declared nodata of each band."""
        return self._each("nodatavals")

    def units(self, numbers: Sequence[int]) -> Units:
        """The units that the file states of bands, from 1; `()` where of none.

        Raises:
            DecodeError: as `unit_of`.
        """
        stated = list(zip(*map(self._each, ("scales", "offsets", "units")), strict=True))
        # GDAL gives 1 and 0 where it states none
        found = [
            None if stated[number - 1][:2] == (1, 0) else unit_of(str(number), *stated[number - 1])
            for number in numbers
        ]
        return tuple(found) if any(found) else ()

    def data_bands(self, named: int) -> tuple[list[int], int | None]:
        """Numbers of the data bands, from 1, and of the one that is alpha.

        Args:
            named: how many bands are named: where all are, one tagged alpha is data too, but for
                CMYK files, of which GDAL makes red, green, blue and an alpha.
        """
        numbers = range(1, self.count + 1)
        tagged = [number for number in numbers if self.colours[number - 1] == "alpha"]
        if not tagged:
            return list(numbers), None
        cmyk = self.source.tags(ns="IMAGE_STRUCTURE").get("SOURCE_COLOR_SPACE") == "CMYK"
        if named >= self.count and not cmyk:
            return list(numbers), None
        return [number for number in numbers if number not in tagged], tagged[0]

    def summary(self) -> str:
        """How many bands there are, and of how many pages: `4 bands of 4 pages; 1 left out`."""
        text, taken, left = counted(self.count, "band"), len(self.pages), len(self.pages_left)
        if taken + left > 1:
            text += f" of {counted(taken, 'page')}" + f"; {left} left out" * (left > 0)
        return text

    def read(
        self, numbers: Sequence[int], alpha: int | None = None, window: Any = None
    ) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        """Stored values of bands, and where masks, alpha and transparent colours let them count.

        Args:
            numbers: of the bands, from 1.
            alpha: the band whose 0 hides pixels; None: none does.
            window: rasterio's; None: all.

        Returns:
            (C, H, W); and (H, W) or (C, H, W), None where nothing is hidden. Declared nodata is
            left to `valid_values`.
        """
        numbers = list(numbers)
        shown = self._shown(numbers, window)
        wanted = numbers if alpha is None else [*numbers, alpha]
        if len(self.pages) == 1:
            x_CHW = self.source.read(wanted, window=window)
        else:
            places = [self._at[number - 1] for number in wanted]
            x_CHW = np.stack([page.read(band, window=window) for page, band in places])
        if alpha is not None:
            x_CHW, shown = x_CHW[:-1], _both(shown, x_CHW[-1] > 0)
        return x_CHW, shown

    def _shown(self, numbers: list[int], window: Any) -> NDArray[np.bool_] | None:
        """What internal masks, colours that are nodata, and the `.msk` show."""
        shown: NDArray[np.bool_] | None = None
        # of the first page: of another GDAL would look beside the file, and at no mask in it
        first = min(numbers[0], self.source.count)
        flags = self.source.mask_flag_enums[first - 1]
        if MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags:
            shown = self.source.read_masks(first, window=window) > 0
        if self._mask is None:
            return shown
        each = self._mask.count == len(self._at) > 1
        return _both(shown, self._mask.read(numbers if each else 1, window=window) > 0)

    @cached_property
    def _at(self) -> list[tuple[Any, int]]:
        """Page and number there of each band."""
        return [(page, band + 1) for page in self.pages for band in range(page.count)]

    def _each(self, name: str) -> tuple[Any, ...]:
        return tuple(value for page in self.pages for value in getattr(page, name))

    def _take_pages(self, open_page: Callable[[str], Any]) -> None:
        # metadata may claim pages of any file; a first page that is a preview is not among them
        found = [_PAGE.fullmatch(name) for name in self.source.subdatasets]
        numbers = {int(match[1]) for match in found if match and match[2] == self.source.name} - {1}
        if len(numbers) >= MOST:
            raise DecodeError(
                f"holds {len(numbers) + 1:,} pages; accepted: at most {MOST:,}, or pages=first, "
                "which takes one"
            )
        for number in sorted(numbers):
            page = open_page(f"GTIFF_DIR:{number}:{self.source.name}")
            if _alike(self.source, page):
                self.pages.append(page)
            else:
                bands = f"{counted(page.count, 'band')} of {page.dtypes[0]}"
                self.pages_left += (f"page {number} ({page.height} x {page.width} px, {bands})",)
        # what follows a page, and is no page to GDAL, may be its mask
        if len(self.pages) > 1 and MaskFlags.per_dataset in self.source.mask_flag_enums[0]:
            raise DecodeError("holds several pages with masks; accepted: pages=first, or no masks")


def _both(a: NDArray[np.bool_] | None, b: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return b if a is None else a & b


def _alike(first: Any, page: Any) -> bool:
    """Whether a page is a band of the first one's image: of its size, dtype and place."""
    if (page.shape, set(page.dtypes)) != (first.shape, set(first.dtypes)):
        return False
    same = page.crs == first.crs and page.transform.almost_equals(first.transform, 1e-9)
    return same or (page.crs is None and page.transform.is_identity)
