"""Pixels of plain (uncompressed) TIFF files without GDAL: a third of its time a tile.

GDAL spends most of a small tile on opening it (0.25 ms, or 0.6 ms with a CRS). Whatever is not as
plain as expected here, or not whole, is left to GDAL, which reads it or says what is wrong.
"""

import struct
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER = 256, 257, 258, 259, 262, 266
STRIP_OFFSETS, SAMPLES, ROWS_PER_STRIP, STRIP_BYTES, PLANAR = 273, 277, 278, 279, 284
TILE_WIDTH, SAMPLE_FORMAT, PREDICTOR, EXTRA_SAMPLES = 322, 339, 317, 338
METADATA, NODATA = 42112, 42113
"""GDAL's own tags: texts."""

TYPES = {1: ("B", 1), 2: ("B", 1), 3: ("H", 2), 4: ("I", 4)}
"""TIFF field types that the tags above come in -> (struct code, bytes)."""

FORMATS = {1: "u", 2: "i", 3: "f"}
"""SampleFormat -> NumPy kind."""

DEFAULTS = {
    COMPRESSION: (1,),
    FILL_ORDER: (1,),
    SAMPLES: (1,),
    PLANAR: (1,),
    BITS: (1,),
    PREDICTOR: (1,),
    EXTRA_SAMPLES: (),
}

ALPHA = {1, 2}
"""ExtraSamples that are alpha, not data: premultiplied or not."""

TELLING = (b"NODATA_VALUES", b"lpha", b'role="scale"', b'role="offset"')
"""What GDAL's metadata holds where it hides pixels (a colour that is nodata, a band as alpha), or
states what a band's numbers mean."""


def read_plain(data: bytes, *, named: int) -> tuple[NDArray[Any], float | None] | None:
    """Read all bands of an uncompressed classic TIFF in strips, as GDAL would.

    Args:
        data: the whole file.
        named: how many bands are named: where all are, one tagged alpha is data too.

    Returns:
        Pixels (C, H, W) in the stored dtype and this machine's byte order: a view of `data` where
        it can be; and the nodata value of all bands, None without. None alone where the file is
        anything else (compressed, tiled, palette, BigTIFF, cut short, with alpha that is no data,
        with a second image, which may be its mask or a page, with a scale or offset): GDAL shall
        look at it.
    """
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])
    if order is None:
        return None
    try:
        tags = _only_directory(data, order)
        if named < tags[SAMPLES][0] and ALPHA & set(tags[EXTRA_SAMPLES]):
            return None
        if METADATA in tags and any(word in bytes(tags[METADATA]) for word in TELLING):
            return None
        x_CHW = _pixels(data, order, tags)
        if x_CHW is None or NODATA not in tags:
            return None if x_CHW is None else (x_CHW, None)
        return x_CHW, _number(bytes(tags[NODATA]).split(b"\0")[0])
    except (struct.error, KeyError, IndexError, ValueError):
        return None


def _only_directory(data: bytes, order: str) -> dict[int, tuple[int, ...]]:
    """Tags of the image -> values; only integers, and the characters of GDAL's own.

    Raises struct.error past the end, ValueError where there is another image.
    """
    (start,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, start)
    if struct.unpack_from(order + "I", data, start + 2 + 12 * count) != (0,):
        raise ValueError
    tags: dict[int, tuple[int, ...]] = dict(DEFAULTS)
    for tag, kind, n, value in struct.iter_unpack(
        order + "HHI4s", data[start + 2 : start + 2 + 12 * count]
    ):
        wanted = kind != 2 and 254 <= tag <= 339
        if kind not in TYPES or not (wanted or tag in (METADATA, NODATA)):
            continue
        code, size = TYPES[kind]
        if n * size <= 4:
            tags[tag] = struct.unpack_from(f"{order}{n}{code}", value)
        else:
            (at,) = struct.unpack(order + "I", value)
            tags[tag] = struct.unpack_from(f"{order}{n}{code}", data, at)
    return tags


def _pixels(data: bytes, order: str, tags: dict[int, tuple[int, ...]]) -> NDArray[Any] | None:
    (width,), (height,), (count,) = tags[WIDTH], tags[HEIGHT], tags[SAMPLES]
    plain = (
        tags[COMPRESSION] == (1,)
        and tags[FILL_ORDER] == (1,)
        and tags[PREDICTOR] == (1,)
        and tags[PHOTOMETRIC] in ((1,), (2,))
        and TILE_WIDTH not in tags
    )
    bits, kinds = set(tags[BITS]), set(tags.get(SAMPLE_FORMAT, (1,)))
    if not plain or len(bits) != 1 or len(kinds) != 1 or len(tags[BITS]) not in (1, count):
        return None
    (bit,), (kind,) = bits, kinds
    if kind not in FORMATS or bit not in (8, 16, 32, 64) or (kind == 3 and bit < 32):
        return None
    dtype = np.dtype(f"{order}{FORMATS[kind]}{bit // 8}")
    planes = count if tags[PLANAR] == (2,) else 1
    row = width * (count // planes) * dtype.itemsize
    rows = min(tags.get(ROWS_PER_STRIP, (height,))[0], height)
    strips = -(-height // rows)
    offsets, sizes = tags[STRIP_OFFSETS], tags[STRIP_BYTES]
    if len(offsets) != strips * planes or len(sizes) != len(offsets):
        return None
    last = height - rows * (strips - 1)
    wanted = [(last if (i + 1) % strips == 0 else rows) * row for i in range(len(offsets))]
    for at, size, want in zip(offsets, sizes, wanted, strict=True):
        if at == 0 or size < want or at + want > len(data):
            return None
    adjacent = all(
        a + w == b for a, w, b in zip(offsets[:-1], wanted[:-1], offsets[1:], strict=True)
    )
    if adjacent:
        flat = np.frombuffer(data, dtype, count=sum(wanted) // dtype.itemsize, offset=offsets[0])
    else:
        pieces = [data[at : at + want] for at, want in zip(offsets, wanted, strict=True)]
        flat = np.frombuffer(b"".join(pieces), dtype)
    shape = (count, height, width) if planes > 1 else (height, width, count)
    image = flat.reshape(shape)
    x_CHW = image if planes > 1 else image.transpose(2, 0, 1)
    native = "<" if sys.byteorder == "little" else ">"
    return (
        x_CHW if order == native or dtype.itemsize == 1 else x_CHW.astype(dtype.newbyteorder("="))
    )


def _number(text: bytes) -> float:
    """The value that GDAL's tag spells; whole numbers exactly, those of 64 bits too.

    Raises ValueError where GDAL reads it otherwise than Python.
    """
    if b"_" in text or b"-nan" in text.lower():
        raise ValueError
    try:
        whole = int(text)
    except ValueError:
        return float(text)
    return whole if -(2**63) <= whole < 2**64 else float(text)
