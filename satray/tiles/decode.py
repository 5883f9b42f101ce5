"""Bytes to pixels, the mask of the valid ones, and a header: JPEG, PNG and TIFF by content."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.env import hasenv

from satray.errors import DecodeError
from satray.tiles.bands import band_names
from satray.tiles.nodata import filled, holes_of, nodata_filled
from satray.tiles.resample import resample
from satray.tiles.source import opened
from satray.tiles.tiff import read_plain


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
    """`AUTHORITY:CODE` where it has one, else WKT; None without."""
    transform: tuple[float, float, float, float, float, float] | None
    """Affine pixel -> CRS, rasterio's order (a, b, c, d, e, f); None without georeference."""
    nodata: float | None
    """Declared nodata value of the first band; None without."""
    alpha: bool = False
    """Whether a band tagged alpha was left out of `bands`."""


@dataclass(frozen=True)
class Tile:
    """A decoded tile."""

    pixels: NDArray[np.generic]
    """Data bands (C, H, W), stored dtype."""
    valid: NDArray[np.bool_]
    """(H, W): False where the pixel is transparent, masked, nodata or not finite."""
    header: TileHeader
    """Shape, bands, dtype and georeference."""


def decode(data: bytes, *, bands: tuple[str, ...] | None = None) -> Tile:
    """Decode a whole tile, with its header and the mask of its valid pixels.

    Args:
        data: the whole file.
        bands: names of the file's bands in order. With names, every band of the file is data,
            one that is tagged alpha too (Planet's 4-band TIFFs tag their NIR so). Without,
            alpha bands go to `valid`, and names come from the file (`bands.band_names`).

    Returns:
        The tile; palette and CMYK files as red, green, blue in uint8, 1-, 2- and 4-bit gray PNG
        scaled to 0..255. A pixel is nodata where all bands hold it, as in GDAL's dataset mask;
        or any band, where the value is negative or NaN, thus never a measurement beside others.

    Raises:
        DecodeError: empty, not an image, cut short, too large, complex, other bands than named,
            no valid pixel at all.
    """
    # libpng reads PNG strictly; GDAL's own fast reader takes what memory held for missing rows
    with rasterio.Env(GDAL_PNG_WHOLE_IMAGE_OPTIM="NO"), opened(data) as source:
        palette = has_palette(source)
        header = _header(source, palette, bands)
        count = len(header.bands)
        stored_CHW = source.read()
        valid = _valid(source, stored_CHW, palette, count, named=bands is not None)
        pixels = _convert(source, stored_CHW)[:count]
    if not valid.any():
        raise DecodeError("no valid pixels: all are nodata, transparent or not finite")
    return Tile(pixels, valid, header)


def read_pixels(
    data: bytes, take: tuple[int, ...], height: int, width: int, dtype: str
) -> NDArray[np.generic]:
    """Read chosen bands in one shape and dtype: the hot path of training and scoring.

    Computes no header and hands out no mask. What is no measurement is replaced before anything is
    resampled, so that the network never sees a sentinel and one pixel does not spoil a batch:

    - Where the file declares nodata: every value of a band that is nodata, by the rule of `decode`,
      or not finite becomes the band's mean over the tile's valid pixels, those that `decode` marks
      and statistics count (rounded for integers; 0 where none is valid).
    - Without: every value that is not finite becomes its band's mean over the finite ones.

    A band tagged alpha counts as data, in that rule, where `take` has one or one lies before data.

    Args:
        data: the whole file.
        take: 0-based band positions, in the order of `TileHeader.bands`; may repeat.
        height: rows wanted, px; another size is resampled (bilinear, antialiased).
        width: columns wanted, px.
        dtype: the archive's dtype, which the file must have.

    Returns:
        Pixels (len(take), height, width), `dtype`, C-contiguous.

    Raises:
        DecodeError: as `decode`; also another dtype or fewer bands than the archive's.
    """
    plain = read_plain(data)
    if plain is None:
        if not hasenv():
            # one GDAL environment a thread, kept: setting it up costs a quarter of a small tile
            rasterio.Env().__enter__()
        with opened(data) as source:
            _check_take(take, _data_bands(source))
            if source.nodata is not None:
                x_CHW = _without_nodata(source, take)
            elif has_palette(source):
                x_CHW = _convert(source, source.read())[list(take)]
            else:
                x_CHW = _convert(source, source.read([i + 1 for i in take]))
    else:
        x_CHW, nodata = plain
        _check_take(take, x_CHW.shape[0])
        if nodata is not None:
            x_CHW = nodata_filled(x_CHW, nodata)
        if take != tuple(range(x_CHW.shape[0])):
            x_CHW = x_CHW[list(take)]
    if x_CHW.dtype != dtype:
        raise DecodeError(f"dtype is {x_CHW.dtype}, the archive's is {dtype}")
    if x_CHW.dtype.kind == "f":
        x_CHW = filled(x_CHW)
    if x_CHW.shape[1:] != (height, width):
        x_CHW = resample(x_CHW, height, width)
    x_CHW = np.ascontiguousarray(x_CHW)
    return x_CHW if x_CHW.flags.writeable else x_CHW.copy()


def has_palette(source: Any) -> bool:
    """Whether a raster's one band is an index of colours."""
    return bool(source.count == 1 and source.colorinterp[0] == ColorInterp.palette)


def _convert(source: Any, stored_CHW: NDArray[Any]) -> NDArray[np.generic]:
    """Palette indexes -> red, green, blue (3, H, W); gray PNG of fewer bits -> 0..255."""
    if has_palette(source):
        return np.ascontiguousarray(colours_of(source)[stored_CHW[0], :3].transpose(2, 0, 1))
    if source.driver == "PNG" and source.count == 1 and source.dtypes[0] == "uint8":
        bits = int(source.tags(1, ns="IMAGE_STRUCTURE").get("NBITS", 8))
        return (stored_CHW * np.uint8(255 // (2**bits - 1))).astype(np.uint8)
    return stored_CHW


def colours_of(source: Any) -> NDArray[np.uint8]:
    """Colour table (256 or 65536, 4): red, green, blue, alpha; black where it has no entry."""
    table = np.zeros((np.iinfo(source.dtypes[0]).max + 1, 4), np.uint8)
    for index, colour in source.colormap(1).items():
        table[index] = colour
    return table


def _data_bands(source: Any) -> int:
    """How many bands can be taken as data: all of the file's, or a palette's three colours."""
    return 3 if has_palette(source) else int(source.count)


def _check_take(take: tuple[int, ...], count: int) -> None:
    if max(take) >= count:
        raise DecodeError(f"has {count} bands, band {max(take) + 1} of the archive is missing")


def _header(source: Any, palette: bool, bands: tuple[str, ...] | None) -> TileHeader:
    converted = palette or source.tags(ns="IMAGE_STRUCTURE").get("SOURCE_COLOR_SPACE") == "CMYK"
    colours = [c.name for c in source.colorinterp]
    if converted:
        colours = ["red", "green", "blue"]
    names: tuple[str, ...] = ("red", "green", "blue")
    count = 3 if converted else int(source.count)
    alpha = False
    if bands is not None:
        if len(bands) != count:
            what = f" ({'palette' if palette else 'CMYK'} read as colours)" if converted else ""
            raise DecodeError(f"has {count} bands{what}, bands=[...] names {len(bands)}")
        names = bands
    elif not converted:
        alpha = "alpha" in colours
        data = [i for i, colour in enumerate(colours) if colour != "alpha"]
        if not data:
            raise DecodeError("holds no band but alpha")
        if data != list(range(len(data))):
            raise DecodeError(
                f"band {colours.index('alpha') + 1} of {count} is tagged alpha, before data bands; "
                "bands=[...] with all names takes every band as data"
            )
        names = band_names(source.descriptions, colours, len(data))
    transform = source.transform
    referenced = source.crs is not None or not transform.is_identity
    return TileHeader(
        height=source.height,
        width=source.width,
        bands=names,
        dtype="uint8" if palette else source.dtypes[0],
        crs=crs_name(source.crs.to_wkt()) if source.crs else None,
        transform=(*transform,)[:6] if referenced else None,
        nodata=None if converted or source.nodata is None else float(source.nodata),
        alpha=alpha,
    )


@lru_cache(maxsize=64)
def crs_name(wkt: str) -> str:
    """`AUTHORITY:CODE`, else the WKT itself. Looked up once for an archive, not once a tile."""
    authority = rasterio.crs.CRS.from_wkt(wkt).to_authority()
    return ":".join(authority) if authority else wkt


def _valid(
    source: Any, x_CHW: NDArray[np.generic], palette: bool, count: int, *, named: bool
) -> NDArray[np.bool_]:
    """Which pixels are valid (H, W); the rules are in `decode`."""
    valid = np.ones(x_CHW.shape[1:], dtype=bool)
    if palette:
        valid &= colours_of(source)[x_CHW[0], 3] > 0
        return valid & (x_CHW[0] != source.nodata) if source.nodata is not None else valid
    alpha = [i for i, c in enumerate(source.colorinterp) if c == ColorInterp.alpha]
    if alpha and not named:
        valid &= x_CHW[alpha[0]] > 0
    flags = source.mask_flag_enums[0]
    if MaskFlags.per_dataset in flags and not {MaskFlags.alpha, MaskFlags.nodata} & set(flags):
        valid &= source.read_masks(1) > 0
    holes_CHW = holes_of(x_CHW[:count], source.nodatavals[:count])
    if holes_CHW is not None:
        valid &= ~holes_CHW.any(axis=0)
    if x_CHW.dtype.kind == "f":
        valid &= np.isfinite(x_CHW[:count]).all(axis=0)
    return valid


def _without_nodata(source: Any, take: tuple[int, ...]) -> NDArray[Any]:
    """Read the bands taken of a file that declares nodata, with nodata replaced."""
    stored_CHW = source.read()
    palette = has_palette(source)
    colours = source.colorinterp
    data = sum(colour != ColorInterp.alpha for colour in colours)
    # what `decode` was told at prepare, from what it then let be taken
    named = not palette and (max(take) >= data or ColorInterp.alpha in colours[:data])
    count = int(source.count) if named else data
    valid_HW = _valid(source, stored_CHW, palette, count, named=named)
    holes_CHW = holes_of(stored_CHW[:count], source.nodatavals[:count])
    y_CHW = _convert(source, stored_CHW)[: 3 if palette else count]
    if holes_CHW is not None:
        holes_CHW = np.broadcast_to(holes_CHW, y_CHW.shape)  # a palette's index is three colours
    return filled(y_CHW, holes_CHW, valid_HW)[list(take)]
