"""Splits: given by a column, drawn plainly, by groups, by strata."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import train_test_split

from satray.config.prepare import PrepareRecipe, SplitOptions
from satray.data.labels import LabelTable, read_labels
from satray.data.split import assign_parts, draw_rows, draw_split, part_sizes
from satray.data.stratify import iterative
from satray.errors import InputError


def table(labels_NK, task="multilabel", **columns) -> LabelTable:
    labels_NK = np.asarray(labels_NK, np.uint8)
    n, k = labels_NK.shape
    keys = tuple(f"tile_{i}" for i in range(n))
    classes = tuple("abcdefgh"[:k])
    return LabelTable(keys, classes, labels_NK, task, columns, "wide", "labels.csv")


def blank(n: int, **columns) -> LabelTable:
    return table(np.zeros((n, 1)), "binary", **columns)


def options(**keys) -> SplitOptions:
    return SplitOptions(**keys)


# ---- the Planet report


def test_planet_split_is_reproduced_exactly():
    words = ["clear primary", "haze", "agriculture clear", "cloudy"]
    text = "image_name,tags\n" + "".join(f"train_{i},{words[i % 4]}\n" for i in range(40479))
    labels = read_labels(text.encode(), "train_v2.csv", PrepareRecipe(images="planet"))
    drawn = draw_split(labels, options(val=0.33, seed=0))
    assert (len(drawn.train), len(drawn.val), len(drawn.test)) == (27120, 13359, 0)
    assert [labels.keys[row] for row in drawn.val[:3]] == [
        "train_5603",
        "train_33842",
        "train_20450",
    ]
    train, val = train_test_split(np.arange(40479), test_size=0.33, random_state=0)
    assert np.array_equal(drawn.train, train)
    assert np.array_equal(drawn.val, val)
    parts = assign_parts(labels, options(val=0.33, seed=0))
    assert parts.count("val") == 13359
    assert parts[5603] == parts[33842] == parts[20450] == "val"


def test_a_test_part_does_not_move_val():
    alone = draw_rows(100, 20, 0, seed=3)
    both = draw_rows(100, 20, 10, seed=3)
    assert np.array_equal(alone.val, both.val)
    assert set(both.test) < set(alone.train)


# ---- every draw


@settings(deadline=None)
@given(st.data())
def test_parts_are_complete_and_disjoint(data):
    n = data.draw(st.integers(4, 60))
    n_val = data.draw(st.integers(0, n // 3))
    n_test = data.draw(st.integers(0, n // 3))
    stratify = data.draw(st.booleans())
    seed = data.draw(st.integers(0, 5))
    flat = data.draw(st.lists(st.integers(0, 1), min_size=n * 3, max_size=n * 3))
    labels = table(np.array(flat).reshape(n, 3))
    keys = options(val=n_val, test=n_test, stratify=stratify, seed=seed)
    drawn = draw_split(labels, keys)
    rows = np.concatenate([drawn.train, drawn.val, drawn.test])
    assert sorted(rows.tolist()) == list(range(n))
    assert (len(drawn.val), len(drawn.test)) == (n_val, n_test)
    assert drawn.parts() == draw_split(labels, keys).parts()


def test_parts_name_the_rows():
    drawn = draw_rows(10, 3, 2, seed=0)
    parts = drawn.parts()
    assert [row for row, part in enumerate(parts) if part == "val"] == sorted(drawn.val.tolist())
    assert [row for row, part in enumerate(parts) if part == "test"] == sorted(drawn.test.tolist())


def test_seeds_differ():
    assert draw_rows(50, 10, 0, seed=0).parts() != draw_rows(50, 10, 0, seed=1).parts()


@pytest.mark.parametrize(
    ("keys", "sizes"),
    [
        ({"val": 0.25}, (3, 0)),
        ({"val": 0.2, "test": 0.1}, (2, 1)),
        ({"val": 0.21}, (3, 0)),  # rounded up, as scikit-learn does
        ({"val": 1}, (1, 0)),
        ({"val": 4, "test": 5}, (4, 5)),
        ({"val": 0}, (0, 0)),
    ],
)
def test_shares_and_numbers(keys, sizes):
    assert part_sizes(10, options(**keys)) == sizes


@pytest.mark.parametrize(
    "keys", [{"val": 10}, {"val": 0.5, "test": 0.5}, {"val": 0.95}, {"val": 2.5}, {"test": 11}]
)
def test_sizes_that_leave_nothing_or_are_not_whole(keys):
    with pytest.raises(InputError):
        part_sizes(10, options(**keys))


# ---- by column


def test_column_words():
    words = ("train", "Val", "VALIDATION", "valid", "test", "training")
    parts = assign_parts(blank(6, split=words), options())
    assert parts == ("train", "val", "val", "val", "test", "train")


def test_auto_prefers_the_column_and_draw_ignores_it():
    labels = blank(10, split=("train",) * 10)
    assert set(assign_parts(labels, options())) == {"train"}
    assert assign_parts(labels, options(by="draw")).count("val") == 2
    assert assign_parts(blank(10), options()).count("val") == 2


@pytest.mark.parametrize("cell", ["holdout", "0", None])
def test_other_words_are_refused_and_listed(cell):
    with pytest.raises(InputError) as caught:
        assign_parts(blank(3, split=("train", "val", cell)), options())
    message = str(caught.value)
    assert "row 3 (tile_2)" in message
    assert "train, training, val, valid, validation, test" in message


def test_absent_column_is_refused():
    with pytest.raises(InputError, match=r"no column 'part'.*scene"):
        assign_parts(blank(3, scene=("x",) * 3), options(by="column", column="part"))


def test_auto_refuses_a_named_column_that_is_absent():
    with pytest.raises(InputError, match=r"split\.column.*no column 'part'.*scene"):
        assign_parts(blank(3, scene=("x",) * 3), options(column="part"))
    with pytest.raises(InputError, match=r"split\.column.*no column 'split'"):
        assign_parts(blank(3), options(column="split"))
    assert assign_parts(blank(10), options(column="part", by="draw")).count("val") == 2


@pytest.mark.parametrize("keys", [{"val": 0.2}, {"test": 0.1}, {"seed": 0}, {"stratify": True}])
def test_auto_refuses_a_draw_beside_a_column(keys):
    labels = blank(10, split=("train",) * 9 + ("val",))
    with pytest.raises(InputError) as caught:
        assign_parts(labels, options(**keys))
    message = str(caught.value)
    (name,) = keys
    assert message.startswith(f"split.{name}={keys[name]}: labels.csv has the column 'split'")
    assert "split.by=column" in message
    assert "split.by=draw" in message
    assert "\n" not in message
    assert assign_parts(labels, options(by="column", **keys)).count("val") == 1
    assert len(assign_parts(labels, options(by="draw", **keys))) == 10


def test_a_printed_config_asks_for_nothing_by_its_defaults():
    printed = options().model_dump()
    assert assign_parts(blank(10), options(**printed)).count("val") == 2
    labels = blank(10, split=("train",) * 10)
    assert set(assign_parts(labels, options(**printed))) == {"train"}
    with pytest.raises(InputError, match=r"^split\.val=0\.3: "):
        assign_parts(labels, options(**printed | {"val": 0.3}))
    with pytest.raises(InputError, match="no column 'part'"):
        assign_parts(labels, options(**printed | {"column": "part"}))


def test_a_given_split_may_not_cut_groups():
    split = ("train", "val", "val")
    assert assign_parts(blank(3, split=split, s=("x", "y", "y")), options(group="s")) == split
    with pytest.raises(InputError, match="both train and val"):
        assign_parts(blank(3, split=split, s=("x", "x", "y")), options(group="s"))


# ---- by groups


@settings(deadline=None)
@given(
    st.lists(st.sampled_from("uvwxyz"), min_size=8, max_size=60),
    st.integers(0, 5),
    st.sampled_from([0.1, 0.2, 0.3]),
    st.sampled_from([0, 0.1]),
)
def test_groups_stay_together(groups, seed, val, test):
    labels = blank(len(groups), scene=tuple(groups))
    keys = options(val=val, test=test, seed=seed, group="scene")
    try:
        parts = assign_parts(labels, keys)
    except InputError:
        return  # too few or too large groups
    assert len(parts) == len(groups)
    assert "train" in parts
    assert "val" in parts
    for group in set(groups):
        assert len({part for part, own in zip(parts, groups, strict=True) if own == group}) == 1
    assert parts == assign_parts(labels, keys)


def test_groups_come_near_the_share():
    rng = np.random.default_rng(0)
    groups = tuple(f"scene_{i}" for i in rng.integers(0, 100, 2000))
    labels = blank(2000, scene=groups)
    parts = assign_parts(labels, options(val=0.2, test=0.1, group="scene"))
    assert abs(parts.count("val") - 400) < 20
    assert abs(parts.count("test") - 200) < 20


def test_groups_that_cannot_be_divided():
    with pytest.raises(InputError, match="1 groups of 9 to 9"):
        assign_parts(blank(9, scene=("x",) * 9), options(group="scene"))
    with pytest.raises(InputError, match=r"row 2 \(tile_1\)"):
        assign_parts(blank(3, scene=("x", None, "y")), options(group="scene"))
    with pytest.raises(InputError, match="no column 'scene'"):
        assign_parts(blank(3), options(group="scene"))


def test_groups_and_strata_exclude_each_other():
    with pytest.raises(InputError, match="exclude each other"):
        assign_parts(blank(9, scene=tuple("abcabcabc")), options(group="scene", stratify=True))


# ---- by strata


def test_strata_of_one_class_a_tile_are_scikit_learns():
    y = np.random.default_rng(1).integers(0, 3, 90)
    drawn = draw_split(table(np.eye(3)[y], "multiclass"), options(val=0.2, stratify=True, seed=7))
    _, val = train_test_split(np.arange(90), test_size=0.2, stratify=y, random_state=7)
    assert np.array_equal(drawn.val, val)
    binary = draw_split(table((y == 0)[:, None], "binary"), options(val=0.2, stratify=True))
    _, val = train_test_split(np.arange(90), test_size=0.2, stratify=y == 0, random_state=0)
    assert np.array_equal(binary.val, val)


def test_strata_hold_on_three_sides():
    y = np.repeat([0, 1], [900, 100])
    labels = table(y[:, None], "binary")
    parts = assign_parts(labels, options(val=0.2, test=0.1, stratify=True))
    ship = [part for part, label in zip(parts, y, strict=True) if label]
    assert (ship.count("train"), ship.count("val"), ship.count("test")) == (70, 20, 10)


def test_a_class_too_small_for_strata_is_refused_in_one_line():
    with pytest.raises(InputError, match=r"split\.stratify") as caught:
        draw_split(table(np.eye(2)[[0, 0, 0, 0, 1]], "multiclass"), options(stratify=True, val=2))
    assert "\n" not in str(caught.value)


def test_multilabel_strata_hold_for_every_class():
    """As common and as rare as Planet's labels: within 2 tiles, where a plain draw is not."""
    prevalence = [0.93, 0.7, 0.3, 0.18, 0.05, 0.02, 0.008, 0.0025]
    rng = np.random.default_rng(0)
    labels_NK = (rng.random((4000, 8)) < prevalence).astype(np.uint8)
    drawn = draw_split(table(labels_NK), options(val=0.2, test=0.1, stratify=True))
    total_K = labels_NK.sum(axis=0)
    for rows, share in ((drawn.val, 0.2), (drawn.test, 0.1)):
        assert np.abs(labels_NK[rows].sum(axis=0) - share * total_K).max() <= 2
    plain = draw_split(table(labels_NK), options(val=0.2, test=0.1))
    assert np.abs(labels_NK[plain.val].sum(axis=0) - 0.2 * total_K).max() > 4


def test_rare_labels_reach_every_part():
    labels_NK = np.zeros((200, 2), np.uint8)
    labels_NK[:5, 0] = 1
    labels_NK[:, 1] = 1
    part_N = iterative(labels_NK, (160, 40), seed=0)
    assert np.bincount(part_N[:5]).tolist() == [4, 1]
    assert np.bincount(part_N).tolist() == [160, 40]


def test_tiles_without_labels_are_spread_too():
    labels_NK = np.zeros((100, 2), np.uint8)
    labels_NK[:50, 0] = 1
    part_N = iterative(labels_NK, (80, 20), seed=0)
    assert np.bincount(part_N[50:]).tolist() == [40, 10]
