"""Opening what users bring: one GDAL driver, named by the first bytes, from memory.

Formats that refer to other files (VRT, GTI, ...) never get a chance. Read what is opened here at
full resolution only: looking for overviews makes GDAL open the file that a TIFF's metadata may
name as its overview, wherever that is.
"""

import re
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import MemoryFile

from satray.data.pages import PagesKey, with_pages
from satray.errors import DecodeError

if TYPE_CHECKING:
    from satray.storage import Storage, Version

MAX_PIXELS = 64 * 2**20
"""Largest height x width of a tile, in px. A header can promise any size (decompression bomb)."""

MAX_BYTES = 2**30
"""Largest decoded size of a tile, in bytes."""

DTYPES = (
    *("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
    *("float16", "float32", "float64"),
)
"""Stored dtypes that are read; complex ones are not."""

ACCEPTED = "accepted: JPEG, PNG, TIFF"

CONTAINERS = (b"\x89HDF\r\n\x1a\n", b"\x0e\x03\x13\x01", b"CDF\x01", b"CDF\x02", b"CDF\x05")
"""First bytes of HDF 5, HDF 4 and NetCDF."""

MASK = ".msk"
"""What GDAL appends to a raster's name for a mask that lies beside it."""

# Most tiles of most archives have no georeference; the header says so already.
warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)


def read_files(
    storage: "Storage",
    uris: Sequence[str],
    masked: Sequence[bool | None],
    versions: "Sequence[Version | None] | None" = None,
    concurrency: int = 32,
) -> Iterator[tuple[int, bytes | Exception, bytes | None]]:
    """Read tiles, and the masks beside those that have one, as `Storage.read_many` does.

    Args:
        storage: where they are.
        uris: of the tiles.
        masked: whether `NAME.msk` lies beside each; null of an index that does not know: no.
        versions: what each tile must be; None: anything.
        concurrency: requests under way at once.

    Yields:
        position, the tile or why it or its mask cannot be read, the mask.
    """
    names = [(i, uri, False) for i, uri in enumerate(uris)]
    names += [(i, uri + MASK, True) for i, uri in enumerate(uris) if masked[i]]
    names.sort(key=lambda name: name[0])  # the two of a tile come soon after one another
    halves: dict[int, dict[bool, bytes | Exception]] = {}
    expected = [None if is_mask or not versions else versions[i] for i, _, is_mask in names]
    for place, data in storage.read_many([uri for _, uri, _ in names], concurrency, expected):
        i, _, is_mask = names[place]
        if not masked[i]:
            yield i, data, None
            continue
        both = halves.setdefault(i, {})
        both[is_mask] = data
        if len(both) == 2:
            tile, mask = halves.pop(i)[False], both[True]
            if isinstance(mask, bytes):
                yield i, tile, mask
            else:
                yield i, tile if isinstance(tile, Exception) else mask, None


@contextmanager
def opened(data: bytes, pages: PagesKey = "bands") -> Iterator[Any]:
    """Open with the driver that the content names; within the block GDAL's errors are DecodeError.

    Args:
        data: the whole file.
        pages: which pages of a TIFF are bands.

    Raises:
        DecodeError: empty, not JPEG, PNG or TIFF, a PNG cut short, too large, complex.
    """
    driver = _driver(data)
    if driver == "PNG":
        _check_png(data)
    try:
        with MemoryFile(data) as memory, memory.open(driver=driver, sharing=False) as first:
            _check_size(first)
            source, others = with_pages(first, _page, pages)
            with others:
                _check_size(source)
                yield source
    except (RasterioError, ValueError, MemoryError) as error:
        raise DecodeError(
            f"{driver.removeprefix('G').upper()} cannot be read: {_reason(error)}"
        ) from error


def _page(name: str) -> Any:
    return rasterio.open(name, driver="GTiff", sharing=False)


def _driver(data: bytes) -> str:
    if not data:
        raise DecodeError("empty: 0 bytes")
    if data.startswith(CONTAINERS):
        raise DecodeError(f"HDF or NetCDF, whose datasets are not read; {ACCEPTED}")
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "GTiff"
    raise DecodeError(f"not an image that is read here (begins {data[:12]!r}); {ACCEPTED}")


def _check_png(data: bytes) -> None:
    """Walk the chunks: GDAL fills what is missing of a PNG with whatever memory held."""
    at = 8
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        end = at + 8 + length
        if end + 4 > len(data):
            break
        if zlib.crc32(memoryview(data)[at + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            raise DecodeError(f"PNG damaged: wrong checksum at byte {at}")
        if data[at + 4 : at + 8] == b"IEND":
            return
        at = end + 4
    raise DecodeError(f"PNG cut short: no end after {len(data)} bytes")


def _check_size(source: Any) -> None:
    height, width, count = source.height, source.width, source.count
    if count == 0:
        raise DecodeError("holds no bands")
    dtype = source.dtypes[0]
    if len(set(source.dtypes)) > 1 or dtype not in DTYPES:
        raise DecodeError(
            f"dtype {', '.join(sorted(set(source.dtypes)))}; accepted: one integer or float dtype"
        )
    size = height * width * count * np.dtype(dtype).itemsize
    if height * width > MAX_PIXELS or size > MAX_BYTES:
        raise DecodeError(
            f"too large for a tile: {height} x {width} px, {count} bands "
            f"(at most {MAX_PIXELS // 2**20} Mpx and {MAX_BYTES // 2**20} MiB)"
        )


_FILE_NAME = re.compile(r"(/vsimem/)?[0-9a-f-]{36}[^ ,:]*[,:] ?")


def _reason(error: BaseException) -> str:
    """The innermost message, which is GDAL's own, in one line and without its made-up file name."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(str(error).split()) or type(error).__name__
    if text.startswith("'/vsimem/"):
        return "damaged, or not what its first bytes say"
    text = _FILE_NAME.sub("", text)
    return text.split(" (this error can be turned", 1)[0]
