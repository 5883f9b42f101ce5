"""Pages of a TIFF: what array writers make of (bands, height, width) is one image, a band a page.

Overviews and masks are no pages; GDAL tells them apart. All pages are of the file itself.
"""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import chain
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import RasterioError

from satray.errors import DecodeError

PagesKey = Literal["bands", "first"]
"""bands: pages of the first one's size and dtype are bands, in order; first: only that one is."""

MOST = 1024
"""Pages of a file that are looked at."""

_STACK = re.compile(r"ImageJ=.*?\nimages=(\d+)\n", re.DOTALL)
_SHAPED = re.compile(r'\{"shape": \[([\d, ]+)\].*"truncated": true')
_PAGE = re.compile(r"GTIFF_DIR:(\d+):(.*)", re.DOTALL)
_LABEL = re.compile(r"[\w .()/+-]{1,40}")
_BY_BAND = frozenset(
    ("dtypes", "colorinterp", "nodatavals", "block_shapes", "scales", "offsets")
) | {"units"}


class Pages:
    """A TIFF of several pages: rasterio's dataset, as far as it is used here, over those taken.

    Whatever is not of single bands (size, georeference, tags) is the first page's.
    """

    def __init__(
        self, taken: list[Any], left_out: tuple[str, ...], total: int, masks: Sequence[Any] = ()
    ) -> None:
        """Join open pages.

        Args:
            taken: rasterio's datasets, the first page's first.
            left_out: what the pages that are no bands are, for a person.
            total: how many pages the file has.
            masks: open masks of pages after the first.
        """
        self.taken = taken
        self.left_out = left_out
        self.total = total
        self._masks = masks
        self._at = [(page, band + 1) for page in taken for band in range(page.count)]

    def __getattr__(self, name: str) -> Any:
        if name in _BY_BAND:
            return tuple(chain.from_iterable(getattr(page, name) for page in self.taken))
        return getattr(self.taken[0], name)

    @property
    def count(self) -> int:
        """Bands of all pages taken."""
        return len(self._at)

    @property
    def descriptions(self) -> tuple[str | None, ...]:
        """The bands' own; else, where each page has one band and a label of its own, those."""
        own = tuple(chain.from_iterable(page.descriptions for page in self.taken))
        labels = [str(p.tags().get("TIFFTAG_IMAGEDESCRIPTION", "")).strip() for p in self.taken]
        # several writers put JSON or XML there
        if any(own) or len(own) > len(labels) or not all(map(_LABEL.fullmatch, labels)):
            return own
        return tuple(labels)

    def read(self, indexes: Any = None, **more: Any) -> NDArray[Any]:
        """As rasterio's: bands counted from 1, one or a list."""
        if isinstance(indexes, int):
            page, band = self._at[indexes - 1]
            found: NDArray[Any] = page.read(band, **more)
            return found
        numbers = range(1, self.count + 1) if indexes is None else indexes
        return np.stack([self.read(number, **more) for number in numbers])

    @property
    def mask_flag_enums(self) -> tuple[Any, ...]:
        """The first page's; of another GDAL would look beside the file, and at no mask in it."""
        return (self.taken[0].mask_flag_enums[0],) * self.count

    def read_masks(self, index: int, **more: Any) -> NDArray[np.uint8]:
        """As rasterio's, of one band: where the masks of all pages show."""
        first = self.taken[0]
        found: NDArray[np.uint8] = first.read_masks(min(index, first.count), **more)
        for mask in self._masks:
            found = np.minimum(found, mask.read(1, **more))
        return found

    def tags(self, bidx: int = 0, ns: str | None = None) -> dict[str, str]:
        """As rasterio's: the first page's, or a band's."""
        page, band = self._at[bidx - 1] if bidx else (self.taken[0], 0)
        found: dict[str, str] = page.tags(band, ns=ns)
        return found

    def close(self) -> None:
        """Close all pages."""
        for page in (*self.taken, *self._masks):
            page.close()


def with_pages(
    source: Any, open_page: Callable[[str], Any], pages: PagesKey
) -> tuple[Any, ExitStack]:
    """The dataset itself where it has one page, else `Pages` of it.

    Args:
        source: an open dataset, whose closing stays the caller's.
        open_page: opens another name of the same file.
        pages: which pages are bands.

    Returns:
        What to read from, and what closes the pages opened here.

    Raises:
        DecodeError: more pages than `MOST`.
    """
    stack = ExitStack()
    numbers = list(_others(source)) if source.driver == "GTiff" else []
    if not numbers:
        hidden = _hidden(source) if pages == "bands" else 0
        if hidden == 0:
            return source, stack
        told = f"{hidden} more images that only its description names"
        return Pages([source], (told,), hidden + 1), stack
    total = len(numbers) + 1
    if total > MOST and pages == "bands":
        raise DecodeError(
            f"holds {total:,} pages; accepted: at most {MOST:,}, or pages=first, which takes one"
        )
    taken, left_out, masks = [source], [], []
    masked = MaskFlags.per_dataset in source.mask_flag_enums[0]
    with stack:
        for number in numbers if pages == "bands" else []:
            page = open_page(f"GTIFF_DIR:{number}:{source.name}")
            stack.callback(page.close)
            why = _unlike(source, page)
            if why is None:
                taken.append(page)
                if masked and number + 1 not in numbers:
                    masks += _masks(page, open_page, f"GTIFF_DIR:{number + 1}:{source.name}", stack)
            else:
                what = f"{page.height} x {page.width} px, {_bands(page)} of {page.dtypes[0]}"
                left_out.append(f"page {number} ({what}{why})")
        return Pages(taken, tuple(left_out), total, masks), stack.pop_all()


def _masks(page: Any, open_page: Callable[[str], Any], name: str, stack: ExitStack) -> list[Any]:
    """The mask of a page after the first: what follows it, is of its size, and no page to GDAL."""
    try:
        mask = open_page(name)
    except RasterioError:  # no such directory
        return []
    stack.callback(mask.close)
    return [mask] if (mask.shape, mask.count) == (page.shape, 1) else []


def pages_told(source: Any) -> str:
    """How many bands there are, and where from: `4 bands (4 pages of 1)`."""
    if not isinstance(source, Pages):
        return _bands(source)
    used, other = len(source.taken), source.total - len(source.taken)
    each = {page.count for page in source.taken}
    if used > 1:
        of = f" of {each.pop()}" if len(each) == 1 else ""
        told = f"{used} pages{of}"
    else:
        told = "the first page's"
    return f"{_bands(source)} ({told}" + (f"; {other} more left out)" if other else ")")


def pages_used(source: Any) -> int:
    """How many pages are taken."""
    return len(source.taken) if isinstance(source, Pages) else 1


def pages_left(source: Any) -> tuple[str, ...]:
    """The pages that are not taken because they are unlike the first."""
    return source.left_out if isinstance(source, Pages) else ()


def pictures_left(data: bytes) -> tuple[str, ...]:
    """Further pictures of a JPEG or PNG, which are not read; most are previews."""
    head = data[: 1 << 16]
    if head.startswith(b"\xff\xd8") and b"MPF\0" in head:
        return ("further pictures (MPF)",)
    return ("further frames (APNG)",) if head.startswith(b"\x89PNG") and b"acTL" in head else ()


def _others(source: Any) -> Iterator[int]:
    """Numbers of the pages after the first; metadata may claim pages of any file: no pages."""
    found = [_PAGE.fullmatch(name) for name in source.subdatasets]
    numbers = sorted({int(match[1]) for match in found if match and match[2] == source.name})
    # a first page that is marked as a preview is not among them
    yield from (number for number in numbers if number > 1)


def _hidden(source: Any) -> int:
    """Images after the first without a directory, as ImageJ and tifffile may write stacks."""
    text = source.tags().get("TIFFTAG_IMAGEDESCRIPTION", "") if source.driver == "GTiff" else ""
    if stack := _STACK.match(text):
        return int(stack[1]) - 1
    if shaped := _SHAPED.match(text):
        lengths = [int(length) for length in shaped[1].split(",")]
        size = int(source.count * source.height * source.width)
        return max(math.prod(lengths) // size - 1, 0)
    return 0


def _unlike(first: Any, page: Any) -> str | None:
    """Why a page is no band of the first one's image; None where it is, empty where it shows."""
    alike = (page.shape, set(page.dtypes)) == (first.shape, set(first.dtypes))
    if not alike:
        return ""
    if any(_coloured(some) for some in (first, page)):
        return ", colours of a palette or of another space"
    placed = page.crs is not None or not page.transform.is_identity
    here = (first.crs, first.transform)
    same = page.crs == first.crs and page.transform.almost_equals(here[1], 1e-9)
    return ", of another place" if placed and not same else None


def _coloured(source: Any) -> bool:
    converted = source.tags(ns="IMAGE_STRUCTURE").get("SOURCE_COLOR_SPACE")
    return bool(converted) or ColorInterp.palette in source.colorinterp


def _bands(source: Any) -> str:
    return f"{source.count} band{'s' * (source.count > 1)}"
