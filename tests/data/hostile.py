"""Images as users bring them: whole, damaged and meant to harm. Bytes only."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import rasterio
from PIL import Image
from rasterio.io import MemoryFile

UNITS = ("scales", "offsets", "units")


def tiff(x_CHW: np.ndarray, **profile: Any) -> bytes:
    """A GeoTIFF of these pixels; `colormap`, `scales` and the like go to their setters."""
    colormap, mask = profile.pop("colormap", None), profile.pop("mask", None)
    descriptions, tags = profile.pop("descriptions", None), profile.pop("tags", None)
    units = {name: profile.pop(name) for name in UNITS if name in profile}
    count, height, width = x_CHW.shape
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), MemoryFile() as memory:
        with memory.open(
            driver="GTiff", count=count, height=height, width=width, dtype=x_CHW.dtype, **profile
        ) as target:
            target.write(x_CHW)
            if colormap:
                target.write_colormap(1, colormap)
            for name, values in units.items():
                setattr(target, name, values)
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


def png(height: int, width: int, rows: bytes) -> bytes:
    """An RGB PNG whose header says one thing and whose rows may say another."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def tiff_header(height: int, width: int, metadata: bytes = b"", samples: int = 1) -> bytes:
    """A small TIFF file of sevens that claims any size, with GDAL metadata where given."""
    claims = {256: width, 257: height, 277: samples, 278: height, 279: height * width % 2**32}
    more = {42112: metadata.decode()} if metadata else {}
    return paged((np.full((1, 64, 64), 7, np.uint8), claims | more))


def paged(*images: np.ndarray | tuple[np.ndarray, dict[int, Any]]) -> bytes:
    """A plain TIFF of several images, (C, H, W) each, with further tags where given.

    Texts are ASCII, whole numbers LONG, lists DOUBLE. 254: what it is (1 overview, 4 mask).
    """
    kinds = {"u": 1, "i": 2, "f": 3}
    data = bytearray(b"II*\0\0\0\0\0")
    link = 4
    for image in images:
        x_CHW, more = image if isinstance(image, tuple) else (image, {})
        count, height, width = x_CHW.shape
        start = len(data)
        data += (
            np.ascontiguousarray(x_CHW.transpose(1, 2, 0))
            .astype(x_CHW.dtype.newbyteorder("<"))
            .tobytes()
        )
        tags: dict[int, Any] = {
            256: width, 257: height, 259: 1, 262: 2 if count == 3 else 1, 273: start, 277: count,
            278: height, 279: len(data) - start, **more,
        }  # fmt: skip
        shorts = {258: x_CHW.dtype.itemsize * 8, 339: kinds[x_CHW.dtype.kind]}
        packed = {tag: ("H", [value] * count) for tag, value in shorts.items()}
        for tag, value in tags.items():
            if isinstance(value, str):
                packed[tag] = ("s", [value.encode() + b"\0"])
            else:
                packed[tag] = ("d", value) if isinstance(value, list) else ("I", [value])
        entries = b""
        for tag, (code, values) in sorted(packed.items()):
            raw = values[0] if code == "s" else struct.pack(f"<{len(values)}{code}", *values)
            size = len(raw) if code == "s" else len(values)
            if len(raw) > 4:
                data += b"\0" * (len(data) % 2)
                at = len(data)
                data += raw
                raw = struct.pack("<I", at)
            entries += struct.pack("<HHI", tag, {"s": 2, "H": 3, "I": 4, "d": 12}[code], size)
            entries += raw.ljust(4, b"\0")
        data += b"\0" * (len(data) % 2)
        data[link : link + 4] = struct.pack("<I", len(data))
        data += struct.pack("<H", len(packed)) + entries
        link = len(data)
        data += b"\0\0\0\0"
    return bytes(data)


def gdal_metadata(*roles: tuple[int, str, object]) -> str:
    """GDAL's tag 42112 that states something of bands, counted from 0: (0, "scale", 0.0001)."""
    items = "".join(
        f'<Item name="{role.upper()}" sample="{band}" role="{role}">{value}</Item>'
        for band, role, value in roles
    )
    return f"<GDALMetadata>{items}</GDALMetadata>"
