"""A scene, open: its facts, and windows of its bands in the numbers that the bundle was trained on.

Rasters of strangers are opened by four drivers, within bounds. GDAL looks at no file beside a
raster (`.ovr`, `.aux.xml`, world files; a `.msk` is opened by name, with the checks of any other),
and nothing here is ever read at less than full resolution: GDAL would open what a TIFF names as its
overview, wherever that is.

Legend: C wanted bands, H x W stored px of a window.
"""

import contextlib
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import RasterioError
from rasterio.session import DummySession
from rasterio.windows import Window

from satray.config.base import StorageOptions
from satray.data.bands import band_names, canonical
from satray.data.georeference import locate, world_at
from satray.data.raster import DTYPES, MASK, PagesKey, Raster
from satray.data.values import (
    Change,
    Nodata,
    Unit,
    Units,
    change_of,
    convertible,
    held,
    together,
    units_text,
    valid_values,
)
from satray.errors import DecodeError, InputError, MisfitError, SatrayError
from satray.score.outlines import SceneExtent
from satray.score.scenes.find import BandSource, SceneRef, Stated, uris_of
from satray.score.scenes.grid import HALF, lane, ratios, resampled
from satray.storage import Storage
from satray.storage import names as storage_names

Names = tuple[str, ...] | Mapping[str, int | str] | None
"""What a recipe says of the bands: names of a file's bands in order; or for a wanted band the
number (from 1), the name or the description of the one to take; or nothing."""

PAUSES = (0.1, 0.3, 1.0, 3.0)
"""Seconds before another try at a file that is read over a network. GDAL repeats what is refused,
but not an answer that ends halfway, and of that it keeps the half until the file is closed."""
DRIVERS = ("GTiff", "JP2OpenJPEG", "PNG", "JPEG")
"""GDAL's drivers that are tried; the content decides."""
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
    "GDAL_CACHEMAX": CACHE,  # whatever was the process's first raster; see `bound_cache`
    # libpng reads PNG strictly; GDAL's own fast reader takes what memory held for missing rows
    "GDAL_PNG_WHOLE_IMAGE_OPTIM": "NO",
    "GDAL_ERROR_ON_LIBJPEG_WARNING": "TRUE",  # else a JPEG cut short ends in gray
    "GDAL_HTTP_PATH_VERBATIM": "YES",  # `a/../b` is a key like any other
    "CPL_VSIL_CURL_NON_CACHED": "/vsis3/:/vsicurl/",  # a scene may be overwritten
    "GDAL_HTTP_MAX_RETRY": "5",
    "GDAL_HTTP_RETRY_DELAY": "0.5",
}
_kept = threading.local()


@dataclass(frozen=True)
class Conversion:
    """What makes a scene's numbers those that the bundle was trained on."""

    mode: Literal["auto", "none", "scale"] = "auto"
    """auto: by what the scene states, to the bundle's units; none: numbers are taken as they are;
    scale: value = stored * scale + offset, then cast."""
    scale: tuple[float, ...] = (1.0,)
    """One factor, or one a wanted band."""
    offset: tuple[float, ...] = (0.0,)
    """What is added after, in the bundle's units; one, or one a wanted band."""
    units: Units = ()
    """The bundle's, one a wanted band; empty where its tiles stated none."""

    def check(self, bands: Sequence[str]) -> None:
        """Raise InputError where the numbers do not fit the bands."""
        for key, values in (("scale", self.scale), ("offset", self.offset)):
            if len(values) not in (1, len(bands)):
                raise InputError(
                    f"{key}: found {len(values)} numbers; accepted: one, or one for each of "
                    f"{', '.join(bands)}"
                )

    def of_scene(
        self, bands: Sequence[str], found: Sequence[Unit | None], stored: str, dtype: str
    ) -> tuple[Change | None, str]:
        """What is done to a scene's numbers, and what a reader must know of it.

        Args:
            bands: names of the wanted bands.
            found: what the scene states of each.
            stored: dtype of its files.
            dtype: the bundle's.

        Raises:
            MisfitError: numbers that cannot pass for the bundle's.
        """
        if self.mode != "auto":
            stated = units_text(bands, found) if any(found) else ""
            note = stated and f"convert={self.mode} goes before what it states ({stated})"
            if self.mode == "scale":
                every = (v * len(bands) if len(v) == 1 else v for v in (self.scale, self.offset))
                return Change(*every), note
            if stored == dtype:
                return None, note
        if stored != dtype and (self.mode == "none" or not convertible(found, self.units, dtype)):
            raise MisfitError(
                f"dtype is {stored}, the bundle's is {dtype}; convert=scale with scale and "
                "offset converts"
            )
        own = units_text(bands, self.units) if any(self.units) else ""
        if not any(found):
            return None, own and f"states no scale or offset: taken for {own}"
        try:
            change = change_of(found, self.units, dtype)
        except DecodeError as error:
            raise MisfitError(f"{error}; convert=scale converts, convert=none does not") from None
        if change is None and stored == dtype:
            return None, ""
        change = change or Change((1.0,) * len(bands), (0.0,) * len(bands))
        done = [
            f"stored * {gain:.6g} {'-' if shift < 0 else '+'} {abs(shift):.6g}"
            for gain, shift in zip(change.gain, change.shift, strict=True)
        ]
        floats = np.dtype(dtype).kind == "f"
        taken = "the values themselves" if floats else "the same scale without offset"
        return change, (
            f"brought to the bundle's unit ({units_text(bands, done)}): states "
            f"{units_text(bands, found)}; the bundle's"
            + (f": {own}" if own else f" tiles state none: taken for {taken}")
        )


@dataclass(frozen=True)
class SceneFacts:
    """What a scene is, apart from its pixels."""

    extent: SceneExtent
    """Name, size in px of the finest file, and place."""
    bands: tuple[str, ...]
    """Bands that are read, in order."""
    stored_dtype: str
    """dtype in the files (NumPy name)."""
    dtype: str
    """dtype of the pixels given, after conversion."""
    taken_at: str | None
    """The TIFF's own date and time (`TIFFTAG_DATETIME`), as it stands; None without."""
    place: str = ""
    """What to know about its georeference; empty where all is plain."""
    notes: tuple[str, ...] = ()
    """What a reader must know of its pages, and of what was made of its numbers."""


def source_names(wanted: Sequence[str], names: Names) -> tuple[str, ...] | None:
    """The names under which wanted bands are looked up; None where a number is among them."""
    if not isinstance(names, Mapping):
        return tuple(wanted)
    asked = [names.get(band, band) for band in wanted]
    return None if any(isinstance(name, int) for name in asked) else tuple(map(str, asked))


class Scene:
    """An open scene; close it, or use it as a context. For one process; reads queue up."""

    facts: SceneFacts
    """What it is."""

    def __init__(
        self,
        ref: SceneRef,
        wanted: tuple[str, ...],
        names: Names,
        storage: Storage,
        *,
        dtype: str | None = None,
        conversion: Conversion = Conversion(),
        pages: PagesKey = "bands",
    ) -> None:
        """Open it, without reading any of its pixels.

        Args:
            ref: the scene.
            wanted: bands to read, in the bundle's order.
            names: what the recipe says of the scene's bands.
            storage: how it is reached.
            dtype: the bundle's dtype; None: as stored.
            conversion: how numbers of another unit, dtype or scale become the bundle's; checked.
            pages: which pages of a TIFF are bands.

        Raises:
            MisfitError: a band that it lacks, another dtype, a scale or nodata that is none.
            DecodeError: no raster, damaged, out of reach, files that do not fit together.
        """
        self._ref, self._wanted, self._names, self._storage = ref, wanted, names, storage
        self._dtype, self._conversion, self._pages = dtype, conversion, pages
        self._schemes = _schemes(uris_of(ref))
        self._pauses = (*(PAUSES if any(self._schemes) else ()), None)
        self._lock = threading.Lock()
        self._opened = contextlib.ExitStack()
        self._open()

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Close its files."""
        self._opened.close()
        self._rasters: dict[str, Raster] = {}

    def read(
        self, row: int, column: int, height: int, width: int
    ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Read a window that lies within the scene.

        Returns:
            Pixels (C, H, W), and which of them are measured (C, H, W), by the rule of
            `data.values`: a file's mask and alpha hide its own bands, and bands of all files have
            their say in what is nodata. A band of a coarser file is brought to the scene's grid,
            bilinear over what is measured in it.

        Raises:
            DecodeError: cut short, damaged, or out of reach; names the window.
        """
        for pause in self._pauses:
            try:
                with self._lock, _environment(self._schemes, self._storage):
                    x_CHW, valid_CHW = self._read(row, column, height, width)
                break
            # GDAL's errors share no base; what a file does to GDAL costs this scene only
            except Exception as error:
                if pause is None:
                    raise DecodeError(
                        f"{self._ref.scene}: rows {row} to {row + height}, columns {column} to "
                        f"{column + width} cannot be read: {_reason(error)}"
                    ) from error
                time.sleep(pause)
                with self._lock:
                    self._open()
        return x_CHW if self._change is None else self._change(x_CHW, self.facts.dtype), valid_CHW

    def _read(
        self, row: int, column: int, height: int, width: int
    ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        x_CHW = np.empty((len(self._wanted), height, width), self.facts.stored_dtype)
        shown_CHW: NDArray[np.bool_] | None = None
        nodata: list[float | None] = [None] * len(x_CHW)
        for part in self._parts:
            x_CHW[part.at], shown = part.read(row, column, height, width)
            if shown is not None:
                shown_CHW = np.ones(x_CHW.shape, bool) if shown_CHW is None else shown_CHW
                shown_CHW[part.at] = shown
            for place, value in zip(part.at, part.nodata, strict=True):
                nodata[place] = value
        first = self._parts[0]

        def others() -> tuple[NDArray[Any], Nodata]:
            window = Window(column, row, width, height)
            values, _ = first.raster.read(first.others, None, window)
            return values, self._nodata(self._uris[0], first.others)

        valid_CHW = valid_values(x_CHW, nodata, shown_CHW, others if first.others else None)
        return x_CHW, np.ones(x_CHW.shape, bool) if valid_CHW is None else valid_CHW

    def _open(self) -> None:
        """Open it, or open it anew."""
        for pause in self._pauses:
            self.close()
            try:
                with _environment(self._schemes, self._storage):
                    self._fit(self._choose())
                return
            except Exception as error:  # GDAL's errors (rasterio._err) share no public base
                self.close()
                if pause is None or isinstance(error, MisfitError):
                    if isinstance(error, SatrayError):
                        raise
                    raise DecodeError(f"cannot be opened: {_reason(error)}") from error
                time.sleep(pause)

    def _raster(self, uri: str) -> Raster:
        if uri not in self._rasters:
            raster = self._rasters[uri] = open_raster(uri, self._ref.size, self._pages)
            self._opened.callback(raster.close)
            if uri + MASK in self._ref.files:
                raster.take_mask(open_raster(uri + MASK, self._ref.size))
        return self._rasters[uri]

    def _hidden(self, uri: str, numbers: Sequence[int]) -> list[float | None]:
        """Nodata of a file's bands as the Item states it."""
        dtype, stated = self._raster(uri).dtype, self._ref.stated
        return [stated.get((uri, number), Stated()).hidden(dtype) for number in numbers]

    def _nodata(self, uri: str, numbers: Sequence[int]) -> list[float | None]:
        """Nodata of bands: the file's, or else the Item's."""
        own = [self._raster(uri).nodata[number - 1] for number in numbers]
        pairs = zip(own, self._hidden(uri, numbers), strict=True)
        return [hidden if value is None else value for value, hidden in pairs]

    def _choose(self) -> list[BandSource]:
        """Where each wanted band lies.

        Raises:
            MisfitError: one is absent; says what there is.
        """
        names, uris, have = self._names, uris_of(self._ref), self._ref.bands or ()
        in_order = names if isinstance(names, tuple) else ()
        found: dict[int | str, BandSource] = {}
        if len(uris) == 1:
            uri, raster = uris[0], self._raster(uris[0])
            numbers, alpha = raster.data_bands(len(in_order))
            if in_order and len(in_order) != len(numbers):
                raise MisfitError(f"has {raster.summary()}, bands=[...] names {len(in_order)}")
            texts, colours = raster.descriptions, raster.colours
            own = [texts[n - 1] for n in numbers], [colours[n - 1] for n in numbers]
            called = in_order or band_names(*own, len(numbers))
            mine = [BandSource(name, uri, n) for name, n in zip(called, numbers, strict=True)]
            # an Item or a list goes before the file, and the recipe before both
            have = tuple(mine if in_order else [*mine, *have])
            found |= {n: BandSource("", uri, n) for n in (*numbers, alpha or numbers[0])}
            found |= {
                canonical(text): found[n] for text, n in zip(own[0], numbers, strict=True) if text
            }
        elif in_order:
            raise MisfitError(
                f"has {len(uris)} files; bands=[...] names the bands of one file; accepted: "
                "nothing, or bands={BAND: NAME}"
            )
        found |= {canonical(band.name): band for band in have}
        chosen = []
        for name in self._wanted:
            asked = names.get(name, name) if isinstance(names, Mapping) else name
            source = found.get(asked if isinstance(asked, int) else canonical(asked))
            if source is None:
                what = f"band {name}" if asked == name else f"band {asked} (for {name})"
                there = ", ".join(dict.fromkeys(band.name for band in have)) or "no band but alpha"
                if isinstance(asked, int) and len(uris) > 1:
                    there = f"{len(uris)} files, whose bands have names, not numbers: {there}"
                raise MisfitError(
                    f"no {what}; the scene has {there}, the bundle wants {', '.join(self._wanted)}"
                )
            chosen.append(replace(source, name=name))
        return chosen

    def _fit(self, chosen: list[BandSource]) -> None:
        """Group the wanted bands by file, and see what is made of their numbers."""
        ref, names = self._ref, self._names
        self._uris = list(dict.fromkeys(band.uri for band in chosen))
        rasters = [self._raster(uri) for uri in self._uris]
        stored, *other = sorted({raster.dtype for raster in rasters})
        if other:
            raise MisfitError(f"files of dtypes {', '.join((stored, *other))}; accepted: one dtype")
        places = [locate(one.source, world_at(ref.world, self._storage)) for one in rasters]
        grids = [
            SceneExtent(storage_names.name(u), r.height, r.width, place.crs, place.transform)
            for u, r, place in zip(self._uris, rasters, places, strict=True)
        ]
        finest, lengths = ratios(grids)
        self._parts: list[_Part] = []
        units: list[Unit | None] = [None] * len(chosen)
        notes = list[str]()
        for uri, raster, ratio in zip(self._uris, rasters, lengths, strict=True):
            at = [place for place, band in enumerate(chosen) if band.uri == uri]
            numbers = [chosen[place].band for place in at]
            if max(numbers) > raster.count:
                raise MisfitError(f"{uri} has {raster.count} bands; no band {max(numbers)}")
            data, alpha = raster.data_bands(len(names) if isinstance(names, tuple) else 0)
            if alpha in numbers:  # asked for by its number
                alpha = None
            nodata = self._nodata(uri, numbers)
            joint = any(together(np.dtype(stored), value) for value in nodata)
            others = [n for n in data if n not in numbers] if joint and len(rasters) == 1 else []
            hidden = self._hidden(uri, numbers)
            self._parts.append(_Part(raster, numbers, at, alpha, ratio, nodata, hidden, others))
            for place, number in zip(at, numbers, strict=True):
                said, own = ref.stated.get((uri, number), Stated()), raster.units([number])
                units[place] = said.unit(chosen[place].name, own[0] if own else None)
            if len(raster.pages) > 1:
                notes.append(f"{storage_names.name(uri)}: {raster.summary()}, pages taken as bands")
            if raster.pages_left:
                left = ", ".join(raster.pages_left)
                notes.append(f"{storage_names.name(uri)}: left out, unlike its first page: {left}")
        dtype = self._dtype or stored
        self._change, note = self._conversion.of_scene(self._wanted, units, stored, dtype)
        self.facts = SceneFacts(
            extent=replace(grids[finest], scene=ref.scene),
            bands=self._wanted,
            stored_dtype=stored,
            dtype=dtype,
            taken_at=rasters[finest].source.tags().get("TIFFTAG_DATETIME"),
            place=places[finest].note,
            notes=tuple(filter(None, (*notes, note))),
        )


@dataclass(frozen=True)
class _Part:
    """The wanted bands of one file."""

    raster: Raster
    """It."""
    numbers: list[int]
    """Of the bands in the file."""
    at: list[int]
    """Their places among the wanted."""
    alpha: int | None
    """The band that says where data is."""
    ratio: int
    """px of the scene's grid that one of the file is long."""
    nodata: list[float | None]
    """Of each band."""
    hidden: list[float | None]
    """What the Item states, which hides besides."""
    others: list[int]
    """The file's other data bands, where they have a say in what of these is nodata."""

    def read(
        self, row: int, column: int, height: int, width: int
    ) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        """A window of the scene's grid, and which values masks and alpha show; None: all."""
        if self.ratio == 1:
            return self._stored(row, column, height, width)
        tall, wide = self.raster.height, self.raster.width
        rows = lane(row, row + height, tall, tall * self.ratio)
        columns = lane(column, column + width, wide, wide * self.ratio)
        x_CHW, shown = self._stored(rows.first, columns.first, rows.count, columns.count)
        floats = x_CHW.dtype.kind == "f"
        shown_CHW = np.isfinite(x_CHW) if floats else np.ones(x_CHW.shape, bool)
        if shown is not None:
            shown_CHW &= shown
        hole_CHW = np.stack(list(map(held, x_CHW, self.nodata)))
        y_CHW, share_CHW = resampled(x_CHW, shown_CHW & ~hole_CHW, rows, columns)
        seen_CHW = share_CHW >= HALF
        for y_HW, seen_HW, x_HW, hole_HW in zip(y_CHW, seen_CHW, x_CHW, hole_CHW, strict=True):
            y_HW[~seen_HW] = x_HW[hole_HW][0] if hole_HW.any() else 0
        joint = [together(x_CHW.dtype, value) for value in self.nodata]
        if any(joint) and hole_CHW.any():  # together with bands of other files, on the scene's grid
            seen_CHW[joint] = resampled(x_CHW, shown_CHW, rows, columns)[1][joint] >= HALF
        return (y_CHW if floats else np.rint(y_CHW)).astype(x_CHW.dtype), seen_CHW

    def _stored(
        self, row: int, column: int, height: int, width: int
    ) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        window = Window(column, row, width, height)
        x_CHW, shown = self.raster.read(self.numbers, self.alpha, window)
        for x_HW, nodata, hidden in zip(x_CHW, self.nodata, self.hidden, strict=True):
            if hidden is not None and hidden != nodata:
                x_HW[held(x_HW, hidden)] = nodata
        return x_CHW, shown


def open_raster(uri: str, size: int, pages: PagesKey = "bands") -> Raster:
    """Open a raster, and check what it declares before any of it is read.

    Args:
        uri: absolute path or URI.
        size: bytes of the scene's files.
        pages: which pages of a TIFF are bands.

    Raises:
        DecodeError: not one of the four formats, damaged, complex, or too large to be true.
    """
    scheme = storage_names.scheme(uri)
    name = f"/vsicurl/{uri}" if scheme else uri
    if scheme == "s3":  # rasterio's own spelling loses what follows a `#`
        name = f"/vsis3/{uri.removeprefix('s3://')}"
    for driver in DRIVERS:
        try:
            source = rasterio.open(name, driver=driver, sharing=False)
            break
        except (RasterioError, ValueError) as error:  # ValueError: names that are no UTF-8
            if "not recognized" not in str(error):
                raise DecodeError(f"cannot be opened: {_reason(error)}") from error
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


def _check(source: Any, count: int, size: int) -> None:
    height, width = source.height, source.width
    dtypes = sorted(set(source.dtypes))
    if len(dtypes) != 1 or dtypes[0] not in DTYPES:
        raise DecodeError(f"dtype {', '.join(dtypes)}; accepted: one integer or float dtype")
    itemsize = np.dtype(dtypes[0]).itemsize
    declared = f"declares {height:,} x {width:,} px, {count} bands of {dtypes[0]}"
    raw = height * width * count * itemsize
    if raw > max(ALWAYS, MAX_RATIO * size):
        raise DecodeError(f"{declared}, {raw / 2**30:,.0f} GiB, in a file of {size:,} bytes")
    tall, wide = source.block_shapes[0]
    mixed = str(getattr(source.interleaving, "name", "")) == "pixel"
    block = min(tall, height) * min(wide, width) * (count if mixed else 1) * itemsize
    if block > MAX_BLOCK:
        raise DecodeError(
            f"{declared}, in blocks of {tall:,} x {wide:,} px that must be decoded whole "
            f"({block / 2**20:,.0f} MiB); at most {MAX_BLOCK >> 20} MiB (write it tiled)"
        )


def _schemes(uris: Iterable[str]) -> frozenset[str]:
    """The schemes of some rasters; empty text for this disk."""
    found = frozenset(map(storage_names.scheme, uris))
    wrong = sorted(found - {"", "s3", "http", "https"})
    if wrong:
        raise DecodeError(
            f"windows of {wrong[0]}:// are not read; accepted: local paths, s3://, http(s)://"
        )
    return found


def bound_cache() -> None:
    """Bound what GDAL keeps of rasters that this process writes, before its first raster of any.

    When a raster has been read GDAL goes back to the bound that the process began with: 5 % of the
    machine's memory, where nothing says another.
    """
    os.environ.setdefault("GDAL_CACHEMAX", str(CACHE >> 20))


@contextlib.contextmanager
def _environment(schemes: frozenset[str], storage: Storage) -> Iterator[None]:
    """GDAL as set for reading; entered anew for each read, since credentials run out."""
    bound_cache()
    with contextlib.ExitStack() as stack:
        if "s3" in schemes:  # one a thread: boto3 takes its time to resolve, and none may be shared
            key: tuple[int, StorageOptions] = (os.getpid(), storage.options)
            if getattr(_kept, "key", None) != key:
                _kept.key, _kept.environment = key, storage.gdal_env()
            stack.enter_context(_kept.environment)
        # without a session of its own, or each entry would set up boto3 for keys in variables
        stack.enter_context(rasterio.Env(DummySession(), **_OPTIONS))
        yield


def _reason(error: BaseException) -> str:
    """The innermost message, which is GDAL's own, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split()) or type(error).__name__
