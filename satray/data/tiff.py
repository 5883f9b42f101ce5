"""Pixels of plain (uncompressed) TIFF files without GDAL: a third of its time a tile.

GDAL spends most of a small tile on opening it (0.25 ms, or 0.6 ms with a CRS). Whatever is not as
plain as expected here, or not whole, is left to GDAL, which reads it or says what is wrong.
"""

import struct
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

DEFAULTS = dict.fromkeys((COMPRESSION, FILL_ORDER, SAMPLES, PLANAR, BITS, PREDICTOR), (1,))

ALPHA = {1, 2}
"""ExtraSamples that are alpha, not data: premultiplied or not."""

TELLING = (b"NODATA_VALUES", b"lpha", b'role="scale"', b'role="offset"')
"""What GDAL's metadata holds where it hides pixels (a colour that is nodata, a band as alpha), or
states what a band's numbers mean."""


def read_plain(data: bytes, *, named: int) -> tuple[NDArray[Any], float | None] | None:
    """Read all bands of an uncompressed little-endian TIFF in adjacent strips, as GDAL would.

    Args:
        data: the whole file.
        named: how many bands are named: where all are, one tagged alpha is data too.

    Returns:
        Pixels (C, H, W) in the stored dtype, a view of `data`; and the nodata value of all bands,
        None without. None alone where the file is anything else (compressed, tiled, palette,
        BigTIFF, cut short, with alpha that is no data, with a second image, which may be its mask
        or a page, with a scale or offset): GDAL shall look at it.
    """
    if data[:4] != b"II*\0":
        return None
    try:
        tags = _only_directory(data)
        if named < tags[SAMPLES][0] and ALPHA & set(tags.get(EXTRA_SAMPLES, ())):
            return None
        if METADATA in tags and any(word in bytes(tags[METADATA]) for word in TELLING):
            return None
        spelt = bytes(tags[NODATA]).split(b"\0")[0] if NODATA in tags else None
        return _pixels(data, tags), None if spelt is None else _number(spelt)
    except (struct.error, KeyError, IndexError, ValueError, ZeroDivisionError):
        return None


def _only_directory(data: bytes) -> dict[int, tuple[int, ...]]:
    """Tags of the image -> values; only integers, and the characters of GDAL's own.

    Raises struct.error past the end, ValueError where there is another image, or a tag twice.
    """
    (start,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, start)
    end = start + 2 + 12 * count
    if struct.unpack_from("<I", data, end) != (0,):
        raise ValueError
    tags: dict[int, tuple[int, ...]] = dict(DEFAULTS)
    before = -1
    for tag, kind, n, value in struct.iter_unpack("<HHI4s", data[start + 2 : end]):
        if tag <= before:
            raise ValueError  # whichever of two alike GDAL takes
        before = tag
        wanted = kind != 2 and 254 <= tag <= 339
        if kind in TYPES and (wanted or tag in (METADATA, NODATA)):
            code, size = TYPES[kind]
            at = struct.unpack("<I", value)[0] if n * size > 4 else 0
            tags[tag] = struct.unpack_from(f"<{n}{code}", data if at else value, at)
    return tags


def _pixels(data: bytes, tags: dict[int, tuple[int, ...]]) -> NDArray[Any]:
    """Values (C, H, W). Raises ValueError or KeyError where they do not lie plainly."""
    (width,), (height,), (count,) = tags[WIDTH], tags[HEIGHT], tags[SAMPLES]
    (bit,), (kind,) = set(tags[BITS]), set(tags.get(SAMPLE_FORMAT, (1,)))
    if (
        any(tags[tag] != (1,) for tag in (COMPRESSION, FILL_ORDER, PREDICTOR))
        or TILE_WIDTH in tags
        or len(tags[BITS]) not in (1, count)
        or tags[PHOTOMETRIC] not in ((1,), (2,))
        or bit not in ((32, 64) if kind == 3 else (8, 16, 32))
    ):
        raise ValueError
    dtype = np.dtype(f"<{FORMATS[kind]}{bit // 8}")
    planes = count if tags[PLANAR] == (2,) else 1
    rows = min(tags.get(ROWS_PER_STRIP, (height,))[0], height)
    strips = -(-height // rows)
    row = width * (count // planes) * dtype.itemsize
    wanted = ([rows * row] * (strips - 1) + [(height - rows * (strips - 1)) * row]) * planes
    offsets, sizes = tags[STRIP_OFFSETS], tags[STRIP_BYTES]
    whole = all(size >= want for size, want in zip(sizes, wanted, strict=True))
    ends = np.cumsum([offsets[0], *wanted])
    if (
        not whole
        or ends[:-1].tolist() != list(offsets)
        or not 0 < offsets[0] < ends[-1] <= len(data)
    ):
        raise ValueError
    flat = np.frombuffer(data, dtype, count=sum(wanted) // dtype.itemsize, offset=offsets[0])
    if planes > 1:
        return flat.reshape(count, height, width)
    return flat.reshape(height, width, count).transpose(2, 0, 1)


def _number(text: bytes) -> float:
    """The value that GDAL's tag spells.

    Raises ValueError where GDAL reads it otherwise than Python.
    """
    if b"_" in text or b"-nan" in text.lower():
        raise ValueError
    return float(text)
