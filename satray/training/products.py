"""The products of a training run that need torch or the index's rows: bundle, unreadable tiles."""

import io
import math
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from satray import __version__
from satray.models.bundle import bundle_files
from satray.models.ensemble import ensemble
from satray.models.geometry import probe_grid
from satray.models.pretrained import origin
from satray.models.spec import BundleSpec
from satray.runs.jsonable import finite
from satray.runs.run import Run
from satray.tiles.index import TileIndex
from satray.training.calibrate import Calibration
from satray.training.plan.setup import Setup
from satray.training.workers.choice import Choice


def bundle(setup: Setup, run: Run, choice: Choice, calibration: Calibration) -> dict[str, bytes]:
    """The files of the bundle, by name."""
    meta, wanted = setup.index.meta, setup.recipe.input
    spec = BundleSpec(
        variant=setup.variant,
        task=setup.task,
        classes=meta.classes,
        bands=setup.bands,
        mean=setup.mean,
        std=setup.std,
        radiometry=setup.radiometry,
        dtype=meta.dtype,
        size=wanted.size,
        resize=wanted.resize,
        evaluate=wanted.evaluate,
        tile_shape=meta.tile_shape,
        resolution=resolution(setup.index),
        thresholds=calibration.thresholds,
        temperature=calibration.rule.temperature,
        grids={tower.name: probe_grid(tower.backbone) for tower in setup.variant.towers},
        dropout=setup.recipe.dropout,
        nodata=nodata(setup.index),
        provenance={
            "run_id": run.run_id,
            "index": setup.digest,
            "weights": {
                tower.name: origin(tower.backbone, setup.sources[tower.name])
                for tower in setup.variant.towers
            },
            "learning_rates": [stage.peak for stage in setup.plan.stages],
            "satray": __version__,
            "validation": finite(choice.validation),
            "calibration": calibration.origin(),
            **choice.origin(),
        },
    )
    if choice.kind == "ensemble":
        return bundle_files(*ensemble(spec, choice.states))
    return bundle_files(spec, choice.states[0])


def resolution(index: TileIndex) -> float | None:
    """Ground size of a pixel in m: of the first tile with a projected CRS; None without one."""
    from rasterio.crs import CRS
    from rasterio.errors import CRSError

    columns = (index.table.column(name).to_pylist() for name in ("crs", "transform"))
    for crs, transform in zip(*columns, strict=True):
        if crs is None or transform is None:
            continue
        try:
            system = CRS.from_user_input(crs)
            if system.is_projected:
                side = math.sqrt(abs(transform[0] * transform[4] - transform[1] * transform[3]))
                return float(side * system.linear_units_factor[1])
        except CRSError:
            pass
        return None
    return None


def nodata(index: TileIndex) -> float | None:
    """The one finite nodata value that tiles declare; None where none or several."""
    values = set(index.table.column("nodata").drop_null().to_pylist())
    (value,) = values if len(values) == 1 else (math.nan,)
    return value if math.isfinite(value) else None


def unreadable(setup: Setup, errors: dict[tuple[str, int], str]) -> tuple[bytes, int]:
    """The table of tiles that training could not read, and its rows."""
    rows: list[dict[str, Any]] = []
    for split in sorted({split for split, _ in errors}):
        part = setup.index.part(split).table
        found = sorted(row for where, row in errors if where == split)
        tiles = part.take(pa.array(found, pa.int64()))
        ids, uris = (tiles.column(name).to_pylist() for name in ("tile_id", "uri"))
        rows += [
            {"tile_id": tile, "uri": uri, "split": split, "error": errors[split, row]}
            for row, tile, uri in zip(found, ids, uris, strict=True)
        ]
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue(), len(rows)
