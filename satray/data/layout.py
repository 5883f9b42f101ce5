"""What the bands of an open raster are: data, alpha, colours of a palette; and what masks show."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, MaskFlags

from satray.data.nodata import held
from satray.errors import DecodeError


def has_palette(source: Any) -> bool:
    """Whether a raster's one band is an index of colours."""
    return bool(source.count == 1 and source.colorinterp[0] == ColorInterp.palette)


def gain_of(source: Any) -> int:
    """Factor that spreads gray levels of fewer than 8 bits in a PNG over 0..255; else 1."""
    if source.driver != "PNG" or source.count != 1 or source.dtypes[0] != "uint8":
        return 1
    bits = int(source.tags(1, ns="IMAGE_STRUCTURE").get("NBITS", 8))
    return int(255 // (2**bits - 1))


def coloured(
    index_HW: NDArray[Any], colours: NDArray[np.uint8], nodata: float | None
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Palette indexes as red, green, blue (3, H, W), and where they are shown (H, W)."""
    shown_HW = (colours[index_HW, 3] > 0) & ~held(index_HW, nodata)
    return np.ascontiguousarray(colours[index_HW, :3].transpose(2, 0, 1)), shown_HW


def colours_of(source: Any) -> NDArray[np.uint8]:
    """Colour table (256 or 65536, 4): red, green, blue, alpha; black where it has no entry."""
    table = np.zeros((np.iinfo(source.dtypes[0]).max + 1, 4), np.uint8)
    for index, colour in source.colormap(1).items():
        table[index] = colour
    return table


def data_bands(source: Any, *, named: int) -> tuple[list[int], int | None]:
    """Numbers of the data bands, from 1, and of the band that is alpha: none where all are named.

    Args:
        source: open.
        named: how many of its bands are named.
    """
    tagged = [i + 1 for i, c in enumerate(source.colorinterp) if c == ColorInterp.alpha]
    if is_cmyk(source):
        return [1, 2, 3], tagged[0] if tagged else None
    if named >= source.count or not tagged:
        return list(range(1, source.count + 1)), None
    return [i for i in range(1, source.count + 1) if i not in tagged], tagged[0]


def is_cmyk(source: Any) -> bool:
    """Whether GDAL makes red, green and blue of it."""
    return bool(source.tags(ns="IMAGE_STRUCTURE").get("SOURCE_COLOR_SPACE") == "CMYK")


def shown_by_masks(
    source: Any, numbers: Sequence[int], sidecar: Any = None, window: Any = None
) -> NDArray[np.bool_] | None:
    """Where a raster's own masks let pixels count: internal ones, colours that are nodata, `.msk`.

    Args:
        source: open; alpha and declared nodata are left to others, save what no float64 holds.
        numbers: of its bands, from 1.
        sidecar: the open `.msk` beside it; None without.
        window: rasterio's; None: all.

    Returns:
        (H, W), or (C, H, W) where the masks are bands' own; None without a mask.

    Raises:
        DecodeError: the `.msk` is of another size.
    """
    shown: NDArray[np.bool_] | None = None
    flags = set(source.mask_flag_enums[numbers[0] - 1])
    if MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags:
        shown = source.read_masks(numbers[0], window=window) > 0
    elif any(_inexact(source, number) for number in numbers):
        shown = source.read_masks(list(numbers), window=window) > 0
    if sidecar is None:
        return shown
    if sidecar.shape != source.shape:
        raise DecodeError(
            f"its .msk is {sidecar.height} x {sidecar.width} px, the image {source.height} x "
            f"{source.width}; accepted: a mask of the image's size"
        )
    flag = sidecar.tags().get("INTERNAL_MASK_FLAGS_1", "2")
    each = sidecar.count == source.count > 1 and not (flag.isdigit() and int(flag) & 2)
    beside: NDArray[np.bool_] = sidecar.read(list(numbers) if each else 1, window=window) > 0
    return beside if shown is None else shown & beside


def _inexact(source: Any, number: int) -> bool:
    """Whether a band declares a nodata of 64 bits that rasterio rounds, or takes for none."""
    if source.dtypes[number - 1] not in ("int64", "uint64"):
        return False
    value = source.nodatavals[number - 1]
    declared = MaskFlags.nodata in source.mask_flag_enums[number - 1]
    return declared and (value is None or abs(value) >= 2**53)
