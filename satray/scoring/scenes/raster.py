"""One open raster: what it offers, and windows of it at full resolution."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from rasterio.windows import Window

from satray.data.georeference import WorldFile, georeference
from satray.data.layout import coloured, colours_of, gain_of, has_palette, shown_by_masks
from satray.data.pages import pages_left, pages_told, pages_used
from satray.data.units import Unit, file_units
from satray.scoring.scenes.aligned import FileGrid
from satray.scoring.scenes.bands import FileBands, Names, file_bands


@dataclass(frozen=True)
class Raster:
    """A file of a scene, open."""

    uri: str
    """Where it is."""
    source: Any
    """rasterio's dataset."""
    grid: FileGrid
    """Its size and georeference."""
    dtype: str
    """dtype of the values that it gives; a palette's colours are uint8."""
    colours: NDArray[np.uint8] | None
    """A palette: red, green, blue, alpha by index."""
    gain: int
    """Factor that spreads gray levels of fewer than 8 bits in a PNG over 0..255; else 1."""
    mask: Any
    """rasterio's dataset of the `.msk` beside it; None without."""

    @staticmethod
    def of(uri: str, source: Any, mask: Any = None, world: WorldFile | None = None) -> "Raster":
        """What is known of an open dataset, and of the mask and the world file beside it."""
        palette = has_palette(source)
        place = georeference(source, world)
        grid = FileGrid(
            uri.rpartition("/")[2],
            source.height,
            source.width,
            place.crs,
            place.transform,
            place.note,
        )
        return Raster(
            uri,
            source,
            grid,
            "uint8" if palette else source.dtypes[0],
            colours_of(source) if palette else None,
            1 if palette else gain_of(source),
            mask,
        )

    def offered(self, names: Names) -> FileBands:
        """The bands that it offers as a whole scene; raises MisfitError as `file_bands`."""
        colours = [colour.name for colour in self.source.colorinterp]
        palette = self.colours is not None
        told = pages_told(self.source)
        return file_bands(self.source.descriptions, colours, names, palette=palette, told=told)

    def own_name(self, band: int) -> str:
        """What the file calls a band."""
        offered = self.offered(None)
        return dict(zip(offered.numbers, offered.names, strict=True)).get(band, f"b{band}")

    @property
    def count(self) -> int:
        """How many bands can be taken."""
        return 3 if self.colours is not None else int(self.source.count)

    def alpha(self, taken: list[int], names: Names) -> int | None:
        """Number of the band that says where data is: one tagged alpha that is not itself data."""
        every = isinstance(names, tuple) and len(names) == self.source.count
        if every or self.colours is not None:
            return None
        tagged = [i + 1 for i, c in enumerate(self.source.colorinterp) if c == ColorInterp.alpha]
        told = set(names.values()) if isinstance(names, Mapping) else set()
        return next((band for band in tagged if band not in {*taken, *told}), None)

    def nodata(self, bands: list[int]) -> list[float | None]:
        """Declared nodata of bands, in the units that are given; a palette's is in its mask."""
        if self.colours is not None:
            return [None] * len(bands)
        stored = [self.source.nodatavals[band - 1] for band in bands]
        return [None if value is None else value * self.gain for value in stored]

    def close(self) -> None:
        """Close it and its mask."""
        self.source.close()
        if self.mask is not None:
            self.mask.close()

    def unit(self, band: int) -> Unit | None:
        """What a band's numbers mean; raises DecodeError as `file_units`."""
        if self.colours is not None or band > self.count:
            return None
        units = file_units(self.source, [band])
        return units[0] if units else None

    def notes(self) -> list[str]:
        """What a reader must know of its pages."""
        used, left = pages_used(self.source), pages_left(self.source)
        name = self.uri.rpartition("/")[2]
        told = [f"{name}: {pages_told(self.source)}, pages taken as bands"] if used > 1 else []
        if left:
            told.append(f"{name}: left out, unlike its first page: {', '.join(left)}")
        return told

    def read(
        self, bands: list[int], alpha: int | None, row: int, column: int, height: int, width: int
    ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Pixels (C, h, w) of bands, and which of them masks and alpha show (C, h, w)."""
        window = Window(column, row, width, height)
        numbers = [1] * len(bands) if self.colours is not None else bands
        own = shown_by_masks(self.source, numbers, self.mask, window)
        shown_CHW = np.ones((len(bands), height, width), dtype=bool)
        if own is not None:
            shown_CHW &= own
        if self.colours is not None:
            index_HW = self.source.read(1, window=window)
            x_CHW, shown_HW = coloured(index_HW, self.colours, self.source.nodata)
            return x_CHW[[band - 1 for band in bands]], shown_CHW & shown_HW
        read_CHW = self.source.read([*bands, *([] if alpha is None else [alpha])], window=window)
        x_CHW = read_CHW[: len(bands)]
        if alpha is not None:
            shown_CHW &= read_CHW[-1] > 0
        return x_CHW if self.gain == 1 else x_CHW * np.uint8(self.gain), shown_CHW
