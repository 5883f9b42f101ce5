"""Predictions of a scene's tiles, streamed: one file a scene, and one of all scenes of a run.

Legend: N tiles, K classes.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from satray.scoring.footprints import geo_metadata, merge_geo, wkb
from satray.scoring.predictions import OK, Layout, Numbers
from satray.scoring.products.ground import SceneGround

NODATA = "nodata"
"""Status of a tile that holds too few valid pixels to be scored; no failure."""

GROUP_ROWS = 65_536
"""Rows of a row group, at most; what a writer keeps in memory."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class SceneTiles:
    """N tiles of one scene, and what the network says of them."""

    rows: Floats
    """(N,) upper edges, stored px; whole numbers where scene and network have one scale."""
    cols: Floats
    """(N,) left edges, stored px."""
    heights: Floats
    """(N,) stored px."""
    widths: Floats
    """(N,) stored px."""
    scored: NDArray[np.bool_]
    """(N,) False where too few pixels are valid; their numbers are null."""
    numbers: Numbers
    """N rows; those of tiles that are not scored hold anything."""

    def __len__(self) -> int:
        """N."""
        return len(self.rows)


def scene_table(layout: Layout, ground: SceneGround, tiles: SceneTiles) -> pa.Table:
    """The rows of some tiles of a scene, in `layout.schema()`, without GeoParquet metadata.

    `row, col, height, width` are rounded to whole stored px; the geometry is not. `tile_id` is
    `SCENE#ROW_COL`.
    """
    count = len(tiles)
    whole = {
        "row": np.rint(tiles.rows),
        "col": np.rint(tiles.cols),
        "height": np.maximum(1, np.rint(tiles.heights)),
        "width": np.maximum(1, np.rint(tiles.widths)),
    }
    places = {name: values.astype(np.int32) for name, values in whole.items()}
    ids = [
        f"{ground.scene}#{row}_{col}" for row, col in zip(places["row"], places["col"], strict=True)
    ]
    shapes = wkb(ground.shapes(tiles.rows, tiles.cols, tiles.heights, tiles.widths))
    missing = ~tiles.scored
    columns: dict[str, Any] = {
        **places,
        "scene": pa.repeat(ground.scene, count),
        "tile_id": ids,
        "geometry": shapes,
        "crs": [ground.crs] * count,
        "transform": [ground.transform] * count,
        "status": np.where(missing, NODATA, OK).tolist(),
        "error": pa.nulls(count, pa.string()),
        "model_id": pa.repeat(layout.model_id, count),
        "run_id": pa.repeat(layout.run_id, count),
    }
    numbers = tiles.numbers
    for k, name in enumerate(layout.classes):
        columns[f"target_{name}"] = pa.nulls(count, pa.uint8())
        columns[f"logit_{name}"] = _masked(numbers.logits[:, k], missing)
        columns[f"score_{name}"] = _masked(numbers.scores[:, k], missing)
        columns[f"pred_{name}"] = _masked(numbers.preds[:, k], missing)
        for tower in layout.shared:
            columns[f"share_{tower}_{name}"] = _masked(numbers.shares[tower][:, k], missing)
    schema = layout.schema()
    return pa.Table.from_arrays([_typed(columns[f.name], f.type) for f in schema], schema=schema)


class TilesWriter:
    """Writes a predictions file in row groups; a context manager.

    The GeoParquet 1.1 metadata, with the bounding box of all rows, comes at the end: absent where
    no row has a geometry.
    """

    def __init__(self, path: Path, layout: Layout, mode: str | None = None) -> None:
        """Create the file on the local disk.

        Args:
            path: its place.
            layout: its columns.
            mode: dense or tiles, for the file's metadata (`satray:mode`).
        """
        self._layout, self._mode = layout, mode
        # without Arrow's copy of the schema, which would hide metadata that come at the end
        self._writer = pq.ParquetWriter(
            path, layout.schema(), compression="zstd", store_schema=False
        )
        self._waiting: list[pa.Table] = []
        self._geo: bytes | None = None
        self.rows = 0

    def write(self, ground: SceneGround, tiles: SceneTiles) -> None:
        """Add tiles of a scene, as many as the caller likes at once."""
        for start in range(0, len(tiles), GROUP_ROWS):
            table = scene_table(self._layout, ground, _part(tiles, start, start + GROUP_ROWS))
            geo = geo_metadata(table.column("geometry").to_pylist())
            self._add(table, json.dumps(geo).encode() if geo else None)

    def append(self, part: Path) -> None:
        """Add all rows of another predictions file of the same layout, a row group at a time."""
        with pq.ParquetFile(part) as file:
            geo = (file.metadata.metadata or {}).get(b"geo")
            for number in range(file.num_row_groups):
                table = file.read_row_group(number)
                self._add(table.replace_schema_metadata(None).cast(self._layout.schema()), None)
        self._geo = merge_geo([self._geo, geo])

    def close(self) -> None:
        """Write what is waiting, and the metadata."""
        self._flush()
        if self._mode is not None:
            self._writer.add_key_value_metadata({b"satray:mode": self._mode.encode()})
        if self._geo is not None:
            self._writer.add_key_value_metadata({b"geo": self._geo})
        self._writer.close()

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Finish the file; after an error it is only closed."""
        if kind is None:
            self.close()
        else:
            self._writer.close()

    def _add(self, table: pa.Table, geo: bytes | None) -> None:
        if not table.num_rows:
            return
        self._geo = merge_geo([self._geo, geo])
        self._waiting.append(table)
        self.rows += table.num_rows
        if sum(waiting.num_rows for waiting in self._waiting) >= GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            whole = pa.concat_tables(self._waiting)
            self._writer.write_table(whole, row_group_size=GROUP_ROWS)
            self._waiting = []


def _part(tiles: SceneTiles, start: int, stop: int) -> SceneTiles:
    if start == 0 and stop >= len(tiles):
        return tiles
    some, numbers = slice(start, stop), tiles.numbers
    return SceneTiles(
        tiles.rows[some],
        tiles.cols[some],
        tiles.heights[some],
        tiles.widths[some],
        tiles.scored[some],
        Numbers(
            numbers.logits[some],
            numbers.scores[some],
            numbers.preds[some],
            {tower: values[some] for tower, values in numbers.shares.items()},
        ),
    )


def _masked(values: NDArray[Any], missing: NDArray[np.bool_]) -> pa.Array:
    return pa.array(np.ascontiguousarray(values), mask=missing)


def _typed(values: Any, kind: pa.DataType) -> pa.Array:
    if isinstance(values, pa.Array):
        return values if values.type == kind else values.cast(kind)
    return pa.array(values, type=kind)
