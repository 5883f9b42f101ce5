"""Splits: given by a column, drawn plainly, by groups, by ground, by strata."""

import numpy as np
import pyarrow as pa
import pyproj
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import train_test_split

from satray.config.prepare import PrepareRecipe, SplitOptions
from satray.data.index import PARTS, SCHEMA
from satray.data.labels import LabelTable, read_labels
from satray.data.split import (
    Footprints,
    assign_parts,
    count_meeting,
    ground_blocks,
    split_by_ground,
)
from satray.errors import InputError


def table(labels_NK, task="multilabel", **columns) -> LabelTable:
    labels_NK = np.asarray(labels_NK, np.uint8)
    n, k = labels_NK.shape
    keys = pa.array([f"tile_{i}" for i in range(n)])
    return LabelTable(keys, tuple("abcdefgh"[:k]), labels_NK, task, columns, "wide", "labels.csv")


def blank(n: int, **columns) -> LabelTable:
    return table(np.zeros((n, 1)), "binary", **columns)


def drawn(labels: LabelTable, **keys) -> tuple[str, ...]:
    return named(assign_parts(labels, SplitOptions(**keys)))


def named(parts_N) -> tuple[str, ...]:
    return tuple(PARTS[part] for part in parts_N)


def rows(parts, part) -> list[int]:
    return [row for row, here in enumerate(parts) if here == part]


def test_the_split_of_the_planet_report_is_reproduced_exactly():
    words = ["clear primary", "haze", "agriculture clear", "cloudy"]
    text = "image_name,tags\n" + "".join(f"train_{i},{words[i % 4]}\n" for i in range(40479))
    labels = read_labels(text.encode(), "train_v2.csv", PrepareRecipe(images="planet"))
    parts = drawn(labels, val=0.33, seed=0)
    train, val = train_test_split(np.arange(40479), test_size=0.33, random_state=0)
    assert (labels.keys[val[0]].as_py(), len(val)) == ("train_5603", 13359)
    assert rows(parts, "val") == sorted(val.tolist())
    assert rows(parts, "train") == sorted(train.tolist())
    # a test part does not move val
    assert rows(drawn(labels, val=13359, test=100, seed=0), "val") == rows(parts, "val")


@settings(max_examples=30)
@given(st.data(), st.integers(4, 60), st.booleans(), st.integers(0, 5))
def test_parts_are_complete_exact_and_pure(data, n, stratify, seed):
    n_val, n_test = (data.draw(st.integers(0, n // 3)) for _ in range(2))
    labels = table(np.random.default_rng(seed).integers(0, 2, (n, 3)))
    keys = {"val": n_val, "test": n_test, "stratify": stratify, "seed": seed}
    parts = drawn(labels, **keys)
    assert (len(parts), parts.count("val"), parts.count("test")) == (n, n_val, n_test)
    assert parts == drawn(labels, **keys)


@pytest.mark.parametrize(
    ("keys", "sizes"),
    [
        ({"val": 0.2, "test": 0.1}, (2, 1)),
        ({"val": 0.21}, (3, 0)),  # rounded up, as scikit-learn does
        ({"val": 1}, (1, 0)),
        ({"val": 4, "test": 5}, (4, 5)),
        ({"column": "part", "by": "draw"}, (2, 0)),
    ],
)
def test_shares_and_numbers(keys, sizes):
    parts = drawn(blank(10), **keys)
    assert (parts.count("val"), parts.count("test")) == sizes


# ---- by column

TEN = blank(10, split=("train",) * 9 + ("val",))
NAMES = ("train", "val", "val")


def test_a_column_gives_the_split_and_a_draw_ignores_it():
    words = ("train", "Val", "VALIDATION", "valid", "test", "training")
    assert drawn(blank(6, split=words)) == ("train", "val", "val", "val", "test", "train")
    assert drawn(TEN, by="draw").count("val") == 2
    assert drawn(blank(3, split=NAMES, s=("x", "y", "y")), group="s") == NAMES
    printed = SplitOptions().model_dump()  # asks for nothing by its defaults
    assert drawn(blank(10), **printed).count("val") == 2
    assert drawn(TEN, **printed).count("val") == 1


@pytest.mark.parametrize("keys", [{"val": 0.3}, {"test": 0.1}, {"seed": 1}, {"stratify": True}])
def test_auto_refuses_a_draw_beside_a_column(keys):
    (name,) = keys
    said = rf"^split\.{name}={keys[name]}: of no use .*the column 'split'.*split\.by=column"
    with pytest.raises(InputError, match=rf"{said}.*split\.by=draw"):
        drawn(TEN, **keys)
    assert drawn(TEN, by="column", **keys).count("val") == 1
    assert len(drawn(TEN, by="draw", **keys)) == 10


@pytest.mark.parametrize(
    ("labels", "keys", "says"),
    [
        *((blank(10), keys, r"split\.") for keys in (
            {"val": 10}, {"val": 0.5, "test": 0.5}, {"val": 0.95}, {"val": 2.5}, {"test": 11})),
        *((blank(3, split=("train", "val", cell)), {}, r"row 3 \(tile_2\).*train, training, val, v")
          for cell in ("holdout", "0", None)),
        *((blank(3, scene=("x",) * 3), {"column": "part", **by}, r"split\.col.* 'part'.*scene")
          for by in ({"by": "column"}, {})),
        (blank(3), {"by": "column"}, r"split\.column.*no column 'split'"),
        (blank(3, split=NAMES, s=("x", "x", "y")), {"group": "s"}, "both train and val"),
        (blank(9, scene=("x",) * 9), {"group": "scene"}, "1 groups of 9 to 9"),
        (blank(3, scene=("x", None, "y")), {"group": "scene"}, r"row 2 \(tile_1\)"),
        (blank(3), {"group": "scene"}, "no column 'scene'"),
        (table(np.eye(2)[[0, 0, 0, 0, 1]], "multiclass"), {"stratify": True, "val": 2},
         r"^split\.stratify[^\n]*$"),
    ],
)  # fmt: skip
def test_splits_that_are_refused(labels, keys, says):
    with pytest.raises(InputError, match=says):
        drawn(labels, **keys)


# ---- whole groups


@settings(max_examples=40)
@given(
    st.lists(st.sampled_from("uvwxyz"), min_size=8, max_size=60),
    st.integers(0, 5),
    st.sampled_from([0.1, 0.2, 0.3]),
    st.sampled_from([0, 0.1]),
    st.booleans(),
)
def test_groups_stay_together(groups, seed, val, test, stratify):
    labels = table(np.arange(len(groups) * 2).reshape(-1, 2) % 3 == 0, scene=tuple(groups))
    keys = {"val": val, "test": test, "seed": seed, "group": "scene", "stratify": stratify}
    try:
        parts = drawn(labels, **keys)
    except InputError:
        return  # too few or too large groups
    assert len(parts) == len(groups)
    assert {"train", "val"} <= set(parts)
    assert len(set(zip(groups, parts, strict=True))) == len(set(groups))
    assert parts == drawn(labels, **keys)


@pytest.mark.parametrize("task", ["multilabel", "multiclass"])
def test_groups_are_stratified_as_near_as_they_go(task):
    """A rare class that lives in few groups reaches val in its share; plainly drawn it may not."""
    rng = np.random.default_rng(5)
    scene = np.repeat(np.arange(60), rng.integers(5, 40, 60))
    rare_N = np.isin(scene, rng.choice(60, 8, replace=False)) & (rng.random(len(scene)) < 0.5)
    labels_NK = np.stack([rare_N, ~rare_N], axis=1)
    labels = table(labels_NK, task, scene=tuple(map(str, scene)))
    off = {True: 0.0, False: 0.0}
    for stratify in off:
        for seed in range(5):
            parts = drawn(labels, val=0.25, group="scene", stratify=stratify, seed=seed)
            val = np.array(parts) == "val"
            assert abs(val.mean() - 0.25) < 0.03
            missed = abs(labels_NK[val, 0].sum() / rare_N.sum() - 0.25)
            off[stratify] = max(off[stratify], missed)
    assert off[True] < 0.1
    assert off[True] < 0.5 * off[False]


# ---- by ground


def corners(side: int, px: float = 10.0, x: float = 5e5, y: float = 5.2e6) -> list[tuple]:
    """Affines of a scene cut into side x side tiles of 64 px that share their edges."""
    at = [(x + 64 * px * i, y - 64 * px * j) for j in range(side) for i in range(side)]
    return [(px, 0.0, x, 0.0, -px, y) for x, y in at]


def footprints(transforms: list, crs: str | list = "EPSG:32633", side: int = 64) -> Footprints:
    n = len(transforms)
    columns = {"crs": [crs] * n if isinstance(crs, str) else crs, "transform": transforms}
    columns |= {"height": [side] * n, "width": [side] * n}
    return Footprints.of_table(
        pa.table({name: pa.array(v, SCHEMA.field(name).type) for name, v in columns.items()})
    )


def points(crs: str, x, y) -> Footprints:
    return footprints([(1.0, 0.0, a, 0.0, -1.0, b) for a, b in zip(x, y, strict=True)], crs, 0)


def test_tiles_of_one_block_of_ground_go_to_one_side():
    tiles = footprints(corners(40))  # 25.6 km
    labels_NK = (np.random.default_rng(0).random((1600, 3)) < [0.5, 0.2, 0.02]).astype(np.uint8)
    blocks_N = ground_blocks(tiles, 3_200)
    assert 64 <= blocks_N.max() + 1 <= 100

    def met(parts) -> int:
        part_N = np.array(parts)
        return count_meeting(tiles, part_N == "val", part_N == "train")

    for stratify in (False, True):
        keys = SplitOptions(by="ground", block=3_200, val=0.2, test=0.1, stratify=stratify)
        parts = named(split_by_ground(labels_NK, "multilabel", blocks_N, keys))
        assert len(set(zip(blocks_N.tolist(), parts, strict=True))) == blocks_N.max() + 1
        assert abs(parts.count("val") - 320) < 60
        assert abs(parts.count("test") - 160) < 60
        assert parts == named(split_by_ground(labels_NK, "multilabel", blocks_N, keys))
        assert met(parts) < 0.75 * parts.count("val")
    by_rows = drawn(table(labels_NK), val=0.2, test=0.1)
    assert met(by_rows) == by_rows.count("val")


@pytest.mark.parametrize(("crs", "size"), [("EPSG:32633", 20_000), ("EPSG:3857", 2_000)])
def test_blocks_have_their_size_in_metres_in_any_crs(crs, size):
    lon, lat = np.random.default_rng(1).uniform([14, 47], [16, 49], (4000, 2)).T
    way = pyproj.Transformer.from_crs("OGC:CRS84", crs, always_xy=True)
    blocks_N = ground_blocks(points(crs, *way.transform(lon, lat)), size)
    same_ground = ground_blocks(points("OGC:CRS84", lon, lat), size)
    assert (blocks_N == same_ground).mean() > 0.99
    order = np.argsort(blocks_N, kind="stable")
    same = blocks_N[order[1:]] == blocks_N[order[:-1]]
    one, other = order[1:][same], order[:-1][same]
    _, _, apart = pyproj.Geod(ellps="WGS84").inv(lon[one], lat[one], lon[other], lat[other])
    assert apart.max() < 1.01 * size * 2**0.5
    if size == 20_000:
        assert apart.max() > 0.8 * size


def test_blocks_of_the_whole_world_and_of_no_ground():
    lon, lat = (v.reshape(-1) for v in np.meshgrid(np.arange(-180, 181, 10), np.arange(-90, 91, 9)))
    blocks_N = ground_blocks(points("EPSG:4326", lon, lat), 1e6)
    assert blocks_N.min() == 0
    assert np.array_equal(blocks_N[lon == 180], blocks_N[lon == -180])  # one meridian
    nowhere = footprints([corners(1)[0], None, (1.0, 0.0, 1e30, 0.0, 1.0, 0.0)],
                         [None, "EPSG:4326", "EPSG:32633"])  # fmt: skip
    assert ground_blocks(nowhere, 10.0).tolist() == [-1, -1, -1]
    keys = SplitOptions(by="ground", block=1e6)
    with pytest.raises(InputError, match=r"split\.block=1e\+06 gives 1 blocks of ground of 9 to 9"):
        split_by_ground(np.zeros((9, 1), np.uint8), "binary", np.zeros(9, np.int64), keys)


THIRDS = [(1 / 3, 0, 7.1 + 64 / 3 * (i % 3), 0, 1 / 3, 50 + 64 / 3 * (i // 3)) for i in range(9)]


@pytest.mark.parametrize(
    ("these", "others", "tiles", "expected"),
    [
        ([0], [4], footprints(corners(3)), 1),  # a corner
        ([0], [1], footprints(corners(3), ["EPSG:32632"] + 8 * ["EPSG:32633"]), 0),
        ([0], [1], footprints([None, *corners(3)[1:]]), 0),
        ([4], [0], footprints(THIRDS, "EPSG:4326"), 1),  # rounded, south up
    ],
)
def test_tiles_that_touch_or_overlap_are_counted(these, others, tiles, expected):
    at = np.arange(9)
    assert count_meeting(tiles, np.isin(at, these), np.isin(at, others)) == expected


def test_meeting_is_found_as_by_looking_at_all_pairs():
    rng = np.random.default_rng(0)
    for _ in range(10):
        x, y = rng.integers(0, 2000, (2, 60))
        tiles = footprints([(1.0, 0.0, a, 0.0, -1.0, b) for a, b in zip(x, y, strict=True)])
        val_N = rng.random(60) < 0.3
        meet = (abs(x[:, None] - x) <= 64) & (abs(y[:, None] - y) <= 64)
        assert count_meeting(tiles, val_N, ~val_N) == meet[val_N][:, ~val_N].any(axis=1).sum()


# ---- by strata


def test_strata_of_one_class_a_tile_are_scikit_learns():
    y = np.random.default_rng(1).integers(0, 3, 90)
    for labels, y_N in (
        (table(np.eye(3)[y], "multiclass"), y),
        (table((y == 0)[:, None], "binary"), y == 0),
    ):
        parts = drawn(labels, val=0.2, stratify=True, seed=7)
        _, val = train_test_split(np.arange(90), test_size=0.2, stratify=y_N, random_state=7)
        assert rows(parts, "val") == sorted(val.tolist())


def test_multilabel_strata_hold_for_every_class_and_for_none():
    """As common and as rare as Planet's labels: within 2 tiles, where a plain draw is not."""
    prevalence = [0.93, 0.7, 0.3, 0.18, 0.05, 0.02, 0.008, 0.0025]
    labels_NK = (np.random.default_rng(0).random((4000, 8)) < prevalence).astype(np.uint8)
    labels_NK[:200] = 0
    all_NK = np.column_stack([labels_NK, ~labels_NK.any(axis=1)])

    def off(part: str, share: float, stratify: bool) -> float:
        in_part = np.array(drawn(table(labels_NK), val=0.2, test=0.1, stratify=stratify)) == part
        return np.abs(all_NK[in_part].sum(axis=0) - share * all_NK.sum(axis=0)).max()

    assert max(off("val", 0.2, True), off("test", 0.1, True)) <= 2
    assert off("val", 0.2, False) > 4
