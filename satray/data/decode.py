"""Bytes to pixels, the mask of the measured ones, and a header: JPEG, PNG and TIFF by content."""

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.env import hasenv

from satray.data.bands import band_names
from satray.data.georeference import WorldFile, georeference
from satray.data.layout import (
    coloured,
    colours_of,
    data_bands,
    gain_of,
    has_palette,
    is_cmyk,
    shown_by_masks,
)
from satray.data.nodata import Nodata, filled, measured, refuse_empty, together
from satray.data.pages import PagesKey, pages_left, pages_told, pages_used, pictures_left
from satray.data.resample import resample
from satray.data.source import opened
from satray.data.tiff import read_plain
from satray.data.units import Units, change_of, convertible, file_units, units_of_file
from satray.errors import DecodeError


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
    pages: int = 1
    """Pages of a TIFF whose bands are among `bands`."""
    pages_left: tuple[str, ...] = ()
    """Pages, or pictures of a JPEG or PNG, that are not: what each is."""


@dataclass(frozen=True)
class Tile:
    """A decoded tile."""

    pixels: NDArray[np.generic]
    """Data bands (C, H, W), stored dtype."""
    measured: NDArray[np.bool_] | None
    """(C, H, W): which values are measured, by the rule of `nodata`; None: all."""
    header: TileHeader
    """Shape, bands, dtype and georeference."""

    @property
    def valid(self) -> NDArray[np.bool_]:
        """(H, W): where all bands are measured."""
        if self.measured is None:
            return np.ones(self.pixels.shape[1:], bool)
        return np.asarray(self.measured.all(axis=0))


def decode(
    data: bytes,
    *,
    bands: tuple[str, ...] | None = None,
    mask: bytes | None = None,
    world: WorldFile | None = None,
    pages: PagesKey = "bands",
) -> Tile:
    """Decode a whole tile, with its header and the mask of its measured values.

    Args:
        data: the whole file.
        bands: names of the file's bands in order. Where they name every band of the file, one
            tagged alpha is data too (Planet's 4-band TIFFs tag their NIR so). Else alpha goes to
            `measured`. Without names they come from the file (`bands.band_names`).
        mask: the `.msk` file that lies beside it, whole.
        world: the world file beside it.
        pages: which pages of a TIFF are bands.

    Returns:
        The tile; palette and CMYK files as red, green, blue in uint8, 1-, 2- and 4-bit gray PNG
        scaled to 0..255.

    Raises:
        DecodeError: empty, not an image, cut short, too large, complex, other bands than named,
            a mask of another size.
    """
    # libpng reads PNG strictly; GDAL's own fast reader takes what memory held for missing rows
    with rasterio.Env(GDAL_PNG_WHOLE_IMAGE_OPTIM="NO"), opened(data, pages) as source:
        header = _header(source, has_palette(source), bands, world, pictures_left(data))
        pixels, valid = _read(source, None, mask, named=len(bands or ()))
    return Tile(pixels, valid, header)


def read_pixels(
    data: bytes,
    take: tuple[int, ...],
    height: int,
    width: int,
    dtype: str,
    *,
    named: int = 0,
    mask: bytes | None = None,
    units: Units = (),
    stated: Units = (),
    pages: PagesKey = "bands",
) -> NDArray[np.generic]:
    """Read chosen bands in one shape and dtype: the hot path of training and scoring.

    Computes no header and hands out no mask; what is no measurement is filled as in `fitted`.

    Args:
        data: the whole file.
        take: 0-based positions among the data bands (`TileHeader.bands`); may repeat.
        height: rows wanted, px; another size is resampled (bilinear, antialiased).
        width: columns wanted, px.
        dtype: the archive's dtype, which the file must have, unless both state units.
        named: how many bands were named; as in `decode`.
        mask: the `.msk` file that lies beside it, whole.
        units: the archive's, one a band taken; numbers of another become those.
        stated: what the file's are where it states none itself; default the archive's.
        pages: which pages of a TIFF are bands.

    Returns:
        Pixels (len(take), height, width), `dtype`, C-contiguous.

    Raises:
        DecodeError: as `decode`; also another dtype or fewer bands than the archive's, or no
            pixel that is measured in all bands taken.
    """
    plain = read_plain(data, named=named) if mask is None else None
    found = stated
    if plain is not None:
        x_CHW, nodata = plain
        _check_take(take, len(x_CHW))
        x_CHW, valid_CHW = _taken(x_CHW, (nodata,) * len(x_CHW), None, take)
    else:
        if not hasenv():
            # one GDAL environment a thread, kept: setting it up costs a quarter of a small tile
            rasterio.Env().__enter__()
        with opened(data, pages) as source:
            x_CHW, valid_CHW = _read(source, take, mask, named=named)
            if own := _units(source, named=named):
                found = units_of_file([own[i] for i in take], stated)
    return fitted(x_CHW, valid_CHW, height, width, dtype, units, found)


def fitted(
    x_CHW: NDArray[Any],
    valid_CHW: NDArray[np.bool_] | None,
    height: int,
    width: int,
    dtype: str,
    units: Units = (),
    found: Units = (),
) -> NDArray[np.generic]:
    """Bring pixels to one unit and shape, as training and scoring see them.

    What is not measured becomes its band's mean over what is, before anything is resampled: the
    network never sees a sentinel, and one pixel does not spoil a batch.

    Args:
        x_CHW: stored values.
        valid_CHW: which are measured; None: all.
        height: rows wanted, px.
        width: columns wanted, px.
        dtype: that they must have, unless both sides state units.
        units: the archive's, one a band.
        found: what the values are in.

    Returns:
        Pixels (C, height, width), C-contiguous and writeable.

    Raises:
        DecodeError: another dtype, or no pixel that is measured in every band.
    """
    if x_CHW.dtype != dtype and not convertible(found, units, dtype):
        raise DecodeError(f"dtype is {x_CHW.dtype}, the archive's is {dtype}")
    refuse_empty(valid_CHW)
    change = change_of(found, units, dtype)
    if change is not None:
        x_CHW = change(x_CHW, dtype)
    x_CHW = filled(x_CHW, valid_CHW)
    if x_CHW.shape[1:] != (height, width):
        x_CHW = resample(x_CHW, height, width)
    x_CHW = np.ascontiguousarray(x_CHW)
    return x_CHW if x_CHW.flags.writeable else x_CHW.copy()


def _read(
    source: Any, take: tuple[int, ...] | None, mask: bytes | None, *, named: int
) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """Data bands, all or those taken, and which values are measured."""
    if mask is None:
        return _read_masked(source, take, None, named=named)
    with ExitStack() as stack:
        try:
            sidecar = stack.enter_context(opened(mask))
        except DecodeError as error:
            raise DecodeError(f"its .msk: {error}") from error
        return _read_masked(source, take, sidecar, named=named)


def _read_masked(
    source: Any, take: tuple[int, ...] | None, sidecar: Any, *, named: int
) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    if has_palette(source):
        _check_take(take or (0,), 3)
        index_HW = source.read(1)
        x_CHW, shown = coloured(index_HW, colours_of(source), source.nodata)
        own = shown_by_masks(source, [1], sidecar)
        return _taken(x_CHW, (None,) * 3, shown if own is None else shown & own, take)
    numbers, alpha = data_bands(source, named=named)
    if take is not None:
        _check_take(take, len(numbers))
    dtype = np.dtype(source.dtypes[0])
    if take is not None and not any(together(dtype, v) for v in source.nodatavals):
        numbers, take = [numbers[i] for i in take], None
    stored_CHW = source.read(numbers if alpha is None else [*numbers, alpha])
    x_CHW, shown_HW = stored_CHW[: len(numbers)], None
    if alpha is not None:
        shown_HW = stored_CHW[-1] > 0
    own = shown_by_masks(source, numbers, sidecar)
    if own is not None:
        shown_HW = own if shown_HW is None else own & shown_HW
    nodata = [source.nodatavals[number - 1] for number in numbers]
    x_CHW, valid_CHW = _taken(x_CHW, nodata, shown_HW, take)
    gain = gain_of(source)
    return x_CHW if gain == 1 else x_CHW * np.uint8(gain), valid_CHW


def _taken(
    x_CHW: NDArray[Any],
    nodata: Nodata,
    shown: NDArray[np.bool_] | None,
    take: tuple[int, ...] | None,
) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """The bands taken and which of their values are measured; all bands have their say."""
    if take is None or take == tuple(range(len(x_CHW))):
        return x_CHW, measured(x_CHW, nodata, shown)
    if any(together(x_CHW.dtype, value) for value in nodata):
        valid_CHW = measured(x_CHW, nodata, shown)
        return x_CHW[list(take)], None if valid_CHW is None else valid_CHW[list(take)]
    if shown is not None and shown.ndim == 3:
        shown = shown[list(take)]
    x_CHW = x_CHW[list(take)]
    return x_CHW, measured(x_CHW, [nodata[i] for i in take], shown)


def _check_take(take: tuple[int, ...], count: int) -> None:
    if max(take) >= count:
        raise DecodeError(f"has {count} bands, band {max(take) + 1} of the archive is missing")


def _units(source: Any, *, named: int) -> Units:
    """What the data bands' numbers mean, where the file states it; colours have no unit."""
    if has_palette(source) or is_cmyk(source):
        return ()
    numbers, _ = data_bands(source, named=named)
    return file_units(source, numbers)


def _header(
    source: Any,
    palette: bool,
    bands: tuple[str, ...] | None,
    world: WorldFile | None,
    pictures: tuple[str, ...],
) -> TileHeader:
    converted = palette or is_cmyk(source)
    colours = [c.name for c in source.colorinterp]
    if converted:
        colours = ["red", "green", "blue"]
    names: tuple[str, ...] = ("red", "green", "blue")
    count = 3 if converted else int(source.count)
    alpha = False
    if bands is not None:
        if not converted:
            numbers, hides = data_bands(source, named=len(bands))
            count, alpha = len(numbers), hides is not None
        if len(bands) != count:
            what = f"3 bands ({'palette' if palette else 'CMYK'} read as colours)"
            have = what if converted else pages_told(source)
            raise DecodeError(f"has {have}, bands=[...] names {len(bands)}")
        names = bands
    elif not converted:
        alpha = "alpha" in colours
        data = [i for i, colour in enumerate(colours) if colour != "alpha"]
        if not data:
            raise DecodeError("holds no band but alpha")
        told = [source.descriptions[i] for i in data]
        names = band_names(told, [colours[i] for i in data], len(data))
    place = georeference(source, world)
    return TileHeader(
        height=source.height,
        width=source.width,
        bands=names,
        dtype="uint8" if palette else source.dtypes[0],
        crs=place.crs,
        transform=place.transform,
        nodata=None if converted or source.nodata is None else float(source.nodata),
        alpha=alpha,
        note=place.note,
        units=_units(source, named=len(bands or ())),
        pages=pages_used(source),
        pages_left=pages_left(source) or pictures,
    )
