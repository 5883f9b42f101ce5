"""A scene, open: its facts, and windows of its bands in the numbers that the bundle was trained on.

Legend: C wanted bands, H x W stored px of a window.
"""

import functools
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

from satray.data.bands import band_names, canonical
from satray.data.georeference import locate, world_at
from satray.data.raster import PagesKey
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
from satray.errors import DecodeError, InputError, SatrayError
from satray.score.outlines import SceneExtent
from satray.score.reading import MisfitError
from satray.score.scenes.grid import ratios
from satray.score.scenes.items import baseline_note
from satray.score.scenes.lanes import HALF, lane, resampled
from satray.score.scenes.raster import environment, open_raster, reason, schemes
from satray.score.scenes.scene import BandSource, SceneRef, Stated, uris_of
from satray.storage import Storage

T = TypeVar("T")

Names = tuple[str, ...] | Mapping[str, int | str] | None
"""What a recipe says of the bands: names of a file's bands in order; or for a wanted band the
number (from 1), the name or the description of the one to take; or nothing."""

PAUSES = (0.1, 0.3, 1.0, 3.0)
"""Seconds before another try at a file that is read over a network."""


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
    ) -> tuple[Change | None, str | None]:
        """What is done to a scene's numbers, and what a reader must know of it.

        Args:
            bands: names of the wanted bands.
            found: what the scene states of each.
            stored: dtype of its files.
            dtype: the bundle's.

        Raises:
            MisfitError: numbers that cannot pass for the bundle's.
        """
        count, note = len(bands), None
        if self.mode != "auto" and any(found):
            note = f"convert={self.mode} goes before what it states ({units_text(bands, found)})"
        if self.mode == "scale":
            gain, shift = (v * count if len(v) == 1 else v for v in (self.scale, self.offset))
            return Change(gain, shift), note
        known = self.mode == "auto" and convertible(found, self.units, dtype)
        if stored != dtype and not known:
            raise MisfitError(
                f"dtype is {stored}, the bundle's is {dtype}; convert=scale with scale and "
                "offset converts"
            )
        if self.mode == "none":
            return None, note
        if not any(found):
            if any(self.units):
                note = f"states no scale or offset: taken for {units_text(bands, self.units)}"
            return None, note
        try:
            change = change_of(found, self.units, dtype)
        except DecodeError as error:
            raise MisfitError(f"{error}; convert=scale converts, convert=none does not") from None
        if change is None and stored == dtype:
            return None, None
        change = change or Change((1.0,) * count, (0.0,) * count)
        done = [
            f"stored * {gain:.6g} {'-' if shift < 0 else '+'} {abs(shift):.6g}"
            for gain, shift in zip(change.gain, change.shift, strict=True)
        ]
        floats = np.dtype(dtype).kind == "f"
        taken = "values themselves" if floats else "same scale without offset"
        whose = f"the bundle's tiles state none: taken for the {taken}"
        if any(self.units):
            whose = f"the bundle's: {units_text(bands, self.units)}"
        return change, (
            f"brought to the bundle's unit ({units_text(bands, done)}): states "
            f"{units_text(bands, found)}; {whose}"
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


class _File:
    """An open file of a scene, and what it and the scene's Item say of its bands."""

    def __init__(self, ref: SceneRef, uri: str, pages: PagesKey, storage: Storage) -> None:
        self.uri = uri
        self.raster = open_raster(uri, ref.size, pages)
        self._said = {number: said for (file, number), said in ref.stated.items() if file == uri}
        try:
            mask = ref.mask_of(uri)
            if mask is not None:
                self.raster.take_mask(open_raster(mask, ref.size))
            place = locate(self.raster.source, world_at(ref.world, storage))
        except BaseException:
            self.raster.close()
            raise
        self.place = place.note
        size = self.raster.height, self.raster.width
        self.grid = SceneExtent(uri.rpartition("/")[2], *size, place.crs, place.transform)

    def offered(self, names: Names) -> tuple[list[BandSource], int | None]:
        """The data bands of a file that is a whole scene, named, and the one that is alpha.

        Raises:
            MisfitError: another number of bands than named, or none but alpha.
        """
        raster, in_order = self.raster, names if isinstance(names, tuple) else ()
        numbers, alpha = raster.data_bands(len(in_order))
        if in_order and len(in_order) != len(numbers):
            raise MisfitError(f"has {raster.summary()}, bands=[...] names {len(in_order)}")
        if not numbers:
            raise MisfitError("holds no band but alpha")
        texts, colours = raster.descriptions, raster.colours
        own = [texts[n - 1] for n in numbers], [colours[n - 1] for n in numbers]
        found = in_order or band_names(*own, len(numbers))
        pairs = zip(found, numbers, strict=True)
        return [BandSource(name, self.uri, number) for name, number in pairs], alpha

    def stated(self, number: int) -> Stated:
        """What is said of a band's numbers, by the Item and else by the file."""
        own = self.raster.units([number])
        return self._said.get(number, Stated()).beside(own[0] if own else None)

    def nodata(self, numbers: Sequence[int]) -> tuple[list[float | None], list[float | None]]:
        """Nodata of bands, the file's or else the Item's; and the Item's, which holds besides.

        Raises:
            MisfitError: the Item states one that is no number.
        """
        item = [self._said.get(n, Stated()).hidden(self.raster.dtype) for n in numbers]
        own = [self.raster.nodata[n - 1] for n in numbers]
        return [i if o is None else o for o, i in zip(own, item, strict=True)], item

    def notes(self) -> list[str]:
        """What a reader must know of its pages."""
        raster, name = self.raster, self.grid.scene
        notes = (
            [f"{name}: {raster.summary()}, pages taken as bands"] if len(raster.pages) > 1 else []
        )
        if raster.pages_left:
            notes.append(f"{name}: left out, unlike its first page: {', '.join(raster.pages_left)}")
        return notes


@dataclass(frozen=True)
class _Part:
    """The wanted bands of one file."""

    file: _File
    bands: list[int]
    """Their numbers in the file."""
    at: list[int]
    """Their places among the wanted."""
    alpha: int | None
    """The band that says where data is."""
    ratio: int
    """px of the scene's grid that one of the file is long."""
    others: list[int]
    """Its other data bands, where they have a say in what of these is nodata."""

    def read(
        self, row: int, column: int, height: int, width: int
    ) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        """A window of stored px, and which values masks and alpha show; None: all."""
        window = Window(column, row, width, height)
        x_CHW, shown = self.file.raster.read(self.bands, self.alpha, window)
        for x_HW, nodata, item in zip(x_CHW, *self.file.nodata(self.bands), strict=True):
            if item is not None and item != nodata and not np.isnan(item):
                x_HW[held(x_HW, item)] = nodata
        return x_CHW, shown

    def on_grid(
        self, row: int, column: int, height: int, width: int
    ) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        """As `read`, of the scene's grid: bilinear over what is measured where that is finer."""
        if self.ratio == 1:
            return self.read(row, column, height, width)
        grid, nodata = self.file.grid, self.file.nodata(self.bands)[0]
        rows = lane(row, row + height, grid.height, grid.height * self.ratio)
        columns = lane(column, column + width, grid.width, grid.width * self.ratio)
        x_CHW, shown = self.read(rows.first, columns.first, rows.count, columns.count)
        floats = x_CHW.dtype.kind == "f"
        shown_CHW = np.isfinite(x_CHW) if floats else np.ones(x_CHW.shape, bool)
        if shown is not None:
            shown_CHW &= shown
        hole_CHW = np.stack(list(map(held, x_CHW, nodata)))
        y_CHW, share_CHW = resampled(x_CHW, shown_CHW & ~hole_CHW, rows, columns)
        seen_CHW = share_CHW >= HALF
        for y_HW, seen_HW, x_HW, hole_HW in zip(y_CHW, seen_CHW, x_CHW, hole_CHW, strict=True):
            y_HW[~seen_HW] = x_HW[hole_HW][0] if hole_HW.any() else 0
        joint = [together(x_CHW.dtype, value) for value in nodata]
        if any(joint) and hole_CHW.any():  # together with bands of other files, on the scene's grid
            seen_CHW[joint] = resampled(x_CHW, shown_CHW, rows, columns)[1][joint] >= HALF
        return (y_CHW if floats else np.rint(y_CHW)).astype(x_CHW.dtype), seen_CHW


class Scene:
    """An open scene; close it, or use it as a context. For one process; reads queue up."""

    def __init__(
        self,
        facts: SceneFacts,
        parts: list[_Part],
        change: Change | None,
        reading: Callable[[], AbstractContextManager[None]],
        again: "Callable[[], Scene] | None",
    ) -> None:
        self.facts = facts
        self._parts = parts
        self._change = change
        self._reading = reading
        self._again = again
        self._lock = threading.Lock()

    def __enter__(self) -> "Scene":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def block_width(self) -> int:
        """Columns of stored px that are decoded together, in the file where they are most."""
        rasters = [(part.file.raster, part.ratio) for part in self._parts]
        return max(
            min(int(raster.source.block_shapes[0][1]), raster.width) * ratio
            for raster, ratio in rasters
        )

    def close(self) -> None:
        """Close its files."""
        for part in self._parts:
            part.file.raster.close()

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

        def attempt() -> tuple[NDArray[Any], NDArray[np.bool_]]:
            try:
                with self._lock, self._reading():
                    return self._read(row, column, height, width)
            # GDAL's errors share no base; what a file does to GDAL costs this scene only
            except Exception as error:
                raise DecodeError(
                    f"{self.facts.extent.scene}: rows {row} to {row + height}, columns {column} to "
                    f"{column + width} cannot be read: {reason(error)}"
                ) from error

        x_CHW, valid_CHW = _patiently(attempt, self._again is not None, self._reopen)
        change, dtype = self._change, self.facts.dtype
        return x_CHW if change is None else change(x_CHW, dtype), valid_CHW

    def _read(
        self, row: int, column: int, height: int, width: int
    ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        x_CHW = np.empty((len(self.facts.bands), height, width), self.facts.stored_dtype)
        shown_CHW: NDArray[np.bool_] | None = None
        nodata: list[float | None] = [None] * len(x_CHW)
        for part in self._parts:
            values, shown = part.on_grid(row, column, height, width)
            x_CHW[part.at] = values
            if shown is not None:
                shown_CHW = np.ones(x_CHW.shape, bool) if shown_CHW is None else shown_CHW
                shown_CHW[part.at] = shown
            for place, value in zip(part.at, part.file.nodata(part.bands)[0], strict=True):
                nodata[place] = value
        first = self._parts[0]

        def others() -> tuple[NDArray[Any], Nodata]:
            window = Window(column, row, width, height)
            values, _ = first.file.raster.read(first.others, None, window)
            return values, first.file.nodata(first.others)[0]

        valid_CHW = valid_values(x_CHW, nodata, shown_CHW, others if first.others else None)
        return x_CHW, np.ones(x_CHW.shape, bool) if valid_CHW is None else valid_CHW

    def _reopen(self) -> None:
        with self._lock:
            self.close()
            if self._again is not None:
                self._parts = self._again()._parts


def open_scene(
    ref: SceneRef,
    wanted_bands: tuple[str, ...],
    names: Names,
    storage: Storage,
    *,
    dtype: str | None = None,
    conversion: Conversion = Conversion(),
    pages: PagesKey = "bands",
) -> Scene:
    """Open a scene, without reading any of its pixels.

    Args:
        ref: the scene.
        wanted_bands: bands to read, in the bundle's order.
        names: what the recipe says of the scene's bands.
        storage: how it is reached.
        dtype: the bundle's dtype; None: as stored.
        conversion: how numbers of another unit, dtype or scale become the bundle's; checked.
        pages: which pages of a TIFF are bands.

    Raises:
        MisfitError: a band that it lacks, another dtype, a scale or nodata that is none.
        DecodeError: no raster, damaged, out of reach, files that do not fit together.
    """
    found = schemes(uris_of(ref.uri, ref.bands))
    reading = functools.partial(environment, found, storage)

    def attempt() -> Scene:
        with ExitStack() as stack:
            files: dict[str, _File] = {}

            def file_at(uri: str) -> _File:
                if uri not in files:
                    files[uri] = _File(ref, uri, pages, storage)
                    stack.callback(files[uri].raster.close)
                return files[uri]

            try:
                with reading():
                    chosen = _chosen(ref, wanted_bands, names, file_at)
                    facts, parts, change = _fitted(ref, chosen, names, file_at, dtype, conversion)
            except SatrayError:
                raise
            except Exception as error:  # GDAL's errors (rasterio._err) share no public base
                raise DecodeError(f"cannot be opened: {reason(error)}") from error
            stack.pop_all()  # open from here on, until the scene is closed
        return Scene(facts, parts, change, reading, opened if any(found) else None)

    def opened() -> Scene:
        return _patiently(attempt, any(found))

    return opened()


def source_names(wanted: Sequence[str], names: Names) -> tuple[str, ...] | None:
    """The names under which wanted bands are looked up; None where a number is among them."""
    if not isinstance(names, Mapping):
        return tuple(wanted)
    asked = [names.get(band, band) for band in wanted]
    return None if any(isinstance(name, int) for name in asked) else tuple(map(str, asked))


def _patiently(
    attempt: Callable[[], T], network: bool, between: Callable[[], None] = lambda: None
) -> T:
    """Try again where GDAL fails over a network.

    It repeats what is refused, but not an answer that ends halfway, and of that it keeps the half
    until the file is closed.
    """
    for pause in PAUSES if network else ():
        try:
            return attempt()
        except MisfitError:
            raise
        except DecodeError:
            time.sleep(pause)
            between()
    return attempt()


def _chosen(
    ref: SceneRef, wanted: Sequence[str], names: Names, file_at: Callable[[str], _File]
) -> list[BandSource]:
    """Where each wanted band lies.

    Raises:
        MisfitError: one is absent; says what there is.
    """
    found: dict[int | str, BandSource] = {}
    if ref.bands is None:
        file = file_at(ref.uri)
        have, alpha = file.offered(names)
        texts = file.raster.descriptions
        for band in have:
            text = texts[band.band - 1]
            found |= {band.band: band} | ({canonical(text): band} if text else {})
        if alpha is not None:
            found[alpha] = BandSource("", ref.uri, alpha)
    else:
        have = list(ref.bands)
    found |= {canonical(band.name): band for band in have}
    chosen = []
    for name in wanted:
        asked = names.get(name, name) if isinstance(names, Mapping) else name
        source = found.get(asked if isinstance(asked, int) else canonical(asked))
        if source is None:
            what = f"band {name}" if asked == name else f"band {asked} (for {name})"
            there = ", ".join(dict.fromkeys(band.name for band in have))
            raise MisfitError(
                f"no {what}; the scene has {there}, the bundle wants {', '.join(wanted)}"
            )
        chosen.append(replace(source, name=name))
    return chosen


def _fitted(
    ref: SceneRef,
    chosen: list[BandSource],
    names: Names,
    file_at: Callable[[str], _File],
    dtype: str | None,
    conversion: Conversion,
) -> tuple[SceneFacts, list[_Part], Change | None]:
    """The wanted bands, file by file, and what is made of their numbers."""
    used = [file_at(uri) for uri in dict.fromkeys(band.uri for band in chosen)]
    stored, *other = sorted({file.raster.dtype for file in used})
    if other:
        raise MisfitError(f"files of dtypes {', '.join((stored, *other))}; accepted: one dtype")
    finest, lengths = ratios([file.grid for file in used])
    names = names if ref.bands is None else None  # in order they are a whole scene's
    parts = []
    for file, ratio in zip(used, lengths, strict=True):
        at = [place for place, band in enumerate(chosen) if band.uri == file.uri]
        numbers = [chosen[place].band for place in at]
        if max(numbers) > file.raster.count:
            raise MisfitError(f"{file.uri} has {file.raster.count} bands; no band {max(numbers)}")
        in_order = len(names) if isinstance(names, tuple) else 0
        data, alpha = file.raster.data_bands(in_order)
        asked = set(names.values()) if isinstance(names, Mapping) else set()
        alpha = None if alpha in {*numbers, *asked} else alpha
        others: list[int] = []
        joint = (together(np.dtype(stored), value) for value in file.nodata(numbers)[0])
        if len(used) == 1 and any(joint):
            others = [number for number in data if number not in numbers]
        parts.append(_Part(file, numbers, at, alpha, ratio, others))
    bands = tuple(band.name for band in chosen)
    stated = [file_at(band.uri).stated(band.band) for band in chosen]
    units = [one.unit(name) for name, one in zip(bands, stated, strict=True)]
    change, said = conversion.of_scene(bands, units, stored, dtype or stored)
    notes = [note for file in used for note in file.notes()]
    if ref.item and all(one.offset is None for one in stated):
        notes.append(baseline_note(ref.item))
    notes.append(said or "")
    file = used[finest]
    facts = SceneFacts(
        extent=replace(file.grid, scene=ref.scene),
        bands=bands,
        stored_dtype=stored,
        dtype=dtype or stored,
        taken_at=file.raster.source.tags().get("TIFFTAG_DATETIME"),
        place=file.place,
        notes=tuple(note for note in notes if note),
    )
    return facts, parts, change
