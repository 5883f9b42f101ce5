"""Bytes to pixels, the mask of the measured ones, and a header: JPEG, PNG and TIFF by content.

One GDAL driver, named by the first bytes, from memory: formats that refer to other files (VRT, GTI,
...) never get a chance. What is opened here is read at full resolution only: looking for overviews
makes GDAL open the file that a TIFF's metadata may name as its overview, wherever that is.
"""

import re
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.env import hasenv
from rasterio.errors import NotGeoreferencedWarning
from rasterio.io import MemoryFile

from satray.data.bands import band_names
from satray.data.georeference import World, locate
from satray.data.raster import MASK, PagesKey, Raster
from satray.data.tiff import read_plain
from satray.data.values import (
    Nodata,
    Units,
    change_of,
    convertible,
    filled,
    refuse_empty,
    resample,
    units_of_file,
    valid_values,
)
from satray.errors import DecodeError, MisfitError, counted, listed

if TYPE_CHECKING:
    from satray.storage import Storage, Version

MAX_PIXELS = 64 * 2**20
"""Largest height x width of a tile, in px. A header can promise any size (decompression bomb)."""

MAX_BYTES = 2**30
"""Largest decoded size of a tile, in bytes."""

ACCEPTED = "accepted: JPEG, PNG, TIFF"

# Most tiles of most archives have no georeference; the header says so already.
warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)

_FILE_NAME = re.compile(r"(/vsimem/)?[0-9a-f-]{36}[^ ,:]*[,:] ?")


class Kind(NamedTuple):
    """Tiles of one kind can be trained on together."""

    bands: tuple[str, ...]
    """Band names, in the files' order."""
    dtype: str
    """Stored dtype."""

    def __str__(self) -> str:
        return f"{counted(len(self.bands), 'band')} ({listed(self.bands, 6)}) {self.dtype}"


@dataclass(frozen=True)
class TileHeader:
    """What a tile is, apart from its pixels."""

    height: int
    """Rows, px."""
    width: int
    """Columns, px."""
    bands: tuple[str, ...]
    """Names of the data bands, in the file's order; alpha is not among them."""
    dtype: str
    """NumPy name of the stored dtype."""
    crs: str | None
    """`AUTHORITY:CODE` where it equals that definition, else WKT; None without a place."""
    transform: tuple[float, float, float, float, float, float] | None
    """Affine pixel -> CRS, rasterio's order (a, b, c, d, e, f); None without georeference."""
    nodata: float | None
    """Declared nodata value of the first band; None without."""
    alpha: bool = False
    """Whether a band tagged alpha was left out of `bands`."""
    note: str = ""
    """What to know about its georeference (`georeference.Georeference`)."""
    units: Units = ()
    """What the data bands' numbers mean, where the file states it."""
    pages: str = ""
    """How many bands of how many pages there are, of a TIFF of several."""

    @property
    def kind(self) -> Kind:
        """What it has in common with tiles that it can be trained on together with."""
        return Kind(self.bands, self.dtype)


@dataclass(frozen=True)
class Tile:
    """A decoded tile."""

    pixels: NDArray[np.generic]
    """Data bands (C, H, W), stored dtype."""
    measured: NDArray[np.bool_] | None
    """(C, H, W): which values are measured, by the rule of `values`; None: all."""
    header: TileHeader
    """Shape, bands, dtype and georeference."""


@dataclass(frozen=True)
class PixelSpec:
    """Which pixels a reader wants of every tile, and as what."""

    take: tuple[int, ...]
    """0-based positions among the data bands (`TileHeader.bands`); may repeat."""
    height: int
    """Rows wanted, px; another size is resampled (bilinear, antialiased)."""
    width: int
    """Columns wanted, px."""
    dtype: str
    """The archive's dtype (NumPy name), which files must have, unless both state units."""
    units: Units = ()
    """The archive's, one a band taken; numbers of another become those."""
    stated: Units = ()
    """What the files' are where they state none themselves; default the archive's."""
    named: int = 0
    """How many bands were named; as in `decode`."""
    pages: PagesKey = "bands"
    """Which pages of a TIFF are bands."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of a delivered tile."""
        return len(self.take), self.height, self.width

    @property
    def nbytes(self) -> int:
        """Bytes of a delivered tile's pixels."""
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize


def decode(
    data: bytes,
    *,
    bands: tuple[str, ...] | None = None,
    mask: bytes | None = None,
    world: World | None = None,
    pages: PagesKey = "bands",
) -> Tile:
    """Decode a whole tile, with its header and the mask of its measured values.

    Args:
        data: the whole file.
        bands: names of the file's bands in order. Where they name every band of the file, one
            tagged alpha is data too (Planet's 4-band TIFFs tag their NIR so). Else alpha goes to
            `measured`. Without names they come from the file (`bands.band_names`).
        mask: the `.msk` file that lies beside it, whole.
        world: reads the world file beside it.
        pages: which pages of a TIFF are bands.

    Returns:
        The tile.

    Raises:
        MisfitError: another number of bands than named.
        DecodeError: empty, not an image, cut short, too large, complex, a palette, a mask of
            another size.
    """
    # libpng reads PNG strictly; GDAL's own fast reader takes what memory held for missing rows
    with rasterio.Env(GDAL_PNG_WHOLE_IMAGE_OPTIM="NO"), _opened(data, mask, pages) as raster:
        header = _header(raster, bands, world)
        numbers, alpha = raster.data_bands(len(bands or ()))
        pixels, valid = _read(raster, numbers, alpha, tuple(range(len(numbers))))
    return Tile(pixels, valid, header)


def read_header(
    data: bytes,
    *,
    bands: tuple[str, ...] | None = None,
    world: World | None = None,
    pages: PagesKey = "bands",
) -> TileHeader:
    """The header of a tile whose pixels are not wanted; arguments and errors as of `decode`."""
    with _opened(data, None, pages) as raster:
        return _header(raster, bands, world)


def read_pixels(data: bytes, spec: PixelSpec, mask: bytes | None = None) -> NDArray[np.generic]:
    """Read chosen bands in one shape and dtype: the hot path of training and scoring.

    Computes no header and hands out no mask; what is no measurement is filled as in `fitted`.

    Args:
        data: the whole file.
        spec: what is wanted of it.
        mask: the `.msk` file that lies beside it, whole.

    Returns:
        Pixels (len(take), height, width), `dtype`, C-contiguous.

    Raises:
        DecodeError: as `decode`; also another dtype or fewer bands than the archive's, or no
            pixel that is measured in all bands taken.
    """
    take, plain = spec.take, read_plain(data, named=spec.named) if mask is None else None
    if plain is not None:
        all_CHW, nodata = plain
        count = len(all_CHW)
        _check_take(take, count)
        x_CHW = all_CHW if take == tuple(range(count)) else all_CHW[list(take)]

        def others() -> tuple[NDArray[Any], Nodata]:
            rest = [i for i in range(count) if i not in take]
            return all_CHW[rest], (nodata,) * len(rest)

        valid_CHW = valid_values(x_CHW, (nodata,) * len(take), None, others)
        return fitted(x_CHW, valid_CHW, spec, spec.stated)
    if not hasenv():
        # one GDAL environment a thread, kept: setting it up costs a quarter of a small tile
        rasterio.Env().__enter__()
    # PNG by GDAL's own reader, in half of libpng's time. Where rows are missing though all chunks
    # are whole it takes what memory held: no cut file is so, and `prepare` sets such a one aside.
    with _opened(data, mask, spec.pages) as raster:
        numbers, alpha = raster.data_bands(spec.named)
        _check_take(take, len(numbers))
        x_CHW, valid_CHW = _read(raster, numbers, alpha, take)
        found = units_of_file(raster.units([numbers[i] for i in take]), spec.stated)
    return fitted(x_CHW, valid_CHW, spec, found)


def fitted(
    x_CHW: NDArray[Any], valid_CHW: NDArray[np.bool_] | None, spec: PixelSpec, found: Units
) -> NDArray[np.generic]:
    """Bring pixels to one unit and shape, as training and scoring see them.

    What is not measured becomes its band's mean over what is, before anything is resampled: the
    network never sees a sentinel, and one pixel does not spoil a batch.

    Args:
        x_CHW: stored values of the bands taken.
        valid_CHW: which are measured; None: all.
        spec: what is wanted.
        found: what the values are in.

    Returns:
        Pixels (C, height, width), C-contiguous and writeable.

    Raises:
        DecodeError: another dtype, or no pixel that is measured in every band.
    """
    if x_CHW.dtype != spec.dtype and not convertible(found, spec.units, spec.dtype):
        raise DecodeError(f"dtype is {x_CHW.dtype}, the archive's is {spec.dtype}")
    refuse_empty(valid_CHW)
    change = change_of(found, spec.units, spec.dtype)
    if change is not None:
        x_CHW = change(x_CHW, spec.dtype)
    x_CHW = filled(x_CHW, valid_CHW)
    if x_CHW.shape[1:] != (spec.height, spec.width):
        x_CHW = resample(x_CHW, spec.height, spec.width)
    return np.require(x_CHW, requirements=["C", "W"])


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
    places = [i for i, beside in enumerate(masked) if beside]
    names = [uris[i] + MASK for i in places]
    masks = {places[n]: mask for n, mask in storage.read_many(names, concurrency)}
    for i, data in storage.read_many(uris, concurrency, versions):
        mask = masks.pop(i, None)
        if isinstance(mask, Exception):
            yield i, data if isinstance(data, Exception) else mask, None
        else:
            yield i, data, mask


def _read(
    raster: Raster, numbers: list[int], alpha: int | None, take: tuple[int, ...]
) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """Data bands taken, and which of their values are measured."""
    taken = [numbers[i] for i in take]
    x_CHW, shown = raster.read(taken, alpha)

    def others() -> tuple[NDArray[Any], Nodata]:
        rest = [number for number in numbers if number not in taken]
        if not rest:
            return x_CHW[:0], ()
        return raster.read(rest)[0], [raster.nodata[number - 1] for number in rest]

    nodata = [raster.nodata[number - 1] for number in taken]
    return x_CHW, valid_values(x_CHW, nodata, shown, others)


def _check_take(take: tuple[int, ...], count: int) -> None:
    if max(take) >= count:
        raise DecodeError(f"has {count} bands, band {max(take) + 1} of the archive is missing")


def _header(raster: Raster, bands: tuple[str, ...] | None, world: World | None) -> TileHeader:
    numbers, _ = raster.data_bands(len(bands or ()))
    if bands is not None and len(bands) != len(numbers):
        there = raster.summary() if len(bands) != raster.count else f"{len(numbers)} bands"
        raise MisfitError(f"has {there}, bands=[...] names {len(bands)}")
    if not numbers:
        raise DecodeError("holds no band but alpha")
    texts = [raster.descriptions[number - 1] for number in numbers]
    colours = [raster.colours[number - 1] for number in numbers]
    place = locate(raster.source, world)
    nodata = raster.nodata[numbers[0] - 1]
    return TileHeader(
        height=raster.height,
        width=raster.width,
        bands=bands or band_names(texts, colours, len(numbers)),
        dtype=raster.dtype,
        crs=place.crs,
        transform=place.transform,
        nodata=None if nodata is None else float(nodata),
        alpha=len(numbers) < raster.count,
        note=place.note,
        units=raster.units(numbers),
        pages=raster.summary() if len(raster.pages) > 1 or raster.pages_left else "",
    )


@contextmanager
def _opened(data: bytes, mask: bytes | None, pages: PagesKey) -> Iterator[Raster]:
    """Open a tile, and the `.msk` beside it; within the block GDAL's errors are DecodeError."""
    with ExitStack() as stack:
        source = stack.enter_context(_gdal(data))
        raster = Raster(source, _page, pages)
        stack.callback(raster.close)
        _check_size(raster)
        if mask is not None:
            try:
                beside = Raster(stack.enter_context(_gdal(mask)), _page, "first")
            except DecodeError as error:
                raise DecodeError(f"its {MASK}: {error}") from error
            raster.take_mask(beside)
        yield raster


def _page(name: str) -> Any:
    return rasterio.open(name, driver="GTiff", sharing=False)


@contextmanager
def _gdal(data: bytes) -> Iterator[Any]:
    driver = _driver(data)
    if driver == "PNG":
        _check_png(data)
    try:
        with MemoryFile(data) as memory, memory.open(driver=driver, sharing=False) as source:
            yield source
    except Exception as error:
        # some of GDAL's errors come as they are, and share no public base
        known = isinstance(error, (ValueError, MemoryError))
        if not known and not type(error).__module__.startswith("rasterio."):
            raise
        raise DecodeError(
            f"{driver.removeprefix('G').upper()} cannot be read: {_reason(error)}"
        ) from error


def _driver(data: bytes) -> str:
    if not data:
        raise DecodeError("empty: 0 bytes")
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


def _check_size(raster: Raster) -> None:
    pixels = raster.height * raster.width
    size = pixels * raster.count * np.dtype(raster.dtype).itemsize
    if pixels > MAX_PIXELS or size > MAX_BYTES:
        raise DecodeError(
            f"too large for a tile: {raster.height} x {raster.width} px, {raster.count} bands "
            f"(at most {MAX_PIXELS // 2**20} Mpx and {MAX_BYTES // 2**20} MiB)"
        )


def _reason(error: BaseException) -> str:
    """The innermost message, which is GDAL's own, in one line and without its made-up file name."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(str(error).split()) or type(error).__name__
    if text.startswith("'/vsimem/"):
        return "damaged, or not what its first bytes say"
    return _FILE_NAME.sub("", text).split(" (this error can be turned", 1)[0]
