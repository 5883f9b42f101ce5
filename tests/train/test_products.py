"""What a bundle says: temperature and thresholds, and the tiles that it was trained on."""

import numpy as np
import pyarrow as pa
import pyproj
import pytest
from score.scenes.scene_material import spec

from satray.config.train import CalibrateOptions
from satray.data.index import SCHEMA, BandStatistics, IndexMeta, TileIndex, table_with
from satray.metrics.calibration import halves
from satray.metrics.scored import PLAIN
from satray.metrics.summary import compute_metrics
from satray.score.outlines import SceneExtent
from satray.score.scenes.grid import net_grid
from satray.train.products import calibrate, nodata, resolution

CLASSES = ("a", "b", "rare")


# Calibration: known truth is found on one half and shows on the other


def overconfident(n=4000):
    """Logits that are 3 times the truth's log odds; the last class is rare."""
    rng = np.random.default_rng(0)
    truth = rng.normal([0, -2, -6], [1, 2, 0.5], (n, 3))
    labels = rng.random((n, 3)) < 1 / (1 + np.exp(-truth))
    return (3 * truth).astype(np.float32), labels.astype(np.uint8)


def found_by(logits, labels, task="multilabel", **options):
    classes = CLASSES[: logits.shape[1]]
    ids = [f"tile/{i}" for i in range(len(logits))]
    return calibrate(logits, labels, ids, classes, task, CalibrateOptions(**options))


def test_the_temperature_is_found_thresholds_follow_the_measure_and_rare_classes_keep_theirs():
    logits, labels = overconfident()
    f1, f2 = (found_by(logits, labels, thresholds=by) for by in ("f1", "f2"))
    assert f1.rule.temperature == pytest.approx(3, rel=0.1)
    assert f1.thresholds[2] == f2.thresholds[2] == 0.5
    for k in range(2):  # F-beta wants half its best value, or less for recall's sake
        assert f2.thresholds[k] < f1.thresholds[k] < 0.5
    highest = np.eye(3, dtype=np.uint8)[logits.argmax(axis=1)]
    assert found_by(logits, highest, "multiclass").thresholds == (0.5,) * 3  # it needs none
    assert f2.report["after"]["f2_macro"] > f2.report["before"]["f2_macro"] + 0.01


@pytest.mark.parametrize(
    ("tiles", "options", "says"),
    [
        (4000, {"temperature": False, "thresholds": "half"}, "not asked for"),
        (60, {}, "kept: fewer than 50 tiles"),
        (1, {}, "too few validation tiles to measure it"),
    ],
)
def test_what_is_not_asked_for_or_cannot_be_is_not_fitted(tiles, options, says):
    logits, labels = overconfident()
    found = found_by(logits[:tiles], labels[:tiles], **options)
    assert (found.rule.temperature, found.thresholds) == (1.0, (0.5,) * 3)
    assert found.report["before"] == found.report["after"]
    assert (found.report["after"] is None) == (tiles == 1)
    assert says in found.line()


def test_the_figures_are_those_of_the_metrics_on_a_half_that_fitted_nothing():
    logits, labels = overconfident(600)
    labels[:, 2] = 0  # falsely given somewhere: F counts it 0 by itself, the metrics not at all
    logits[::50, 2] = 3
    found = found_by(logits, labels)
    rest = ~halves([f"tile/{i}" for i in range(600)], 0)
    for name, rule in (("before", PLAIN), ("after", found.rule)):
        figures = compute_metrics(logits[rest], labels[rest], CLASSES, "multilabel", rule)
        assert found.report[name] == {key: figures[key] for key in found.report[name]}
        assert len(found.report[name]) == 4
    labels[rest] = 1 - labels[rest]
    second = found_by(logits, labels)
    assert found.rule == second.rule
    assert found.report["after"] != second.report["after"]


# The tiles

SIDE = 64
BAND = BandStatistics("red", 1, 1, 0, 2, {}, 9)
META = IndexMeta("binary", ("ship",), ("red",), "uint8", (SIDE, SIDE), (BAND,), {})


@pytest.mark.parametrize(
    ("declared", "told"),
    [
        ([None, None], None),
        ([-9999.0, None, -9999.0], -9999.0),
        ([0.0, -9999.0], None),
        ([float("nan"), None], None),  # what is not finite is no measurement anyway
        ([], None),
    ],
)
def test_nodata_is_what_all_tiles_that_declare_one_declare(declared, told):
    table = pa.table({"nodata": pa.array(declared, pa.float64())})
    assert nodata(TileIndex(table, META)) == told


def index(*places):
    """Tiles of 64 px at (CRS, transform), as an index from before resolution was a column."""
    rows = [
        {"tile_id": f"t{n}", "uri": f"/t{n}.tif", "split": "train", "labels": [n % 2],
         "height": SIDE, "width": SIDE, "bands": ["red"], "dtype": "uint8", "crs": crs,
         "transform": transform, "nodata": None, "bytes": 9, "etag": None}
        for n, (crs, transform) in enumerate(places)
    ]  # fmt: skip
    older = pa.schema([field for field in SCHEMA if not field.name.startswith("resolution")])
    return TileIndex(table_with(META, pa.Table.from_pylist(rows, older)), META)


def at(crs, lon, lat, x, y=None):
    """A tile whose centre is there, with px of so many units of the CRS."""
    y = x if y is None else y
    way = pyproj.Transformer.from_crs("OGC:CRS84", crs, always_xy=True)
    left, top = way.transform(lon, lat)
    return crs, (x, 0.0, left - x * SIDE / 2, 0.0, -y, top + y * SIDE / 2)


@pytest.mark.parametrize(
    ("places", "x", "y"),
    [
        # metres of the ground, whatever the projection makes of them, and their median
        ([at("EPSG:3857", 15, 60, 20), at("EPSG:32633", 15, 60, 10), (None, None),
          at("EPSG:4326", 15, 0, 9e-5)], 10.01, None),
        ([(None, None), (None, (1.0, 0, 0, 0, 1.0, 3))], None, None),
        ([at("EPSG:4326", 10, 60, 1e-4)], 5.58, 11.14),
        ([at("EPSG:4326", 10, 8, 1e-4)], 11.04, None),  # nearly square
    ],
)  # fmt: skip
def test_the_bundle_keeps_metres_of_the_ground(places, x, y):
    found = resolution(index(*places))[:2]
    assert found == pytest.approx((x, y), rel=2e-3)


@pytest.mark.parametrize(
    ("crs", "px", "lats"),
    [
        ("EPSG:32633", (10, 10), (5, 40, 60)),
        ("EPSG:32633", (10, 20), (5, 40, 60)),
        ("EPSG:3857", (20, 20), (0, 30, 45, 60, 70)),
        ("EPSG:4326", (1e-4, 1e-4), (0, 8, 30, 45, 60)),
        ("EPSG:4326", (1e-4, 1e-4), (8, 8.2)),
        ("EPSG:3413", (30, 30), (60, 70, 88)),
        ("ESRI:54009", (100, 100), (0, 30, 60)),
        ("EPSG:2227", (30, 30), (37, 37.5)),
    ],
)
def test_pixels_of_training_are_never_resampled_as_scenes(crs, px, lats):
    lon = -120.5 if crs == "EPSG:2227" else 16
    tiles = [at(crs, lon, lat, *px) for lat in lats]
    x, y, trained = resolution(index(*tiles))
    known = spec(resolution=x, resolution_y=y, trained_px=trained, tile_shape=(SIDE, SIDE), size=48)
    between = [at(crs, lon, lat, *px) for lat in np.linspace(lats[0], lats[-1], 7)]
    for name, transform in (*tiles, *between):
        grid = net_grid(SceneExtent("a", SIDE * 3, SIDE * 3, name, transform), known)
        assert (grid.net_height, grid.net_width) == (144, 144), grid.why
    wide = SceneExtent("a", SIDE, SIDE, *at(crs, lon, lats[0], px[0] * 2, px[1] * 2))
    assert net_grid(wide, known).net_width > 48
