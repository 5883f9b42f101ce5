"""Opening the rasters of strangers: four drivers, no neighbours, within bounds.

GDAL looks at no file beside a raster (`.ovr`, `.aux.xml`, world files; a `.msk` is opened by name,
with the checks of any other), and nothing here is ever read at less than full resolution: GDAL
would open what a TIFF names as its overview, wherever that is.
"""

import contextlib
import os
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import rasterio
from rasterio.errors import RasterioError
from rasterio.session import DummySession

from satray.config.base import StorageOptions
from satray.data.raster import DTYPES, PagesKey, Raster
from satray.errors import DecodeError
from satray.storage import Storage, names

DRIVERS = ("GTiff", "JP2OpenJPEG", "PNG", "JPEG")
"""GDAL's drivers that are tried; the content decides."""

MAX_PIXELS = 2**40
"""Most px of a scene."""
MAX_BLOCK = 512 << 20
"""Most bytes that must be decoded to get at one px."""
ALWAYS = 64 << 30
"""Decoded bytes up to which a file may be as small as it likes."""
MAX_RATIO = 5000
"""Decoded bytes a stored one, beyond `ALWAYS`."""

CACHE = 256 << 20
"""Bytes of decoded blocks that GDAL keeps in a process."""

_OPTIONS = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_CACHEMAX": CACHE,
    # libpng reads PNG strictly; GDAL's own fast reader takes what memory held for missing rows
    "GDAL_PNG_WHOLE_IMAGE_OPTIM": "NO",
    "GDAL_ERROR_ON_LIBJPEG_WARNING": "TRUE",  # else a JPEG cut short ends in gray
    "GDAL_HTTP_PATH_VERBATIM": "YES",  # `a/../b` is a key like any other
    "CPL_VSIL_CURL_NON_CACHED": "/vsis3/:/vsicurl/",  # a scene may be overwritten
    "GDAL_HTTP_MAX_RETRY": "5",
    "GDAL_HTTP_RETRY_DELAY": "0.5",
}
_kept = threading.local()


def schemes(uris: Iterable[str]) -> frozenset[str]:
    """The schemes of some rasters; empty text for this disk.

    Raises:
        DecodeError: one that windows are not read from.
    """
    found = frozenset(map(names.scheme, uris))
    wrong = sorted(found - {"", "s3", "http", "https"})
    if wrong:
        raise DecodeError(
            f"windows of {wrong[0]}:// are not read; accepted: local paths, s3://, http(s)://"
        )
    return found


@contextlib.contextmanager
def environment(found: frozenset[str], storage: Storage) -> Iterator[None]:
    """GDAL as set for reading; enter it anew for each read, since credentials run out."""
    with contextlib.ExitStack() as stack:
        if "s3" in found:
            stack.enter_context(_s3(storage))
        # without a session of its own, or each entry would set up boto3 for keys in variables
        stack.enter_context(rasterio.Env(DummySession(), **_OPTIONS))
        yield


def open_raster(uri: str, size: int, pages: PagesKey = "bands") -> Raster:
    """Open a raster, and check what it declares before any of it is read.

    Args:
        uri: absolute path or URI.
        size: bytes of the scene's files.
        pages: which pages of a TIFF are bands.

    Raises:
        DecodeError: not one of the four formats, damaged, complex, or too large to be true.
    """
    for driver in DRIVERS:
        try:
            source = rasterio.open(_gdal_name(uri), driver=driver, sharing=False)
            break
        except (RasterioError, ValueError) as error:  # ValueError: names that are no UTF-8
            if "not recognized" not in str(error):
                raise DecodeError(f"cannot be opened: {reason(error)}") from error
    else:
        raise DecodeError("not an image that is read here; accepted: TIFF, JPEG 2000, PNG, JPEG")
    with contextlib.ExitStack() as stack:
        stack.callback(source.close)
        _check(source, source.count, size)
        raster = Raster(source, _page, pages)
        stack.callback(raster.close)
        _check(source, raster.count, size)
        stack.pop_all()  # open from here on, until the scene is closed
    return raster


def _page(name: str) -> Any:
    """Open a page, which GDAL would look for neighbours of: world files, RPCs, a provider's XML."""
    alone = {"CPL_VSIL_CURL_ALLOWED_FILENAME": name.split(":", 2)[2]}
    with rasterio.Env(DummySession(), **alone):
        return rasterio.open(name, driver="GTiff", sharing=False, GEOREF_SOURCES="INTERNAL")


def reason(error: BaseException) -> str:
    """The innermost message, which is GDAL's own, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split()) or type(error).__name__


def _gdal_name(uri: str) -> str:
    scheme = names.scheme(uri)
    if scheme == "s3":  # rasterio's own spelling loses what follows a `#`
        return f"/vsis3/{uri.removeprefix('s3://')}"
    return f"/vsicurl/{uri}" if scheme else uri


def _s3(storage: Storage) -> contextlib.AbstractContextManager[Any]:
    """One environment a thread: boto3 takes its time to resolve, and none may be shared."""
    key: tuple[int, StorageOptions] = (os.getpid(), storage.options)
    if getattr(_kept, "key", None) != key:
        _kept.key, _kept.environment = key, storage.gdal_env()
    environment: contextlib.AbstractContextManager[Any] = _kept.environment
    return environment


def _check(source: Any, count: int, size: int) -> None:
    height, width = source.height, source.width
    if count == 0:
        raise DecodeError("holds no bands")
    dtypes = sorted(set(source.dtypes))
    if len(dtypes) > 1 or dtypes[0] not in DTYPES:
        raise DecodeError(f"dtype {', '.join(dtypes)}; accepted: one integer or float dtype")
    itemsize = np.dtype(dtypes[0]).itemsize
    declared = f"declares {height:,} x {width:,} px, {count} bands of {dtypes[0]}"
    if height * width > MAX_PIXELS:
        raise DecodeError(f"{declared}; at most 2^40 px")
    raw = height * width * count * itemsize
    if raw > max(ALWAYS, MAX_RATIO * size):
        raise DecodeError(f"{declared}, {raw / 2**30:,.0f} GiB, in a file of {size:,} bytes")
    tall, wide = source.block_shapes[0]
    together = count if str(getattr(source.interleaving, "name", "")) == "pixel" else 1
    block = min(tall, height) * min(wide, width) * together * itemsize
    if block > MAX_BLOCK:
        raise DecodeError(
            f"{declared}, in blocks of {tall:,} x {wide:,} px that must be decoded whole "
            f"({block / 2**20:,.0f} MiB); at most {MAX_BLOCK >> 20} MiB (write it tiled)"
        )
