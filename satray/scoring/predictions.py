"""The predictions table: one row a tile, numbers a class; GeoParquet where there is ground.

Legend: N tiles, K classes. Class names stand in column names as they are (`score_haze & fog`); a
tower's name is [a-z0-9]+, so `share_<tower>_<class>` splits at the first underscore after it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from satray.scoring.footprints import Outline, footprints, geo_metadata

OK = "ok"
FAILED = "failed"

FIRST = (
    pa.field("scene", pa.string(), nullable=False),
    pa.field("tile_id", pa.string(), nullable=False),
    pa.field("row", pa.int32(), nullable=False),
    pa.field("col", pa.int32(), nullable=False),
    pa.field("height", pa.int32()),
    pa.field("width", pa.int32()),
    pa.field("geometry", pa.binary()),
    pa.field("crs", pa.string()),
    pa.field("transform", pa.list_(pa.float64())),
)
"""Columns before the classes'."""

LAST = (
    pa.field("status", pa.string(), nullable=False),
    pa.field("error", pa.string()),
    pa.field("model_id", pa.string(), nullable=False),
    pa.field("run_id", pa.string(), nullable=False),
)
"""Columns after the classes'."""


@dataclass(frozen=True)
class Layout:
    """What a predictions table has columns for."""

    classes: tuple[str, ...]
    """Class names, in the bundle's order."""
    towers: tuple[str, ...]
    """Tower names; shares have columns where there are two or more."""
    model_id: str
    """The bundle's id."""
    run_id: str
    """The run's id."""

    @property
    def shared(self) -> tuple[str, ...]:
        """Towers whose shares are columns."""
        return self.towers if len(self.towers) > 1 else ()

    def schema(self) -> pa.Schema:
        """Columns in order, grouped a class."""
        fields = list(FIRST)
        for name in self.classes:
            fields += [
                pa.field(f"target_{name}", pa.uint8()),
                pa.field(f"logit_{name}", pa.float32()),
                pa.field(f"score_{name}", pa.float32()),
                pa.field(f"pred_{name}", pa.uint8()),
                *(pa.field(f"share_{tower}_{name}", pa.float32()) for tower in self.shared),
            ]
        return pa.schema([*fields, *LAST])


@dataclass(frozen=True)
class TileFacts:
    """What is known of a tile besides its numbers."""

    tile_id: str
    """Id of the tile."""
    scene: str
    """Id of the source that `row` and `col` count in; a tile file is its own."""
    row: int = 0
    """First row of the tile in its source (px)."""
    col: int = 0
    """First column of the tile in its source (px)."""
    height: int | None = None
    """Rows (px); None where the file could not be opened."""
    width: int | None = None
    """Columns (px); None where the file could not be opened."""
    crs: str | None = None
    """The source's CRS (authority string or WKT)."""
    transform: tuple[float, ...] | None = None
    """The source's affine: 6 numbers in rasterio's order."""
    target: tuple[int, ...] | None = None
    """Known labels, 0 or 1 a class, in the layout's order."""
    error: str | None = None
    """Why the tile failed; None where it did not."""
    note: str = ""
    """What to know about its georeference."""

    def outline(self) -> Outline | None:
        """Its place on the ground; None without a CRS, an affine or a size."""
        if not (self.crs and self.transform and self.height and self.width):
            return None
        return Outline(self.crs, self.transform, self.row, self.col, self.height, self.width)


@dataclass(frozen=True)
class Numbers:
    """What the network says of N tiles; rows of failed tiles hold anything."""

    logits: NDArray[np.float32]
    """(N, K) raw outputs of the head."""
    scores: NDArray[np.float32]
    """(N, K) probabilities after temperature: sigmoid, or softmax for multiclass."""
    preds: NDArray[np.uint8]
    """(N, K) 1 where the score reaches the class's threshold; multiclass: of the highest logit."""
    shares: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    """Tower -> (N, K) in logit units; over the towers they sum to logit - bias."""


def predictions(layout: Layout, tiles: Sequence[TileFacts], numbers: Numbers) -> pa.Table:
    """Build the table.

    Args:
        layout: classes, towers and ids.
        tiles: N tiles in order.
        numbers: N rows in the same order.

    Returns:
        N rows in `layout.schema()`, with GeoParquet 1.1 metadata where any row has a geometry.
        Failed tiles (`error` set) have status `failed` and no numbers.
    """
    failed = np.array([tile.error is not None for tile in tiles], dtype=bool)
    shapes = footprints([tile.outline() for tile in tiles])
    columns: dict[str, Any] = {
        "scene": [tile.scene for tile in tiles],
        "tile_id": [tile.tile_id for tile in tiles],
        "row": [tile.row for tile in tiles],
        "col": [tile.col for tile in tiles],
        "height": [tile.height for tile in tiles],
        "width": [tile.width for tile in tiles],
        "geometry": shapes,
        "crs": [tile.crs for tile in tiles],
        "transform": [tile.transform for tile in tiles],
        "status": [FAILED if bad else OK for bad in failed],
        "error": [tile.error for tile in tiles],
        "model_id": [layout.model_id] * len(tiles),
        "run_id": [layout.run_id] * len(tiles),
    }
    for k, name in enumerate(layout.classes):
        columns[f"target_{name}"] = [tile.target[k] if tile.target else None for tile in tiles]
        columns[f"logit_{name}"] = (numbers.logits[:, k], failed)
        columns[f"score_{name}"] = (numbers.scores[:, k], failed)
        columns[f"pred_{name}"] = (numbers.preds[:, k], failed)
        for tower in layout.shared:
            columns[f"share_{tower}_{name}"] = (numbers.shares[tower][:, k], failed)
    schema = layout.schema()
    arrays = [_array(columns[column.name], column.type) for column in schema]
    geo = geo_metadata(shapes)
    metadata = {b"geo": json.dumps(geo).encode()} if geo else None
    return pa.Table.from_arrays(arrays, schema=schema.with_metadata(metadata))


def matrix(table: pa.Table, kind: str, classes: Sequence[str]) -> NDArray[np.float64]:
    """Read columns `<kind>_<class>` back as (N, K) float64; nulls become NaN."""
    columns = [table.column(f"{kind}_{name}").cast(pa.float64()).to_numpy() for name in classes]
    return np.stack(columns, axis=1) if columns else np.empty((table.num_rows, 0))


def _array(values: Any, kind: pa.DataType) -> pa.Array:
    if isinstance(values, tuple):
        numbers, missing = values
        return pa.array(np.ascontiguousarray(numbers), type=kind, mask=missing)
    return pa.array(values, type=kind)
