"""Detections: peaks of a scene's maps as points on the ground, and the files that hold them.

A cell's local logit is w . f(x, y) + b, the head read at one cell (the dense CAM summed over
towers, plus the bias). Under average pooling a tile's logit is the mean of its cells' local
logits, so a peak above the threshold says: a tile full of this would be given the class. Under
maximum pooling every channel takes its own best cell: with weights of no negative sign a tile's
logit is at least that of each of its cells, so a peak above the threshold is in a tile that is
given the class. Log-sum-exp has neither property; there a local logit is evidence in logit units.

The whole map is held, 4 bytes a cell and class, 8 more a class (multiclass: 32), and about 60 bytes
a cell besides. A scene of 100,000 x 100,000 px at stride 32 has 9.8 million cells.

GeoParquet and GeoJSON are in longitude and latitude, GeoPackage in the scene's own CRS, so that its
points lie on the scene to the last digit. A scene without a CRS has no GeoJSON; its points are in
the coordinates of its affine, and without one in pixel coordinates (x = column, y = -row, as GIS
programs draw such images), said to be in no known CRS.

Legend: K classes, h x w feature cells, N detections or points, T x U tiles.
"""

import io
import threading
import warnings
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray

from satray.errors import DecodeError
from satray.metrics.scored import one_against_rest
from satray.report.tiles import on_pixels
from satray.score.outlines import SceneExtent
from satray.score.windows import AxisTiles

if TYPE_CHECKING:
    import pandas as pd  # half a second

    from satray.models.spec import BundleSpec  # torch

LAYER = "detections"
"""Name of the layer in GeoPackages."""
DIGITS = 7
"""Decimals of a degree in GeoJSON: a centimetre on the ground."""
MANY = 100_000
"""Detections that GeoJSON is still written for; readers of text give up beyond."""

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def detect(
    maps_Khw: NDArray[np.float32],
    cells: Affine,
    mostly_hw: Bools,
    extent: SceneExtent,
    spec: "BundleSpec",
    bias: Sequence[float],
    distance: float,
    wanted: Sequence[str] | None = None,
) -> "pd.DataFrame":
    """Find the local maxima of a scene's maps that reach their class's threshold.

    Multiclass: besides, the class must have the cell's highest logit. Of a plateau of equal cells
    one is found, at its middle. The place of a single cell is refined by parabolas through its
    neighbours, by half a cell at most. A cell with a little data has a value, and at the edge of a
    scene's data often a high one: it is none.

    Args:
        maps_Khw: dense CAMs of all classes, summed over towers (`summed`); NaN without data.
        cells: from cell corners to stored px.
        mostly_hw: cells of which at least half has data: the others are no neighbours either.
        extent: the scene's.
        spec: the bundle's: task, K classes, thresholds and temperature.
        bias: (K,) of the head.
        distance: of two peaks of a class closer than this, the weaker is dropped (cells).
        wanted: classes whose detections are kept; default all.

    Returns:
        A row a point, by class in the bundle's order, the likeliest first within a class: `class`;
        `score` (0 to 1: the class's probability at the cell, after temperature); `row, col` (stored
        px from the upper left); `x, y` (in the scene's CRS, or as its affine says; without one
        column and minus row); `lon, lat` (degrees; NaN where there is no CRS).
    """
    import pandas as pd
    from scipy.special import expit

    z_Khw = (maps_Khw + np.array(bias, dtype=np.float64)[:, None, None]) / spec.temperature
    z_Khw[:, ~mostly_hw] = np.nan
    if spec.task == "multiclass":
        highest_hw = z_Khw.argmax(axis=0)  # the first of equal ones
        with np.errstate(invalid="ignore"):  # NaN without data
            odds_NK = one_against_rest(z_Khw.reshape(len(z_Khw), -1).T)
        z_Khw = odds_NK.T.reshape(z_Khw.shape)
    names: list[str] = []
    found = [np.empty((3, 0))]
    for k, name in enumerate(spec.classes):
        if wanted is not None and name not in wanted:
            continue
        reached_hw = expit(z_Khw[k]) >= spec.thresholds[k]
        if spec.task == "multiclass":
            reached_hw &= highest_hw == k
        peaks_3N = _spaced(_local_maxima(z_Khw[k], reached_hw), distance)
        found.append(peaks_3N)
        names += [name] * found[-1].shape[1]
    rows, cols, values = np.concatenate(found, axis=1)
    # cells of the last row and column may reach over the scene's edge
    a, b, c, d, e, f = tuple(cells)[:6]
    col = np.clip(a * cols + b * rows + c, 0, extent.width)
    row = np.clip(d * cols + e * rows + f, 0, extent.height)
    x, y = extent.affine @ (col, row)
    lon, lat = extent.lonlat(x, y)
    places = {"row": row, "col": col, "x": x, "y": y, "lon": lon, "lat": lat}
    return pd.DataFrame({"class": names, "score": expit(values), **places})


def summed(
    maps: Sequence[NDArray[np.float32]], cells: Sequence[Affine]
) -> tuple[NDArray[np.float32], Affine]:
    """The sum over towers, on the finest tower's grid.

    Towers on other grids are interpolated between cell centres, edge cells going on.

    Args:
        maps: (K, h, w) of each tower.
        cells: from each tower's cell corners to stored px, axis-parallel.
    """
    first = min(range(len(maps)), key=lambda i: (abs(cells[i].determinant), i))
    total = maps[first].astype(np.float32, copy=True)
    for i, values in enumerate(maps):
        if i != first:
            same = values.shape == total.shape and cells[i].almost_equals(cells[first], 1e-6)
            here = ~cells[first] @ cells[i]
            for sum_hw, values_hw in zip(total, values, strict=True):
                sum_hw += values_hw if same else on_pixels(values_hw, here, *sum_hw.shape)
    return total, cells[first]


def in_tiles_given(
    predicted_TUK: Bools,
    axes: tuple[AxisTiles, AxisTiles],
    klass: Sequence[int],
    row: Floats,
    col: Floats,
) -> Bools:
    """Whether any tile around each point is given the point's class, (N,).

    A peak is judged by its own cell. A tile is judged by all of its cells; where it takes the
    maximum of each feature, evidence against a class counts wherever it lies, and most peaks in
    tiles that are not given the class are false.

    Args:
        predicted_TUK: which tiles are given which class.
        axes: where rows and columns of tiles lie, net px.
        klass: (N,) places of classes.
        row: (N,) net px. The strip that no tile reaches counts as the last tile's.
        col: (N,) net px.
    """
    spans = []
    for axis, at in zip(axes, (row, col), strict=True):
        origins = np.array(axis.origins, dtype=np.float64)
        inside = np.clip(at, 0, np.nextafter(origins[-1] + axis.size, 0))
        spans.append(np.searchsorted(origins, inside - axis.size, side="right"))
        spans.append(np.searchsorted(origins, inside, side="right"))
    boxes = zip(*spans, klass, strict=True)
    held = [predicted_TUK[t:b, x:y, k].any() for t, b, x, y, k in boxes]
    return np.array(held, dtype=bool)


_stamping = threading.Lock()
"""The date that GDAL stamps files with is the whole process's."""


def vector_files(
    found: "pd.DataFrame", extent: SceneExtent, made: Mapping[str, str], changed: datetime
) -> dict[str, bytes]:
    """Detections as files, by kind of product; valid also of no detection.

    Columns: scene, class, score, row, col (stored px), x, y (the scene's CRS), lon, lat, those of
    `made`, geometry (null where there is none); of GeoParquet also crs and bbox.

    - `detections`: GeoPackage with the layer `LAYER`;
    - `detections_parquet`: GeoParquet 1.1 with a covering;
    - `detections_geojson`: RFC 7946, on the ground and of `MANY` detections at most. A point that
      has neither longitude nor latitude is left out: the other files have it.

    Args:
        found: as `detect` gives them.
        extent: the scene's.
        made: what made them, the same for all: `model_id`, `run_id`, `mode`, `engine`.
        changed: written as the time of the last change: the same detections give the same bytes.

    Raises:
        DecodeError: a CRS that GDAL cannot write.
    """
    import geopandas  # with pandas and a second GDAL: not for scenes without detections
    import pyogrio
    import pyproj

    table = found.assign(scene=extent.scene, **made)
    table = table.astype(dict.fromkeys(("scene", "class", *made), "str"))
    table.insert(0, "scene", table.pop("scene"))

    def placed(x: str, y: str, crs: str | None) -> Any:
        """The table with points by two of its columns; no point where either is not finite."""
        points = geopandas.points_from_xy(table[x], table[y], crs=crs)
        points[~np.isfinite(table[[x, y]]).all(axis=1).to_numpy()] = None
        return geopandas.GeoDataFrame(table, geometry=points)

    crs, package = extent.crs if extent.georeferenced else None, io.BytesIO()
    errors = pyogrio.errors.DataSourceError, pyogrio.errors.CRSError, pyproj.exceptions.CRSError
    with _stamping, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "crs was not provided": it is not known
        stamp = changed.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": stamp})
        try:
            placed("x", "y", crs).to_file(
                package,
                layer=LAYER,
                driver="GPKG",
                engine="pyogrio",
                geometry_type="Point",
                index=False,
                layer_options={} if crs else {"SRID": "-1"},
                dataset_options={"ADD_GPKG_OGR_CONTENTS": "YES"},
            )
        except errors as error:
            raise DecodeError(f"detections cannot be written: {error}") from error
        finally:
            pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": None})
    files, parquet = {"detections": package.getvalue()}, io.BytesIO()
    frame = placed("lon", "lat", "OGC:CRS84") if crs else placed("x", "y", None)
    frame.insert(9, "crs", extent.crs)
    frame.astype({"crs": "str"}).to_parquet(
        parquet, index=False, compression="zstd", schema_version="1.1.0", write_covering_bbox=True
    )
    files["detections_parquet"] = parquet.getvalue()
    if crs and len(found) <= MANY:
        decimals = {"lon": DIGITS, "lat": DIGITS, **dict.fromkeys(("score", "row", "col"), 6)}
        table = table.round({**decimals, "x": 6, "y": 6})
        frame = placed("lon", "lat", None).dropna(subset="geometry").drop(columns=["lon", "lat"])
        text: str = frame.to_json(drop_id=True, ensure_ascii=False, allow_nan=False)
        files["detections_geojson"] = text.encode("utf-8", "backslashreplace")
    return files


# ---- peaks; cell coordinates are edge ones: cell i has its centre at i + 0.5


def _local_maxima(values_hw: Floats, reached_hw: Bools) -> Floats:
    """Rows, columns and values (3, N) of the regional maxima among the cells reached.

    8-connected; NaN is below all. A plateau counts where no neighbour of any of its cells is
    higher.
    """
    from scipy import ndimage

    square = np.ones((3, 3), dtype=bool)
    filled = np.where(np.isnan(values_hw), -np.inf, values_hw)
    most = ndimage.maximum_filter(filled, footprint=square, mode="constant", cval=-np.inf)
    highest = (filled == most) & (filled > -np.inf)
    # a plateau with a way up has a cell that is not the highest of its neighbours
    lower = np.where(highest, -np.inf, filled)
    slope = ndimage.maximum_filter(lower, footprint=square, mode="constant", cval=-np.inf)
    labels, count = ndimage.label(highest, structure=square)
    chosen = np.zeros(count + 1, dtype=bool)
    chosen[labels[highest & reached_hw]] = True
    chosen[labels[highest & (slope == filled)]] = False
    i, j = np.nonzero(chosen[labels])
    _, first, which, size = np.unique(
        labels[i, j], return_index=True, return_inverse=True, return_counts=True
    )
    middle_i, middle_j = (np.bincount(which, at, len(size)) / size for at in (i, j))
    i, j = i[first], j[first]
    around, top = np.pad(values_hw, 1, constant_values=np.nan), values_hw[i, j]
    di = np.where(size == 1, _vertex(around[i, j + 1], top, around[i + 2, j + 1]), 0)
    dj = np.where(size == 1, _vertex(around[i + 1, j], top, around[i + 1, j + 2]), 0)
    return np.stack([middle_i + 0.5 + di, middle_j + 0.5 + dj, top])


def _vertex(before: Floats, top: Floats, after: Floats) -> Floats:
    """Top of the parabola through a cell and its neighbours along an axis, from the cell's centre.

    0 at the map's border and beside cells without data; less than half a cell, as it is the top.
    """
    bend = before - 2 * top + after
    with np.errstate(invalid="ignore", divide="ignore"):
        offset = (before - after) / (2 * bend)
    return np.where(np.isfinite(offset) & (bend < 0), offset, 0.0)


def _spaced(peaks_3N: Floats, distance: float) -> Floats:
    """The peaks kept, the strongest first, when each drops weaker ones nearer than `distance`.

    Of equal ones the first given stays.
    """
    from scipy.spatial import cKDTree

    peaks_3N = peaks_3N[:, np.argsort(-peaks_3N[2], kind="stable")]
    if distance <= 0 or peaks_3N.shape[1] < 2:
        return peaks_3N
    points_N2 = peaks_3N[:2].T
    tree = cKDTree(points_N2)
    reach = np.nextafter(distance, 0)  # the tree's radius is inclusive
    dropped = np.zeros(len(points_N2), dtype=bool)
    kept = []
    for n, point in enumerate(points_N2):
        if not dropped[n]:
            kept.append(n)
            dropped[tree.query_ball_point(point, reach)] = True
    return peaks_3N[:, kept]
