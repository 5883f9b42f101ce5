"""A scene, open: its facts, and windows of its bands as the bundle was trained on them.

Legend: C wanted bands, H x W stored px of a window.
"""

import functools
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from satray.data.georeference import world_at
from satray.data.raster import MASK, PagesKey, Raster
from satray.data.values import Change, Nodata, held, together, valid_values
from satray.errors import DecodeError, SatrayError
from satray.scoring.reading import MisfitError
from satray.scoring.scenes.aligned import ratios
from satray.scoring.scenes.bands import Names, named, of_file, of_files
from satray.scoring.scenes.conversion import Conversion
from satray.scoring.scenes.gdal import environment, open_raster, reason, schemes
from satray.scoring.scenes.lanes import HALF, lane, resampled
from satray.scoring.scenes.raster import SceneFile
from satray.scoring.scenes.scene import BandSource, SceneRef, uris_of
from satray.scoring.scenes.stated import Stated
from satray.storage import Storage

PAUSES = (0.1, 0.3, 1.0, 3.0)
"""Seconds before another try at a file that is read over a network."""


@dataclass(frozen=True)
class SceneFacts:
    """What a scene is, apart from its pixels."""

    scene: str
    """Its name."""
    height: int
    """Rows, stored px of the finest file."""
    width: int
    """Columns, stored px."""
    bands: tuple[str, ...]
    """Bands that are read, in order."""
    sources: tuple[BandSource, ...]
    """Where each lies."""
    stored_dtype: str
    """dtype in the files (NumPy name)."""
    dtype: str
    """dtype of the pixels given, after conversion."""
    crs: str | None
    """`AUTHORITY:CODE` where it equals that definition, else WKT; None without a place."""
    transform: tuple[float, ...] | None
    """Affine of stored px corners, rasterio's order; None without georeference."""
    block: tuple[int, int]
    """Rows and columns that are decoded at once, stored px."""
    taken_at: str | None
    """The TIFF's own date and time (`TIFFTAG_DATETIME`), as it stands; None without."""
    place: str = ""
    """What to know about its georeference; empty where all is plain."""
    notes: tuple[str, ...] = ()
    """What a reader must know of its pages, and of what was made of its numbers."""


@dataclass(frozen=True)
class _Part:
    """The wanted bands of one file."""

    file: SceneFile
    bands: list[int]
    """Their numbers in the file."""
    at: list[int]
    """Their places among the wanted."""
    alpha: int | None
    ratio: int
    """px of the scene's grid that one of the file is long."""
    nodata: list[float | None]
    """Of its bands."""
    item_nodata: list[float | None]
    """What the scene's Item says of them; holds besides."""
    beside: list[int]
    """Its other data bands, where they have a say in what of these is nodata."""
    beside_nodata: list[float | None]
    """Of those."""


class Scene:
    """An open scene; close it, or use it as a context. For one process; reads queue up."""

    def __init__(
        self,
        facts: SceneFacts,
        parts: list[_Part],
        change: Change | None,
        found: frozenset[str],
        storage: Storage,
    ) -> None:
        self.facts = facts
        self._parts = parts
        self._change = change
        self._schemes = found
        self._storage = storage
        self._lock = threading.Lock()
        self._failed = 0  # reads in a row
        self._reopen: Callable[[], Scene] | None = None
        nodata: list[float | None] = [None] * len(facts.bands)
        for part in parts:
            for place, value in zip(part.at, part.nodata, strict=True):
                nodata[place] = value
        self._nodata = nodata

    def __enter__(self) -> "Scene":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

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
            `tiles.nodata`: a file's mask and alpha hide its own bands, and bands of all files have
            their say in what is nodata. A band of a coarser file is brought to the scene's grid,
            bilinear over what is measured in it.

        Raises:
            DecodeError: cut short, damaged, or out of reach; names the window.
        """
        shape = (height, width)
        x_CHW = np.empty((len(self.facts.bands), *shape), self.facts.stored_dtype)
        shown_CHW = np.ones(x_CHW.shape, dtype=bool)
        try:
            with self._lock, environment(self._schemes, self._storage):
                for part in self._parts:
                    window = _window(part, row, column, height, width)
                    x_CHW[part.at], shown_CHW[part.at] = window
                valid_CHW = self._measured(x_CHW, shown_CHW, row, column)
        except (
            Exception
        ) as error:  # GDAL's errors share no base; what a file does to GDAL costs this scene only
            if self._reopened():
                return self.read(row, column, height, width)
            raise DecodeError(
                f"{self.facts.scene}: rows {row} to {row + height}, columns {column} to "
                f"{column + width} cannot be read: {reason(error)}"
            ) from error
        self._failed = 0
        change, dtype = self._change, self.facts.dtype
        return x_CHW if change is None else change(x_CHW, dtype), valid_CHW

    def _measured(
        self, x_CHW: NDArray[Any], shown_CHW: NDArray[np.bool_], row: int, column: int
    ) -> NDArray[np.bool_]:
        (part, *_) = self._parts

        def beside() -> tuple[NDArray[Any], Nodata]:
            y_CHW, _ = part.file.read(part.beside, None, row, column, *x_CHW.shape[1:])
            return y_CHW, part.beside_nodata

        others = beside if part.beside else None
        valid_CHW = valid_values(x_CHW, self._nodata, shown_CHW, others)
        return shown_CHW if valid_CHW is None else valid_CHW

    def _reopened(self) -> bool:
        """Open the files anew for one more try, where a network is between."""
        if self._reopen is None or self._failed >= len(PAUSES):
            return False
        with self._lock:
            time.sleep(PAUSES[self._failed])
            self._failed += 1
            self.close()
            self._parts = self._reopen()._parts
        return True


def _patient(open_one: Callable[..., Scene]) -> Callable[..., Scene]:
    """Have scenes opened, and read, again where GDAL fails over a network.

    It repeats what is refused, but not an answer that ends halfway, and of that it keeps the half
    until the file is closed.
    """

    @functools.wraps(open_one)
    def patient(ref: SceneRef, *given: Any, **more: Any) -> Scene:
        def again() -> Scene:
            for pause in PAUSES:
                try:
                    return open_one(ref, *given, **more)
                except MisfitError:
                    raise
                except DecodeError:
                    time.sleep(pause)
            return open_one(ref, *given, **more)

        if not any(schemes(uris_of(ref.uri, ref.bands))):
            return open_one(ref, *given, **more)
        scene = again()
        scene._reopen = again
        return scene

    return patient


@_patient
def open_scene(
    ref: SceneRef,
    wanted_bands: tuple[str, ...],
    names: Names,
    storage: Storage,
    *,
    dtype: str | None = None,
    conversion: Conversion = Conversion(),  # noqa: B008
    pages: PagesKey = "bands",
) -> Scene:
    """Open a scene, without reading any of its pixels.

    Args:
        ref: the scene.
        wanted_bands: bands to read, in the bundle's order.
        names: what the recipe says of the scene's bands.
        storage: how it is reached.
        dtype: the bundle's dtype; None: as stored.
        conversion: how numbers of another unit, dtype or scale become the bundle's.
        pages: which pages of a TIFF are bands.

    Raises:
        MisfitError: a band that it lacks, another dtype, a scale or nodata that is none.
        DecodeError: no raster, damaged, out of reach, files that do not fit together.
        InputError: a conversion that does not fit the bands.
    """
    conversion.check(wanted_bands)
    found = schemes(uris_of(ref.uri, ref.bands))
    with ExitStack() as opened:
        rasters: dict[str, SceneFile] = {}

        def raster_of(uri: str) -> SceneFile:
            if uri not in rasters:
                raster = open_raster(uri, ref.size, pages)
                opened.callback(raster.close)
                if uri in ref.masked:
                    raster.take_mask(_mask_of(uri, ref))
                rasters[uri] = SceneFile.of(uri, raster, world_at(ref.world, storage))
            return rasters[uri]

        try:
            with environment(found, storage):
                if ref.bands is None:
                    offered = raster_of(ref.uri).offered(names)
                    chosen = of_file(offered, wanted_bands, names, ref.uri)
                else:
                    told = named(ref.bands, names, raster_of)
                    chosen = of_files(told, wanted_bands, names)
                used = [raster_of(uri) for uri in dict.fromkeys(band.uri for band in chosen)]
                facts, parts, change = _fitted(ref, chosen, used, names, dtype, conversion)
        except SatrayError:
            raise
        except Exception as error:  # GDAL's errors (rasterio._err) share no public base
            raise DecodeError(f"cannot be opened: {reason(error)}") from error
        for file in rasters.values():
            if file not in used:
                file.raster.close()
        opened.pop_all()  # open from here on, until the scene is closed
    return Scene(facts, parts, change, found, storage)


def _mask_of(uri: str, ref: SceneRef) -> Raster:
    """The open `.msk` beside a raster."""
    try:
        return open_raster(uri + MASK, ref.size)
    except DecodeError as error:
        raise DecodeError(f"its {MASK}: {error}") from error


def _fitted(
    ref: SceneRef,
    chosen: list[BandSource],
    used: list[SceneFile],
    names: Names,
    dtype: str | None,
    conversion: Conversion,
) -> tuple[SceneFacts, list[_Part], Change | None]:
    stored = sorted({file.raster.dtype for file in used})
    if len(stored) > 1:
        raise MisfitError(f"files of dtypes {', '.join(stored)}; accepted: one dtype")
    by_uri = {file.uri: file for file in used}
    stated = [
        ref.stated.get((band.uri, band.band), Stated()).beside(by_uri[band.uri].unit(band.band))
        for band in chosen
    ]
    bands = tuple(band.name or "" for band in chosen)
    units = [one.unit(name) for name, one in zip(bands, stated, strict=True)]
    change, told = conversion.of_scene(bands, units, stored[0], dtype or stored[0])
    notes = [note for file in used for note in file.notes()]
    notes += [note for note in (*(one.note for one in stated), told) if note]
    finest, lengths = ratios([file.grid for file in used])
    parts = []
    for file, ratio in zip(used, lengths, strict=True):
        at = [place for place, band in enumerate(chosen) if band.uri == file.uri]
        mine = [chosen[place] for place in at]
        numbers = [band.band for band in mine]
        if max(numbers) > file.raster.count:
            raise MisfitError(f"{file.uri} has {file.raster.count} bands; no band {max(numbers)}")
        # names in order are those of a file that is a whole scene
        alpha = file.alpha(numbers, names if ref.bands is None else None)
        nodata, own = _nodata(ref, file, numbers)
        beside: list[int] = []
        if len(used) == 1 and any(together(np.dtype(stored[0]), value) for value in nodata):
            offered = file.offered(names if ref.bands is None else None)
            beside = [number for number in offered.numbers if number not in numbers]
        void_of, _ = _nodata(ref, file, beside)
        parts.append(_Part(file, numbers, at, alpha, ratio, nodata, own, beside, void_of))
    grid, source = used[finest].grid, used[finest].raster.source
    facts = SceneFacts(
        ref.scene,
        grid.height,
        grid.width,
        bands,
        tuple(chosen),
        stored[0],
        dtype or stored[0],
        grid.crs,
        grid.transform,
        source.block_shapes[0],
        source.tags().get("TIFFTAG_DATETIME"),
        grid.note,
        tuple(dict.fromkeys(notes)),
    )
    return facts, parts, change


def _nodata(
    ref: SceneRef, file: SceneFile, numbers: list[int]
) -> tuple[list[float | None], list[float | None]]:
    """Nodata of a file's bands, its own or else its Item's; and the Item's.

    Raises:
        MisfitError: the Item states one that is no number.
    """
    own = [
        # a palette's colours are no measurements
        None if file.raster.palette is not None else one.hidden(file.raster.dtype)
        for number in numbers
        for one in [ref.stated.get((file.uri, number), Stated())]
    ]
    both = zip((file.raster.nodata[number - 1] for number in numbers), own, strict=True)
    return [item if value is None else value for value, item in both], own


def _stored(
    part: _Part, row: int, column: int, height: int, width: int
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """A window of a file, where its Item's nodata is the file's own."""
    x_CHW, there_HW = part.file.read(part.bands, part.alpha, row, column, height, width)
    for x_HW, nodata, other in zip(x_CHW, part.nodata, part.item_nodata, strict=True):
        if other is not None and other != nodata and not np.isnan(other):
            x_HW[held(x_HW, other)] = nodata
    return x_CHW, there_HW


def _window(
    part: _Part, row: int, column: int, height: int, width: int
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """A window of a file's bands on the scene's grid, and which values its masks show."""
    file, ratio = part.file, part.ratio
    if ratio == 1:
        return _stored(part, row, column, height, width)
    grid = file.grid
    rows = lane(row, row + height, grid.height, grid.height * ratio)
    columns = lane(column, column + width, grid.width, grid.width * ratio)
    window = (rows.first, columns.first, rows.count, columns.count)
    x_CHW, shown_CHW = _stored(part, *window)
    y_CHW = np.empty((len(x_CHW), height, width), x_CHW.dtype)
    seen_CHW = np.empty(y_CHW.shape, dtype=bool)
    for place, (x_HW, shown_HW, nodata) in enumerate(
        zip(x_CHW, shown_CHW, part.nodata, strict=True)
    ):
        if x_HW.dtype.kind == "f":
            shown_HW = shown_HW & np.isfinite(x_HW)
        hole_HW = held(x_HW, nodata)
        good_HW = shown_HW & ~hole_HW
        value_1hw, weight_1hw = resampled(x_HW[None], good_HW[None], rows, columns)
        if x_HW.dtype.kind != "f":
            value_1hw = np.clip(np.rint(value_1hw), x_HW.min(), x_HW.max())
        enough_hw = weight_1hw[0] >= HALF
        # bands that are nodata only together tell on the scene's grid whether they are
        hole = x_HW[hole_HW][0] if hole_HW.any() else 0
        y_CHW[place] = np.where(enough_hw, value_1hw[0], hole).astype(x_HW.dtype)
        seen_CHW[place] = enough_hw
        if together(x_HW.dtype, nodata):
            seen_CHW[place] = resampled(x_HW[None], shown_HW[None], rows, columns)[1][0] >= HALF
    return y_CHW, seen_CHW
