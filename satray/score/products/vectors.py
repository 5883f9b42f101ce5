"""Detections as files: GeoParquet, GeoPackage and GeoJSON.

GeoParquet and GeoJSON are in longitude and latitude, GeoPackage in the scene's own CRS, so that its
points lie on the scene to the last digit. A scene without a CRS has no GeoJSON; its points are in
the coordinates of its affine, and without one in pixel coordinates (x = column, y = -row, as GIS
programs draw such images), said to be in no known CRS.
"""

import io
import threading
import warnings
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from satray.errors import SatrayError
from satray.score.products.detections import Detections

LAYER = "detections"
"""Name of the layer in GeoPackages."""

DIGITS = 7
"""Decimals of a degree in GeoJSON: a centimetre on the ground."""


def geoparquet(found: Detections, model_id: str, run_id: str) -> bytes:
    """GeoParquet 1.1 with a covering: one row a detection.

    Columns: scene, class, score, row, col (stored px), x, y (the scene's CRS), lon, lat, geometry
    (in OGC:CRS84, null where there is none), bbox, crs, model_id, run_id.
    """
    if found.extent.georeferenced:
        frame = _frame(found, model_id, run_id, found.lon, found.lat, "OGC:CRS84")
    else:
        frame = _frame(found, model_id, run_id, found.x, found.y, None)
    frame.insert(len(frame.columns) - 2, "crs", found.extent.crs)
    frame["crs"] = frame["crs"].astype("str")
    sink = io.BytesIO()
    frame.to_parquet(
        sink, index=False, compression="zstd", schema_version="1.1.0", write_covering_bbox=True
    )
    return sink.getvalue()


_stamping = threading.Lock()
"""The date that GDAL stamps files with is the whole process's."""


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
    import pyogrio
    import pyproj

    georeferenced, sink = found.extent.georeferenced, io.BytesIO()
    stamp = changed.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    with _stamping:
        pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": stamp})
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # "crs was not provided": it is not known
                crs = found.extent.crs if georeferenced else None
                _frame(found, model_id, run_id, found.x, found.y, crs).to_file(
                    sink,
                    layer=LAYER,
                    driver="GPKG",
                    engine="pyogrio",
                    geometry_type="Point",
                    index=False,
                    layer_options={} if georeferenced else {"SRID": "-1"},
                    dataset_options={"ADD_GPKG_OGR_CONTENTS": "YES"},
                )
        except (
            pyogrio.errors.DataSourceError,
            pyogrio.errors.CRSError,
            pyproj.exceptions.CRSError,
        ) as error:
            raise SatrayError(
                f"{found.extent.scene}: detections cannot be written: {error}"
            ) from error
        finally:
            pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": None})
    return sink.getvalue()


def geojson(found: Detections, model_id: str, run_id: str) -> bytes | None:
    """GeoJSON (RFC 7946) in longitude and latitude; None where the scene has no ground.

    A point that has neither longitude nor latitude is left out: the other files have it.
    """
    if not found.extent.georeferenced:
        return None
    lon, lat = np.round(found.lon, DIGITS), np.round(found.lat, DIGITS)
    frame = _frame(found, model_id, run_id, lon, lat, None)
    frame = frame[frame.geometry.notna()].drop(columns=["lon", "lat"])
    frame = frame.round(dict.fromkeys(("score", "row", "col", "x", "y"), 6))
    text: str = frame.to_json(drop_id=True, ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "backslashreplace")


def _frame(
    found: Detections,
    model_id: str,
    run_id: str,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    crs: str | None,
) -> Any:
    """A GeoDataFrame of points at x, y; no point where either is not finite."""
    import geopandas  # with pandas and a second GDAL: not for scenes without detections

    points = np.asarray(geopandas.points_from_xy(x, y), dtype=object)
    points[~(np.isfinite(x) & np.isfinite(y))] = None
    numbers = ("score", "row", "col", "x", "y", "lon", "lat")
    columns: dict[str, Any] = {
        "scene": [found.extent.scene] * len(found),
        "class": list(found.klass),
        **{name: np.asarray(getattr(found, name), np.float64) for name in numbers},
        "geometry": geopandas.GeoSeries(points, crs=crs),
        "model_id": [model_id] * len(found),
        "run_id": [run_id] * len(found),
    }
    return geopandas.GeoDataFrame(columns, geometry="geometry").astype(
        dict.fromkeys(("scene", "class", "model_id", "run_id"), "str")
    )
