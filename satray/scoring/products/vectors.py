"""Detections as files: GeoParquet, GeoPackage and GeoJSON.

GeoParquet and GeoJSON are in longitude and latitude, GeoPackage in the scene's own CRS, so that its
points lie on the scene to the last digit. A scene without a CRS has no GeoJSON; its points are in
the coordinates of its affine, and without one in pixel coordinates (x = column, y = -row, as GIS
programs draw such images), said to be in no known CRS.
"""

import io
import json
import math
import warnings
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from satray.errors import SatrayError
from satray.scoring.footprints import box_around
from satray.scoring.products.detections import Detections

LAYER = "detections"
"""Name of the layer in GeoPackages."""

DIGITS = 7
"""Decimals of a degree in GeoJSON: a centimetre on the ground."""

NUMBERS = ("score", "row", "col", "x", "y", "lon", "lat")

_POINT = np.dtype([("order", "u1"), ("kind", "<u4"), ("x", "<f8"), ("y", "<f8")])


def geoparquet(found: Detections, model_id: str, run_id: str) -> bytes:
    """GeoParquet 1.1: one row a detection, `geometry` in OGC:CRS84 (null where there is none).

    Columns: scene, class, score, row, col (stored px), x, y (the scene's CRS), lon, lat, geometry,
    crs, model_id, run_id.
    """
    count, ground = len(found), found.ground
    across, up = (found.lon, found.lat) if ground.grounded else (found.x, found.y)
    columns = {
        "scene": pa.repeat(pa.scalar(ground.scene, pa.string()), count),
        "class": pa.array(found.klass, pa.string()),
        **{name: pa.array(_numbers(found, name), pa.float64(), from_pandas=True)
           for name in NUMBERS},
        "geometry": pa.array(_points(across, up), pa.binary()),
        "crs": pa.repeat(pa.scalar(ground.crs, pa.string()), count),
        "model_id": pa.repeat(pa.scalar(model_id, pa.string()), count),
        "run_id": pa.repeat(pa.scalar(run_id, pa.string()), count),
    }  # fmt: skip
    column: dict[str, Any] = {"encoding": "WKB", "geometry_types": ["Point"]}
    if not ground.grounded:
        column["crs"] = None  # absent would mean OGC:CRS84
    good = np.isfinite(across) & np.isfinite(up)
    if good.any():
        x, y = across[good], up[good]
        plain = [float(v) for v in (x.min(), y.min(), x.max(), y.max())]
        column["bbox"] = box_around(np.stack([x, y, x, y], axis=1)) if ground.grounded else plain
    geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}
    table = pa.table(columns).replace_schema_metadata({b"geo": json.dumps(geo).encode()})
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def geopackage(found: Detections, model_id: str, run_id: str, changed: datetime) -> bytes:
    """GeoPackage with the layer `detections` in the scene's CRS; valid also of no detection.

    Args:
        found: what to write.
        model_id: the bundle's.
        run_id: the run's.
        changed: written as the time of the last change: the same detections give the same bytes.

    Raises:
        SatrayError: GDAL cannot write it, say for a CRS it does not know.
    """
    # here, so that scenes without detections need no second GDAL
    import pyogrio
    from pyogrio.raw import write

    ground = found.ground
    fields: dict[str, NDArray[Any]] = {
        "scene": _texts([ground.scene] * len(found)),
        "class": _texts(found.klass),
        **{name: _numbers(found, name) for name in NUMBERS},
        "model_id": _texts([model_id] * len(found)),
        "run_id": _texts([run_id] * len(found)),
    }
    sink = io.BytesIO()
    stamp = changed.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": stamp})
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "crs was not provided": it is not known
            write(
                sink,
                geometry=np.array(_points(found.x, found.y), dtype=object),
                field_data=list(fields.values()),
                fields=list(fields),
                layer=LAYER,
                driver="GPKG",
                geometry_type="Point",
                crs=ground.crs if ground.grounded else None,
                layer_options={} if ground.grounded else {"SRID": "-1"},
                dataset_options={"ADD_GPKG_OGR_CONTENTS": "YES"},
            )
    except (pyogrio.errors.DataSourceError, pyogrio.errors.CRSError) as error:
        raise SatrayError(f"{ground.scene}: detections cannot be written: {error}") from error
    finally:
        pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": None})
    return sink.getvalue()


def geojson(found: Detections, model_id: str, run_id: str) -> bytes | None:
    """GeoJSON (RFC 7946) in longitude and latitude; None where the scene has no ground.

    A point that has neither longitude nor latitude is left out: the other files have it.
    """
    if not found.ground.grounded:
        return None
    features = []
    for n in range(len(found)):
        lon, lat = float(found.lon[n]), float(found.lat[n])
        if not (math.isfinite(lon) and math.isfinite(lat)):
            continue
        properties: Mapping[str, Any] = {
            "scene": found.ground.scene,
            "class": found.klass[n],
            **{name: round(float(getattr(found, name)[n]), 6)
               for name in ("score", "row", "col", "x", "y")},
            "model_id": model_id,
            "run_id": run_id,
        }  # fmt: skip
        point = {"type": "Point", "coordinates": [round(lon, DIGITS), round(lat, DIGITS)]}
        features.append({"type": "Feature", "geometry": point, "properties": properties})
    collection = {"type": "FeatureCollection", "features": features}
    return json.dumps(collection, ensure_ascii=False, allow_nan=False).encode(
        "utf-8", "backslashreplace"
    )


def _numbers(found: Detections, name: str) -> NDArray[np.float64]:
    values: NDArray[np.float64] = np.ascontiguousarray(getattr(found, name), dtype=np.float64)
    return values


def _texts(values: Any) -> NDArray[Any]:
    return np.array(list(values), dtype=object)


def _points(x: NDArray[np.float64], y: NDArray[np.float64]) -> list[bytes | None]:
    flat = np.zeros(len(x), dtype=_POINT)
    flat["order"], flat["kind"], flat["x"], flat["y"] = 1, 1, x, y
    data, size = flat.tobytes(), _POINT.itemsize
    good = np.isfinite(x) & np.isfinite(y)
    return [data[n * size : (n + 1) * size] if good[n] else None for n in range(len(x))]
