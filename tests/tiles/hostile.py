"""Images as users bring them: whole, damaged and meant to harm. Bytes only."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import rasterio
from PIL import Image
from rasterio.io import MemoryFile


def tiff(x_CHW: np.ndarray, **profile: Any) -> bytes:
    """A GeoTIFF of these pixels; `colormap` and `tags` go to their setters."""
    colormap, mask = profile.pop("colormap", None), profile.pop("mask", None)
    descriptions, tags = profile.pop("descriptions", None), profile.pop("tags", None)
    count, height, width = x_CHW.shape
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), MemoryFile() as memory:
        with memory.open(
            driver="GTiff", count=count, height=height, width=width, dtype=x_CHW.dtype, **profile
        ) as target:
            target.write(x_CHW)
            if colormap:
                target.write_colormap(1, colormap)
            if descriptions:
                target.descriptions = descriptions
            if mask is not None:
                target.write_mask(mask)
            if tags:
                target.update_tags(**tags)
        return bytes(memory.read())


def pillow(image: Image.Image, kind: str, **options: Any) -> bytes:
    """The image as Pillow writes it."""
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


def photo(height: int = 40, width: int = 60) -> Image.Image:
    """A smooth colour picture, different in every channel."""
    y, x = np.mgrid[:height, :width]
    channels = [120 + 100 * np.sin(x / 9), 120 + 100 * np.cos(y / 7), (x + y) % 256]
    return Image.fromarray(np.stack(channels, -1).astype(np.uint8))


def numbers(count: int = 4, height: int = 24, width: int = 32, dtype: str = "uint16") -> np.ndarray:
    """Noise (C, H, W) over most of the dtype's range."""
    rng = np.random.default_rng(7)
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return rng.normal(100, 30, (count, height, width)).astype(kind)
    top = min(np.iinfo(kind).max, 60000)
    low = max(np.iinfo(kind).min, -60000)
    return rng.integers(low, top, (count, height, width)).astype(kind)


def chunk(name: bytes, data: bytes) -> bytes:
    """One chunk of a PNG."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(height: int, width: int, rows: bytes) -> bytes:
    """An RGB PNG whose header says one thing and whose rows may say another."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def tiff_header(height: int, width: int, metadata: bytes = b"", samples: int = 1) -> bytes:
    """A small TIFF file that claims any size, with GDAL metadata where given."""
    entries = [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, 1, 8),
        (259, 3, 1, 1),
        (262, 3, 1, 1),
        (273, 4, 1, 8),
        (277, 3, 1, samples),
        (278, 4, 1, height),
        (279, 4, 1, height * width % 2**32),
    ]
    body = b"\x07" * 4096
    start = 8 + len(body)
    if metadata:
        entries.append((42112, 2, len(metadata) + 1, start))
        body += metadata + b"\0"
    directory = struct.pack("<H", len(entries)) + b"".join(
        struct.pack("<HHII", *entry) for entry in entries
    )
    return b"II*\0" + struct.pack("<I", 8 + len(body)) + body + directory + b"\0" * 4
