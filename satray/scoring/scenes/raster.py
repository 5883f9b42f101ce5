"""One open file of a scene: what it offers, and windows of it at full resolution."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

from satray.data.georeference import WorldFile, georeference
from satray.data.raster import Raster
from satray.data.values import Unit
from satray.scoring.scenes.aligned import FileGrid
from satray.scoring.scenes.bands import FileBands, Names, file_bands


@dataclass(frozen=True)
class SceneFile:
    """A file of a scene, open."""

    uri: str
    """Where it is."""
    raster: Raster
    """Its bands."""
    grid: FileGrid
    """Its size and georeference."""

    @staticmethod
    def of(uri: str, raster: Raster, world: WorldFile | None = None) -> "SceneFile":
        """What is known of an open raster, and of the world file beside it."""
        place = georeference(raster.source, world)
        grid = FileGrid(
            uri.rpartition("/")[2],
            raster.height,
            raster.width,
            place.crs,
            place.transform,
            place.note,
        )
        return SceneFile(uri, raster, grid)

    def offered(self, names: Names) -> FileBands:
        """The bands that it offers as a whole scene; raises MisfitError as `file_bands`."""
        raster = self.raster
        told, palette = raster.told(), raster.palette is not None
        return file_bands(raster.descriptions, raster.colours, names, palette=palette, told=told)

    def own_name(self, band: int) -> str:
        """What the file calls a band."""
        offered = self.offered(None)
        return dict(zip(offered.numbers, offered.names, strict=True)).get(band, f"b{band}")

    def alpha(self, taken: list[int], names: Names) -> int | None:
        """Number of the band that says where data is: one tagged alpha that is not itself data."""
        if isinstance(names, tuple) and len(names) == self.raster.count:
            return None
        tagged = [i + 1 for i, colour in enumerate(self.raster.colours) if colour == "alpha"]
        told = set(names.values()) if isinstance(names, Mapping) else set()
        return next((band for band in tagged if band not in {*taken, *told}), None)

    def unit(self, band: int) -> Unit | None:
        """What a band's numbers mean; raises DecodeError as `Raster.units`."""
        units = self.raster.units([band]) if band <= self.raster.count else ()
        return units[0] if units else None

    def notes(self) -> list[str]:
        """What a reader must know of its pages."""
        used, left = len(self.raster.pages), self.raster.pages_left
        name = self.uri.rpartition("/")[2]
        told = [f"{name}: {self.raster.told()}, pages taken as bands"] if used > 1 else []
        if left:
            told.append(f"{name}: left out, unlike its first page: {', '.join(left)}")
        return told

    def read(
        self, bands: list[int], alpha: int | None, row: int, column: int, height: int, width: int
    ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Pixels (C, h, w) of bands, and which of them masks and alpha show (C, h, w)."""
        x_CHW, shown = self.raster.read(bands, alpha, Window(column, row, width, height))
        shown_CHW = np.ones(x_CHW.shape, dtype=bool)
        return x_CHW, shown_CHW if shown is None else shown_CHW & shown
