"""One open raster: what it offers, and windows of it at full resolution."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.windows import Window

from satray.scoring.scenes.aligned import FileGrid
from satray.scoring.scenes.bands import FileBands, Names, file_bands
from satray.scoring.scenes.scene import BandSource
from satray.tiles.decode import colours_of, crs_name, has_palette


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
    masked: bool
    """Whether it has a mask of its own, apart from alpha and nodata."""

    @staticmethod
    def of(uri: str, source: Any) -> "Raster":
        """What is known of an open dataset."""
        palette = has_palette(source)
        affine = source.transform
        referenced = source.crs is not None or not affine.is_identity
        flags = set(source.mask_flag_enums[0])
        own = MaskFlags.per_dataset in flags and not flags & {MaskFlags.alpha, MaskFlags.nodata}
        grid = FileGrid(
            uri.rpartition("/")[2],
            source.height,
            source.width,
            crs_name(source.crs.to_wkt()) if source.crs else None,
            (*affine,)[:6] if referenced else None,
        )
        return Raster(
            uri,
            source,
            grid,
            "uint8" if palette else source.dtypes[0],
            colours_of(source) if palette else None,
            1 if palette else _gain(source),
            own,
        )

    def offered(self, names: Names) -> FileBands:
        """The bands that it offers as a whole scene; raises MisfitError as `file_bands`."""
        colours = [colour.name for colour in self.source.colorinterp]
        palette = self.colours is not None
        return file_bands(self.source.descriptions, colours, names, palette=palette)

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
        if isinstance(names, tuple) or self.colours is not None:
            return None
        tagged = [i + 1 for i, c in enumerate(self.source.colorinterp) if c == ColorInterp.alpha]
        return next((band for band in tagged if band not in taken), None)

    def nodata(self, bands: list[BandSource]) -> list[float | None]:
        """Declared nodata of bands; a palette's is in its mask."""
        if self.colours is not None:
            return [None] * len(bands)
        return [self.source.nodatavals[band.band - 1] for band in bands]

    def read(
        self, bands: list[int], alpha: int | None, row: int, column: int, height: int, width: int
    ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Pixels (C, h, w) of bands, and where the file itself says that there is data (h, w)."""
        window = Window(column, row, width, height)
        if self.colours is not None:
            index_HW = self.source.read(1, window=window)
            x_CHW = self.colours[index_HW, :3].transpose(2, 0, 1)[[band - 1 for band in bands]]
            there_HW = self.colours[index_HW, 3] > 0
            if self.source.nodata is not None:
                there_HW &= index_HW != self.source.nodata
            return x_CHW, there_HW
        numbers = [*bands, *([] if alpha is None else [alpha])]
        read_CHW = self.source.read(numbers, window=window)
        x_CHW = read_CHW[: len(bands)]
        there_HW = np.ones(x_CHW.shape[1:], dtype=bool)
        if alpha is not None:
            there_HW &= read_CHW[-1] > 0
        if self.masked:
            there_HW &= self.source.read_masks(1, window=window) > 0
        return x_CHW if self.gain == 1 else x_CHW * np.uint8(self.gain), there_HW


def _gain(source: Any) -> int:
    if source.driver != "PNG" or source.count != 1 or source.dtypes[0] != "uint8":
        return 1
    bits = int(source.tags(1, ns="IMAGE_STRUCTURE").get("NBITS", 8))
    return int(255 // (2**bits - 1))
