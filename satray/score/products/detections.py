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
from collections.abc import Sequence
from dataclasses import dataclass
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
    from satray.models.spec import BundleSpec  # torch

LAYER = "detections"
"""Name of the layer in GeoPackages."""
DIGITS = 7
"""Decimals of a degree in GeoJSON: a centimetre on the ground."""
MANY = 100_000
"""Detections that GeoJSON is still written for; readers of text give up beyond."""

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Detections:
    """N points of one scene, by class in the bundle's order, the likeliest first within a class."""

    extent: SceneExtent
    """The scene's."""
    klass: tuple[str, ...]
    """(N) class names."""
    score: Floats
    """(N,) 0 to 1: the class's probability at the cell, after temperature."""
    row: Floats
    """(N,) stored px from the scene's upper edge."""
    col: Floats
    """(N,) stored px from its left edge."""
    x: Floats
    """(N,) in the scene's CRS, or as its affine says; without one, the column."""
    y: Floats
    """(N,) in the scene's CRS, or as its affine says; without one, minus the row."""
    lon: Floats
    """(N,) degrees; NaN where there is no CRS."""
    lat: Floats
    """(N,) degrees; NaN where there is no CRS."""

    def __len__(self) -> int:
        """N."""
        return len(self.klass)

    def kept(self, keep: Bools) -> "Detections":
        """Those of (N,) `keep`."""
        klass = tuple(name for name, good in zip(self.klass, keep, strict=True) if good)
        columns = ("score", "row", "col", "x", "y", "lon", "lat")
        return Detections(self.extent, klass, *(getattr(self, name)[keep] for name in columns))


def detect(
    maps_Khw: NDArray[np.float32],
    cells: Affine,
    mostly_hw: Bools,
    extent: SceneExtent,
    spec: "BundleSpec",
    bias: Sequence[float],
    distance: float,
    wanted: Sequence[str] | None = None,
) -> Detections:
    """Find the local maxima of a scene's maps that reach their class's threshold.

    Multiclass: besides, the class must have the cell's highest logit. Of a plateau of equal cells
    one is found, at its middle. The place of a single cell is refined by parabolas through its
    neighbours, by half a cell at most. A cell with a little data has a value, and at the edge of a
    scene's data often a high one: it is none.

    Args:
        maps_Khw: dense CAMs of all classes, summed over towers (`summed`); NaN without data.
        cells: from cell corners to stored px.
        mostly_hw: cells of which at least half has data.
        extent: the scene's.
        spec: the bundle's: task, K classes, thresholds and temperature.
        bias: (K,) of the head.
        distance: of two peaks of a class closer than this, the weaker is dropped (cells).
        wanted: classes whose detections are kept; default all.
    """
    from scipy.special import expit

    z_Khw = (maps_Khw + np.array(bias, dtype=np.float64)[:, None, None]) / spec.temperature
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
        i, j = np.floor(peaks_3N[:2]).astype(int)
        found.append(peaks_3N[:, mostly_hw[i, j]])
        names += [name] * found[-1].shape[1]
    rows, cols, values = np.concatenate(found, axis=1)
    # cells of the last row and column may reach over the scene's edge
    a, b, c, d, e, f = tuple(cells)[:6]
    col = np.clip(a * cols + b * rows + c, 0, extent.width)
    row = np.clip(d * cols + e * rows + f, 0, extent.height)
    x, y = extent.affine @ (col, row)
    return Detections(extent, tuple(names), expit(values), row, col, x, y, *extent.lonlat(x, y))


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


class GivenTiles:
    """The decisions of a scene's tiles, asked by place.

    A peak is judged by its own cell. A tile is judged by all of its cells; where it takes the
    maximum of each feature, evidence against a class counts wherever it lies, and most peaks in
    tiles that are not given the class are false.
    """

    def __init__(self, rows: AxisTiles, cols: AxisTiles, classes: int) -> None:
        """None is given anything yet."""
        self._axes = (rows, cols)
        self._predicted_TUK = np.zeros((len(rows), len(cols), classes), dtype=bool)

    def add(self, start: int, predicted_NK: Bools) -> None:
        """Take whole rows of tiles, from row `start` on, in row order."""
        part_tUK = predicted_NK.reshape(-1, *self._predicted_TUK.shape[1:])
        self._predicted_TUK[start : start + len(part_tUK)] = part_tUK

    def holds(self, klass: Sequence[int], row: Floats, col: Floats) -> Bools:
        """Whether any tile around each point is given its class, (N,).

        Args:
            klass: (N,) places of classes.
            row: (N,) net px. The strip that no tile reaches counts as the last tile's.
            col: (N,) net px.
        """
        spans = []
        for axis, at in zip(self._axes, (row, col), strict=True):
            origins = np.array(axis.origins, dtype=np.float64)
            inside = np.clip(at, 0, np.nextafter(origins[-1] + axis.size, 0))
            spans.append(np.searchsorted(origins, inside - axis.size, side="right"))
            spans.append(np.searchsorted(origins, inside, side="right"))
        boxes = zip(*spans, klass, strict=True)
        held = [self._predicted_TUK[t:b, x:y, k].any() for t, b, x, y, k in boxes]
        return np.array(held, dtype=bool)


_stamping = threading.Lock()
"""The date that GDAL stamps files with is the whole process's."""


def vector_files(
    found: Detections, model_id: str, run_id: str, changed: datetime
) -> dict[str, bytes]:
    """Detections as files, by extension; valid also of no detection.

    Columns: scene, class, score, row, col (stored px), x, y (the scene's CRS), lon, lat, geometry
    (null where there is none), model_id, run_id; of GeoParquet also bbox and crs.

    - `gpkg`: GeoPackage with the layer `LAYER`;
    - `parquet`: GeoParquet 1.1 with a covering;
    - `geojson`: RFC 7946, on the ground and of `MANY` detections at most. A point that has neither
      longitude nor latitude is left out: the other files have it.

    Args:
        found: what to write.
        model_id: the bundle's.
        run_id: the run's.
        changed: written as the time of the last change: the same detections give the same bytes.

    Raises:
        DecodeError: a CRS that GDAL cannot write.
    """
    import geopandas  # with pandas and a second GDAL: not for scenes without detections
    import pyogrio
    import pyproj

    def placed(x: Floats, y: Floats, crs: str | None) -> Any:
        """The table with points at x, y; no point where either is not finite."""
        points = np.asarray(geopandas.points_from_xy(x, y), dtype=object)
        points[~(np.isfinite(x) & np.isfinite(y))] = None
        geometry = geopandas.GeoSeries(points, crs=crs)
        frame = geopandas.GeoDataFrame(columns | {"geometry": geometry, **last})
        return frame.set_geometry("geometry").astype(
            dict.fromkeys(("scene", "class", *last), "str")
        )

    numbers = ("score", "row", "col", "x", "y", "lon", "lat")
    columns: dict[str, Any] = {
        "scene": [found.extent.scene] * len(found),
        "class": list(found.klass),
        **{name: getattr(found, name) for name in numbers},
    }
    last = {"model_id": [model_id] * len(found), "run_id": [run_id] * len(found)}
    crs, sink = found.extent.crs if found.extent.georeferenced else None, io.BytesIO()
    errors = pyogrio.errors.DataSourceError, pyogrio.errors.CRSError, pyproj.exceptions.CRSError
    with _stamping, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "crs was not provided": it is not known
        stamp = changed.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": stamp})
        try:
            placed(found.x, found.y, crs).to_file(
                sink,
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
    files = {"gpkg": sink.getvalue()}
    frame = placed(found.lon, found.lat, "OGC:CRS84") if crs else placed(found.x, found.y, None)
    frame.insert(len(frame.columns) - 2, "crs", found.extent.crs)
    frame["crs"] = frame["crs"].astype("str")
    sink = io.BytesIO()
    frame.to_parquet(
        sink, index=False, compression="zstd", schema_version="1.1.0", write_covering_bbox=True
    )
    files["parquet"] = sink.getvalue()
    if crs and len(found) <= MANY:
        frame = placed(np.round(found.lon, DIGITS), np.round(found.lat, DIGITS), None)
        frame = frame[frame.geometry.notna()].drop(columns=["lon", "lat"])
        frame = frame.round(dict.fromkeys(("score", "row", "col", "x", "y"), 6))
        text: str = frame.to_json(drop_id=True, ensure_ascii=False, allow_nan=False)
        files["geojson"] = text.encode("utf-8", "backslashreplace")
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
