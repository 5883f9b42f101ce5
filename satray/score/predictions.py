"""The predictions table: one row a tile, numbers a class; GeoParquet where there is a place.

Legend: N tiles, K classes. Class names stand in column names as they are (`score_haze & fog`); a
tower's name is [a-z0-9]+, so `share_<tower>_<class>` splits at the first underscore after it.

Tables are pyarrow's, with GeoParquet's metadata added here: they are written in parts, and
geopandas would hold all rows at once, each geometry an object.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from satray.errors import counted
from satray.score.outlines import SceneExtent, outlines

OK = "ok"
FAILED = "failed"
NODATA = "nodata"
"""Status of a scene's tile that holds too few valid pixels to be scored; no failure."""

GROUP_ROWS = 65_536
"""Rows of a row group, at most; what a writer keeps in memory."""

CLASSES_SAID = 8
"""Most classes that a job's last lines name."""
REASONS_SAID = 3
"""Most reasons of failures that they name."""

CORNERS = ("xmin", "ymin", "xmax", "ymax")
BOX: Any = pa.struct([(corner, pa.float64()) for corner in CORNERS])

GEO = json.dumps(
    {
        "version": "1.1.0",
        "primary_column": "geometry",
        "columns": {
            "geometry": {
                "encoding": "WKB",
                "geometry_types": ["MultiPolygon", "Polygon"],
                "orientation": "counterclockwise",
                "edges": "planar",
                "covering": {"bbox": {corner: ["bbox", corner] for corner in CORNERS}},
            }
        },
    }
).encode()
"""GeoParquet 1.1 metadata `geo`. Without a `crs` key coordinates are OGC:CRS84, by the
specification; readers take a table's bounds from the statistics of `bbox`."""

FIRST = (
    pa.field("scene", pa.string(), nullable=False),
    pa.field("tile_id", pa.string(), nullable=False),
    pa.field("row", pa.int32(), nullable=False),
    pa.field("col", pa.int32(), nullable=False),
    pa.field("height", pa.int32()),
    pa.field("width", pa.int32()),
    pa.field("geometry", pa.binary()),
    pa.field("bbox", BOX),
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
    """The rows of tile files.

    Args:
        layout: classes, towers and ids.
        tiles: N tiles in order.
        numbers: N rows in the same order.

    Returns:
        N rows in `layout.schema()`, with GeoParquet 1.1 metadata where any row has a geometry.
        Failed tiles (`error` set) have status `failed` and no numbers.
    """
    failed = np.array([tile.error is not None for tile in tiles], dtype=bool)
    places = ("scene", "tile_id", "row", "col", "height", "width", "crs", "transform", "error")
    columns = {name: [getattr(tile, name) for tile in tiles] for name in places}
    columns["status"] = [FAILED if bad else OK for bad in failed]
    for k, name in enumerate(layout.classes):
        columns[f"target_{name}"] = [tile.target[k] if tile.target else None for tile in tiles]
    table = _table(layout, columns, _footprints(tiles), numbers, failed)
    return table.replace_schema_metadata(_geo(table))


def scene_predictions(
    layout: Layout,
    extent: SceneExtent,
    rows: NDArray[np.float64],
    cols: NDArray[np.float64],
    size: tuple[float, float],
    scored: NDArray[np.bool_],
    numbers: Numbers,
) -> pa.Table:
    """The rows of N tiles of a scene, in `layout.schema()`.

    `row, col, height, width` are rounded to whole stored px; the geometry is not. `tile_id` is
    `SCENE#ROW_COL`.

    Args:
        layout: classes, towers and ids.
        extent: the scene's.
        rows: (N,) upper edges, stored px; whole numbers where scene and network have one scale.
        cols: (N,) left edges, stored px.
        size: height and width of each, stored px.
        scored: (N,) False where too few pixels are valid; their numbers are null.
        numbers: N rows; those of tiles that are not scored hold anything.
    """
    tops, lefts = (np.rint(edges).astype(np.int32) for edges in (rows, cols))
    height, width = (np.full(len(rows), side) for side in size)
    columns = {
        "scene": pa.repeat(extent.scene, len(rows)),
        "tile_id": [f"{extent.scene}#{row}_{col}" for row, col in zip(tops, lefts, strict=True)],
        "row": tops,
        "col": lefts,
        "height": np.maximum(np.rint(height), 1).astype(np.int32),
        "width": np.maximum(np.rint(width), 1).astype(np.int32),
        "crs": [extent.crs] * len(rows),
        "transform": [extent.transform] * len(rows),
        "status": np.where(scored, OK, NODATA).tolist(),
    }
    return _table(layout, columns, extent.shapes(rows, cols, height, width), numbers, ~scored)


class PredictionsWriter:
    """Writes a predictions file on the local disk in row groups; a context manager.

    GeoParquet where any row has a geometry, which shows at the end.
    """

    def __init__(self, path: Path, layout: Layout, **made: str) -> None:
        """Create the file.

        Args:
            path: its place.
            layout: its columns.
            made: how: `mode`, `engine`; the file's metadata `satray:mode`, `satray:engine`.
        """
        self._schema = layout.schema()
        self.made = made
        """What the metadata will say; counts until the file is closed."""
        # without Arrow's copy of the schema, which would hide metadata that come at the end
        self._writer = pq.ParquetWriter(path, self._schema, compression="zstd", store_schema=False)
        self._waiting: list[pa.Table] = []
        self._geo: dict[bytes, bytes] = {}
        self.rows = 0

    def write(self, table: pa.Table) -> None:
        """Add rows of the layout, as many as the caller likes at once."""
        self._geo |= _geo(table)
        self._waiting.append(table.replace_schema_metadata(None).cast(self._schema))
        self.rows += table.num_rows
        if sum(waiting.num_rows for waiting in self._waiting) >= GROUP_ROWS:
            self._flush()

    def close(self) -> None:
        """Write what is waiting, and the metadata."""
        self._flush()
        made = {f"satray:{name}".encode(): value.encode() for name, value in self.made.items()}
        self._writer.add_key_value_metadata(made | self._geo)
        self._writer.close()

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Finish the file; after an error it is only closed."""
        (self.close if kind is None else self._writer.close)()

    def _flush(self) -> None:
        if self._waiting:
            self._writer.write_table(pa.concat_tables(self._waiting), row_group_size=GROUP_ROWS)
            self._waiting = []


def matrix(table: pa.Table, kind: str, classes: Sequence[str]) -> NDArray[np.float64]:
    """Read columns `<kind>_<class>` back as (N, K) float64; nulls become NaN."""
    columns = [table.column(f"{kind}_{name}").cast(pa.float64()).to_numpy() for name in classes]
    return np.stack(columns, axis=1) if columns else np.empty((table.num_rows, 0))


def predicted_line(predicted: Mapping[str, int], tiles: int) -> str:
    """Which classes so many tiles are given, and how often, for a job's last lines."""
    ranked = sorted(predicted.items(), key=lambda pair: -pair[1])
    words = [f"{name} {n:,} ({n / tiles:.1%})" for name, n in ranked[:CLASSES_SAID]]
    rest = len(ranked) - len(words)
    return f"predicted: {', '.join(words)}" + (f" and {rest} others" if rest > 0 else "")


def failure_lines(reasons: Counter[str], total: int, noun: str) -> list[str]:
    """What of so many (`tile`, `scene`) failed, the commonest reasons first; nothing of none."""
    if not reasons:
        return []
    lines = [f"{reasons.total():,} of {counted(total, noun)} failed (failures table):"]
    lines += [f"  {count:,} x {said}" for said, count in reasons.most_common(REASONS_SAID)]
    rest = len(reasons) - REASONS_SAID
    return lines + ([f"  and {counted(rest, 'other reason')}"] if rest > 0 else [])


def _table(
    layout: Layout,
    columns: Mapping[str, Any],
    shapes: NDArray[Any],
    numbers: Numbers,
    missing: NDArray[np.bool_],
) -> pa.Table:
    """The table of N rows: columns given, null where they are not, and the network's numbers.

    Args:
        layout: classes, towers and ids.
        columns: those before and after the classes' that are not the same for all, and targets.
        shapes: (N,) polygons in longitude and latitude; None where there is no place.
        numbers: N rows.
        missing: (N,) rows whose numbers are null.
    """
    count, known = len(missing), dict(columns)
    known["geometry"], known["bbox"] = _geometry(shapes)
    known["model_id"] = pa.repeat(layout.model_id, count)
    known["run_id"] = pa.repeat(layout.run_id, count)
    of_class: dict[str, NDArray[Any]] = {
        "logit": numbers.logits,
        "score": numbers.scores,
        "pred": numbers.preds,
        **{f"share_{tower}": numbers.shares[tower] for tower in layout.shared},
    }
    for kind, values_NK in of_class.items():
        for name, values_N in zip(layout.classes, values_NK.T, strict=True):
            known[f"{kind}_{name}"] = pa.array(np.ascontiguousarray(values_N), mask=missing)
    schema = layout.schema()
    absent = [one for one in schema if one.name not in known]
    known |= {one.name: pa.nulls(count, one.type) for one in absent}
    return pa.Table.from_pydict(known, schema=schema)


def _geo(table: pa.Table) -> dict[bytes, bytes]:
    """Metadata of a table: GeoParquet's where any row has a geometry."""
    return {b"geo": GEO} if table.column("geometry").null_count < table.num_rows else {}


def _footprints(tiles: Sequence[TileFacts]) -> NDArray[Any]:
    """Polygons, as `outlines`; None of tiles without a CRS, an affine or a size."""
    shapes = np.full(len(tiles), None, dtype=object)
    by_crs: dict[str, list[int]] = {}
    for i, tile in enumerate(tiles):
        if tile.crs and tile.transform and tile.height and tile.width:
            by_crs.setdefault(tile.crs, []).append(i)
    for crs, members in by_crs.items():
        chosen = [tiles[i] for i in members]
        affines = np.array([(tile.transform or ())[:6] for tile in chosen], dtype=np.float64)
        boxes = [(tile.row, tile.col, tile.height, tile.width) for tile in chosen]
        shapes[members] = outlines(crs, affines, *np.array(boxes, dtype=np.float64).T)
    return shapes


def _geometry(shapes: NDArray[Any]) -> tuple[pa.Array, pa.Array]:
    """Little-endian WKB of polygons, and their boxes."""
    import shapely

    boxes_N4: NDArray[np.float64] = shapely.bounds(shapes)
    boxes = pa.StructArray.from_arrays(
        [pa.array(np.ascontiguousarray(side)) for side in boxes_N4.T],
        fields=list(BOX),
        mask=pa.array(shapely.is_missing(shapes)),
    )
    return pa.array(shapely.to_wkb(shapes, byte_order=1).tolist(), pa.binary()), boxes
