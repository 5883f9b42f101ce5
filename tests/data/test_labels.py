"""Label tables of every format, good and bad."""

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from satray.config.prepare import PrepareRecipe, SplitOptions
from satray.data.labels import LabelTable, labels_from_folders, read_labels
from satray.errors import InputError


def recipe(**keys) -> PrepareRecipe:
    return PrepareRecipe(images="archive", **keys)


def read(text: str | bytes, name: str = "labels.csv", **keys) -> LabelTable:
    data = text.encode() if isinstance(text, str) else text
    return read_labels(data, name, recipe(labels=name, **keys))


def parquet(**columns) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


def refused(text: str | bytes, **keys) -> str:
    with pytest.raises(InputError) as caught:
        read(text, **keys)
    message = str(caught.value)
    assert "\n" not in message
    return message


WIDE = "image,scene,split,ship,sea\na.jpg,Port,train,1,1\nb.jpg,Port,val,0,1\nc.jpg,Beach,val,0,0\n"


# ---- wide


def test_wide_takes_the_columns_that_hold_only_0_and_1():
    table = read(WIDE)
    assert table.format == "wide"
    assert table.task == "multilabel"
    assert table.keys == ("a.jpg", "b.jpg", "c.jpg")
    assert table.classes == ("ship", "sea")
    assert table.labels.dtype == np.uint8
    assert table.labels.tolist() == [[1, 1], [0, 1], [0, 0]]
    assert table.columns == {
        "scene": ("Port", "Port", "Beach"),
        "split": ("train", "val", "val"),
    }


def test_wide_spellings_of_0_and_1():
    table = read("image,f,b,n\na,1.0,True,1\nb,0.0,False,0\nc,1,TRUE,0.\n")
    assert table.classes == ("f", "b", "n")
    assert table.labels.tolist() == [[1, 1, 1], [0, 0, 0], [1, 1, 0]]


def test_wide_passes_other_numbers_over_and_keeps_constant_classes():
    table = read("image,ships,lat,never,always\na,3,1.5,0,1\nb,0,0.5,0,1\nc,1,1,0,1\n")
    assert table.classes == ("never", "always")
    assert table.columns["ships"] == ("3", "0", "1")
    assert table.passed_over == ("ships (numbers)", "lat (numbers)")


def test_wide_classes_select_and_order():
    table = read(WIDE, classes=("sea", "ship"))
    assert table.classes == ("sea", "ship")
    assert table.labels.tolist() == [[1, 1], [1, 0], [0, 0]]


def test_one_class_is_binary():
    table = read(WIDE, classes=("ship",))
    assert table.task == "binary"
    assert table.labels.shape == (3, 1)
    assert table.columns["sea"] == ("1", "1", "0")


def test_absent_class_names_the_nearest():
    message = refused(WIDE, classes=("ships",))
    assert "'ships'" in message
    assert "nearest: 'ship'" in message


@pytest.mark.parametrize("classes", [("ship", "ship"), ()])
def test_class_named_twice_or_none_kept(classes):
    assert "classes" in refused(WIDE, classes=classes)


@pytest.mark.parametrize("gap", ["", "nan", "NaN", " "])
def test_gap_in_a_class_column_names_row_and_column(gap):
    message = refused(f"image,sea,ship\na,1,1\nb,1,{gap}\nc,1,0\n")
    assert "row 2 (b), column 'ship'" in message


def with_odd(cell: str, title: str = "ship") -> str:
    """Twelve rows of `dock` and another column, of which row 6 holds `cell`."""
    cells = [cell if i == 5 else str(i // 2 % 2) for i in range(12)]
    return "\n".join([f"tile,dock,{title}", *(f"t{i},{i % 2},{c}" for i, c in enumerate(cells))])


@pytest.mark.parametrize("cell", ["2", "-1", "0.5", "?", "unsure", "x"])
def test_a_few_other_values_in_a_class_column_are_refused(cell):
    assert f"row 6 (t5), column 'ship' holds '{cell}'" in refused(with_odd(cell))
    alone = "\n".join(
        f"{a},{c}" for a, _, c in (row.split(",") for row in with_odd(cell).split("\n"))
    )
    assert f"row 6 (t5), column 'ship' holds '{cell}'" in refused(alone)
    left_out = read(with_odd(cell), classes=("dock",))
    assert left_out.passed_over in (("ship (numbers)",), ("ship (words)",))


def test_a_constant_class_with_one_other_value_is_refused():
    rows = [f"t{i},{i % 2},{-1 if i == 3 else 0}" for i in range(12)]
    assert "row 4 (t3), column 'cloud'" in refused("\n".join(["tile,dock,cloud", *rows]))


def test_numbers_above_a_bound_are_positive_where_that_is_said():
    counts = with_odd("2")
    assert "label_positive='>0'" in refused(counts)
    table = read(counts, label_positive=">0")
    assert table.classes == ("dock", "ship")
    assert table.labels[:, 1].tolist() == [0, 0, 1, 1, 0, 1, 1, 1, 0, 0, 1, 1]
    percent = "tile,cloud\na,0\nb,50\nc,12.5\n"
    assert read(percent, label_positive=">=50", classes="cloud").labels[:, 0].tolist() == [0, 1, 0]
    assert "row 6" in refused(with_odd("?"), label_positive=">0")
    assert "only 0 and 1" in refused("tile,tags\na,x\nb,y\n", label_positive=">0")
    assert read("tile,label\na,0\nb,7\nc,3\n", label_positive=">0").labels.sum() == 2
    with pytest.raises(ValidationError):
        recipe(label_positive="<3")


def test_the_number_of_a_class_among_flags_has_a_way():
    text = "tile,label\n" + "\n".join(f"t{i},{2 if i == 5 else i % 2}" for i in range(12))
    assert "label_format=tags" in refused(text)
    assert read(text, label_format="tags").classes == ("0", "1", "2")


@pytest.mark.parametrize("cell", ["2", "0.5", "-1", "yes"])
def test_other_value_in_a_forced_class_names_row_and_column(cell):
    message = refused(f"image,ship\na,1\nb,0\nc,{cell}\n", classes=("ship",))
    assert "row 3 (c), column 'ship'" in message
    assert repr(cell) in message


def test_split_and_group_columns_are_no_classes():
    keys = {"split": SplitOptions(column="fold", group="orbit")}
    table = read("image,fold,orbit,ship\na,0,1,1\nb,1,0,0\n", **keys)
    assert table.classes == ("ship",)
    assert set(table.columns) == {"fold", "orbit"}


def test_wide_forced_without_such_a_column():
    assert "holds only 0 and 1" in refused("image,n\na,5\nb,7\n", label_format="wide")


@pytest.mark.parametrize(("title", "said"), [("", "(no name)"), ("Unnamed: 0", "Unnamed: 0")])
def test_index_column_of_pandas_is_left_out_and_named(title, said):
    table = read(f"{title},image,ship\n0,a,1\n1,b,0\n")
    assert table.classes == ("ship",)
    assert table.columns == {}
    assert table.passed_over == (said,)


@pytest.mark.parametrize(("by", "over"), [("auto", ()), ("draw", ("split (words)",))])
def test_a_split_that_is_not_used_is_named(by, over):
    keys = {"split": SplitOptions(by=by)}
    assert read("image,split,ship\na,train,1\nb,val,0\n", **keys).passed_over == over


# ---- tags


def test_tags_sorted_as_multilabelbinarizer_does():
    from sklearn.preprocessing import MultiLabelBinarizer

    rows = ["haze primary", "agriculture clear primary water", "Clear", "", "primary"]
    text = "image_name,tags\n" + "".join(f"train_{i},{tags}\n" for i, tags in enumerate(rows))
    table = read(text)
    binarizer = MultiLabelBinarizer()
    expected = binarizer.fit_transform([row.split() for row in rows])
    assert table.format == "tags"
    assert table.task == "multilabel"
    assert list(table.classes) == list(binarizer.classes_)
    assert np.array_equal(table.labels, expected)
    assert table.keys == tuple(f"train_{i}" for i in range(5))


def test_tags_classes_select_and_order_and_keep_all_rows():
    table = read("image,tags\na,x y\nb,z\nc,y\n", classes=("z", "y"))
    assert table.classes == ("z", "y")
    assert table.labels.tolist() == [[0, 1], [1, 0], [0, 1]]
    assert "nearest: 'z'" in refused("image,tags\na,x y\nb,z\n", classes=("zz",))


def test_single_column_of_words_is_tags():
    assert read("image,weather\na,clear\nb,haze\n").classes == ("clear", "haze")


def test_tags_forced_may_look_like_numbers():
    table = read("image,label\na,10\nb,2\n", label_format="tags", task="multiclass")
    assert table.classes == ("10", "2")
    assert table.task == "multiclass"


@pytest.mark.parametrize("cell", ["nan", "None", "NA"])
def test_tags_refuse_missing_words(cell):
    message = refused(f"image,tags\na,ship\nb,{cell}\n", label_format="tags")
    assert "row 2 (b), column 'tags'" in message


def test_classes_and_flags_are_unclear():
    text = "image,label,ship\na,Port,1\nb,Sea,0\n"
    assert "label_format=tags or label_format=wide" in refused(text)
    assert read(text, label_format="wide").classes == ("ship",)
    assert read(text, label_format="tags").classes == ("Port", "Sea")
    assert "label_format=tags" in refused("image,label,ship\na,3,1\nb,7,0\n")


# ---- what separates names in a cell

NAMES = ("Annual Crop", "Permanent Crop", "Sea Lake", "Forest")
CORINE = ("Beaches, dunes, sands", "Mixed forest", "Fruit trees and berry plantations")


def column(cells: Sequence[str], title: str = "label", **keys) -> LabelTable:
    """A table of one column beside the key, its cells quoted."""
    rows = (f't{i:03d}.tif,"{cell.replace(chr(34), chr(34) * 2)}"' for i, cell in enumerate(cells))
    return read("\n".join((f"filename,{title}", *rows)), **keys)


def names_of(table: LabelTable) -> list[set[str]]:
    return [{c for c, on in zip(table.classes, row, strict=True) if on} for row in table.labels]


def planet(rows: int) -> list[str]:
    """Cells as the Planet table's: a weather, mostly primary, and some of thirteen others."""
    rng = np.random.default_rng(3)
    weather = ["clear", "haze", "partly_cloudy"]
    rare = [f"cover_{i}" for i in range(13)]
    cells = []
    for _ in range(rows):
        words = [weather[rng.integers(3)], *rng.choice(rare, rng.integers(0, 3), replace=False)]
        cells.append(" ".join(words + ["primary"] * int(rng.random() < 0.9)))
    return [*cells, "cloudy"]


@pytest.mark.parametrize("title", ["label", "class", "Class", "ClassName", "land cover"])
@pytest.mark.parametrize("order", [NAMES * 4, sorted(NAMES * 2), NAMES])
def test_names_of_several_words_stay_whole_and_one_a_tile(order, title):
    table = column(order, title)
    assert table.classes == tuple(sorted(NAMES))
    assert names_of(table) == [{name} for name in order]
    assert table.task == "multiclass"
    assert any("label_separator=blank" in note for note in table.notes)


@pytest.mark.parametrize("title", ["tags", "labels", "label"])
def test_words_that_combine_as_planets_are_cut_at_blanks(title):
    cells = planet(400)
    table = column(cells, title)
    assert names_of(table) == [set(cell.split()) for cell in cells]
    assert table.task == "multilabel"
    assert any("label_separator=none" in note for note in table.notes)


def test_a_column_called_tags_is_cut_at_blanks_however_few_it_holds():
    table = column(["haze water", "clear primary"] * 4, "tags")
    assert table.classes == ("clear", "haze", "primary", "water")
    assert any("label_separator=none" in note for note in table.notes)


@pytest.mark.parametrize("mark", [";", "|", ",", "; ", " , "])
def test_names_are_cut_at_a_separator_and_nowhere_else(mark):
    cells = ["Sea Lake", f"Sea Lake{mark}Forest", "Forest", f"Forest{mark}Annual Crop{mark}", ""]
    found = [{"Sea Lake"}, {"Sea Lake", "Forest"}, {"Forest"}, {"Forest", "Annual Crop"}, set()]
    for title in ("tags", "label"):
        table = column(cells, title)
        assert names_of(table) == found
        assert table.task == "multilabel"


@pytest.mark.parametrize(
    ("separator", "cell", "expected"),
    [
        ("none", "a, b;c d", {"a, b;c d"}),
        ("blank", "a, b;c d", {"a,", "b;c", "d"}),
        ("comma", "a, b;c d", {"a", "b;c d"}),
        (";", "a, b;c d", {"a, b", "c d"}),
        ("semicolon", "a, b;c d", {"a, b", "c d"}),
        (" and ", "a and b and c", {"a", "b", "c"}),
        ("/", "a/b", {"a", "b"}),
        ("pipe", "a|b", {"a", "b"}),
    ],
)
def test_the_separator_that_is_said_decides(separator, cell, expected):
    table = column([cell, "x"], label_separator=separator)
    assert names_of(table) == [expected, {"x"}]
    assert table.task == ("multiclass" if separator == "none" else "multilabel")


@pytest.mark.parametrize(
    ("cells", "title", "say"),
    [
        ([f"{a} {b}" for a in "xyz" for b in ("crop", "wood", "bog")], "label", "blank or none"),
        (planet(30), "labels", "blank or none"),
        ([*CORINE, CORINE[0]], "label", "comma or none"),
        (["ship,sea", "port"], "tags", "comma or none"),
        (["a;b", "c|d"], "tags", "semicolon or pipe"),
        (["ship/sea", "ship", "sea"], "label", "'/' or none"),
        (["ship;sea", "ship, sea"], "tags", "none, or mend"),
    ],
)
def test_cells_that_can_be_read_in_two_ways_are_refused(cells, title, say):
    with pytest.raises(InputError, match=f"{title}.*label_separator={say}"):
        column(cells, title)


def test_commas_within_names_survive_another_separator():
    table = column([f"{CORINE[0]};{CORINE[1]}", CORINE[1], CORINE[2]], "labels")
    assert table.classes == tuple(sorted(CORINE))


LISTED = [{"Sea Lake", "Forest"}, {"Forest"}, {"it's"}, set()]


@pytest.mark.parametrize(
    "cells",
    [
        [str(sorted(names)) for names in LISTED],
        [json.dumps(sorted(names)) for names in LISTED],
        [str(np.array(sorted(names))) if names else "[]" for names in LISTED],
        [f"[{', '.join(sorted(names))}]" for names in LISTED],
        [str(tuple(sorted(names))) for names in LISTED],
    ],
    ids=["python", "json", "numpy", "bare", "tuple"],
)
def test_lists_written_as_text(cells):
    table = column(cells, "labels")
    assert names_of(table) == LISTED
    assert table.task == "multilabel"


# ---- one class a tile


@pytest.mark.parametrize("title", ["label", "class", "Label", "class_id", "category"])
def test_numbers_of_classes_are_one_a_tile(title):
    table = column(["3", "0", "12", "1"], title)
    assert table.classes == ("0", "1", "12", "3")
    assert table.task == "multiclass"
    assert names_of(table) == [{"3"}, {"0"}, {"12"}, {"1"}]


def test_numbers_of_classes_that_were_stored_as_floats():
    table = read(parquet(image=["a", "b", "c"], label=[3.0, 0.0, 2.0]))
    assert (table.task, table.classes) == ("multiclass", ("0", "2", "3"))


def test_leading_zeros_of_class_codes_are_kept():
    assert column(["07", "10", "07"]).classes == ("07", "10")


@pytest.mark.parametrize("cell", ["-1", "0.5"])
def test_numbers_that_are_no_classes_are_refused(cell):
    with pytest.raises(InputError, match=rf"row 3 \(t002.tif\), column 'label' holds {cell}"):
        column(["3", "5", cell, "4"])


def test_names_win_over_the_numbers_of_the_same_classes():
    table = read(",Filename,Label,ClassName\n0,a,7,Sea Lake\n1,b,1,Forest\n2,c,7,Sea Lake\n")
    assert (table.task, table.classes) == ("multiclass", ("Forest", "Sea Lake"))
    assert table.passed_over == ("Label (numbers)", "(no name)")


def test_two_words_are_two_classes_and_one_of_them_is_binary():
    cells = ["ship", "no ship", "no ship", "ship"]
    both = column(cells)
    assert (both.task, both.classes) == ("multiclass", ("no ship", "ship"))
    assert any("classes=[NAME]" in note for note in both.notes)
    one = column(cells, classes=("ship",))
    assert one.task == "binary"
    assert one.labels[:, 0].tolist() == [1, 0, 0, 1]
    assert column(["ship", "", "", "ship"]).task == "binary"
    with pytest.raises(InputError, match="all tiles are 'ship'"):
        column(["ship", "ship"])


def test_classes_that_differ_in_capitals_only_are_told():
    table = column(["Forest", "forest", "Sea"])
    assert "classes that differ in capitals only: Forest, forest" in table.notes


def test_a_tile_without_its_one_class_is_named():
    with pytest.raises(InputError, match=r"row 2 \(t001.tif\).*has 0.*task=multilabel"):
        column(["sea", "", "land"])
    assert column(["sea", "", "land"], task="multilabel").labels.sum() == 2


@pytest.mark.parametrize("words", [("yes", "no"), ("Y", "N"), ("True", "False"), ("1.0", "0.0")])
@pytest.mark.parametrize("title", ["ship", "label"])
def test_yes_and_no_are_flags(words, title):
    yes, no = words
    table = column([no, yes, no], title)
    assert (table.task, table.classes) == ("binary", (title,))
    assert table.labels[:, 0].tolist() == [0, 1, 0]


# ---- vectors of 0 and 1

VECTORS = [[0, 1, 0], [1, 1, 0], [0, 0, 0], [0, 1, 1]]


@pytest.mark.parametrize(
    "spell",
    [
        str,
        lambda v: " ".join(map(str, v)),
        lambda v: ",".join(map(str, v)),
        lambda v: ", ".join(f"{x}.0" for x in v),
        lambda v: "|".join(map(str, v)),
        lambda v: str(np.array(v)),
        lambda v: str(np.array(v, float)),
        lambda v: str([bool(x) for x in v]),
        lambda v: str(np.array(v, bool)),
    ],
)
@pytest.mark.parametrize("title", ["label", "labels", "onehot"])
def test_vectors_are_multi_hot_and_want_names(spell, title):
    cells = [spell(vector) for vector in VECTORS]
    with pytest.raises(InputError, match=f"'{title}' holds lists of 3 .*classes=\\[...\\]"):
        column(cells, title)
    with pytest.raises(InputError, match="3 names in order; classes has 2"):
        column(cells, title, classes=("a", "b"))
    table = column(cells, title, classes=("sea", "ship", "ice"))
    assert (table.task, table.classes) == ("multilabel", ("sea", "ship", "ice"))
    assert table.labels.tolist() == VECTORS
    with pytest.raises(InputError, match=r"row 5 \(t004.tif\)"):
        column([*cells, spell([0, 2, 0]).replace("True", "2")], title, classes=("a", "b", "c"))
    with pytest.raises(InputError, match=r"row 5 \(t004.tif\)"):
        column([*cells, spell([0, 1])], title, classes=("a", "b", "c"))


@pytest.mark.parametrize(
    "kind",
    [pa.list_(pa.int64()), pa.list_(pa.bool_()), pa.list_(pa.float32()), pa.list_(pa.int8(), 3)],
)
def test_vectors_of_parquet(kind):
    labels = pa.array(VECTORS).cast(pa.list_(pa.int8())).cast(kind)
    data = parquet(image=list("abcd"), labels=labels)
    assert "classes=[...]" in refused(data)
    assert read(data, classes=("x", "y", "z")).labels.tolist() == VECTORS


def test_numbers_of_several_classes_are_no_vectors():
    assert column(["3 7", "7", "12 3 7", "1 12", "0 1", "1"], "tags").classes == (
        *("0", "1", "12", "3", "7"),
    )


def test_no_known_format():
    message = refused("image,count\na,7\nb,9\n")
    assert "wide" in message
    assert "EncodedPixels" in message
    assert "count" in message


# ---- rle


def test_rle_groups_rows_by_image():
    table = read("ImageId,EncodedPixels\nb.jpg,1 2\na.jpg,\nb.jpg,9 1 12 3\nc.jpg,\n")
    assert table.format == "rle"
    assert table.task == "binary"
    assert table.classes == ("ship",)
    assert table.keys == ("b.jpg", "a.jpg", "c.jpg")
    assert table.labels.tolist() == [[1], [0], [0]]


def test_rle_empty_row_beside_a_mask_is_still_a_ship():
    assert read("ImageId,EncodedPixels\na,\na,1 1\n").labels.tolist() == [[1]]


@pytest.mark.parametrize("mask", ["1 2 3", "0 4", "nan", "1 2,5", "-3 4", "1.5 2"])
def test_rle_bad_mask_names_row_and_column(mask):
    message = refused(f'ImageId,EncodedPixels\na,1 1\nb,"{mask}"\n')
    assert "row 2 (b), column 'EncodedPixels'" in message


def test_rle_rows_of_one_image_must_agree_in_the_split():
    text = "ImageId,EncodedPixels,split,area\na,1 1,train,5\na,7 1,{},6\nb,,val,0\n"
    assert read(text.format("train")).columns == {"split": ("train", "val")}
    assert "row 2 (a), column 'split'" in refused(text.format("val"))


def test_rle_forced_takes_the_only_other_column():
    assert read("id,mask\na,3 4\nb,\n", label_format="rle").labels.tolist() == [[1], [0]]
    assert "EncodedPixels" in refused("id,x,y\na,1,2\n", label_format="rle")


# ---- keys and the file itself


def test_key_column_by_default_is_the_first_text_column():
    table = read("number,split,name,ship\n7,train,a/1.tif,1\n8,val,a/2.tif,0\n")
    assert table.keys == ("a/1.tif", "a/2.tif")


def test_key_column_may_look_like_numbers_and_keeps_its_spelling():
    text = "id,ship\n007,1\n010,0\n"
    assert "key_column" in refused(text)
    assert read(text, key_column="id").keys == ("007", "010")


def test_absent_key_column_lists_the_columns():
    message = refused(WIDE, key_column="imgae")
    assert "'imgae'" in message
    assert "nearest: 'image'" in message
    assert "image, scene, split, ship, sea" in message


def test_absent_group_column_lists_the_columns():
    assert "split.group" in refused(WIDE, split=SplitOptions(group="orbit"))


def test_duplicate_key_is_named():
    message = refused("image,ship\na,1\nb,0\na,1\n")
    assert "rows 1 and 3 both name 'a'" in message


def test_duplicate_key_hints_at_another_column():
    assert "image" in refused("scene,image,ship\nP,a,1\nP,b,0\n").split("key_column")[1]


def test_empty_key_is_named():
    assert "row 2, column 'image' is empty" in refused("image,ship\na,1\n,0\n", key_column="image")


@pytest.mark.parametrize(
    "data",
    [
        "\ufeffimage,ship\r\na.jpg,1\r\n\r\nb.jpg,0\r\n".encode(),
        b"\n\nimage,ship\na.jpg,1\n   \nb.jpg,0",
        b"image,ship\n,\na.jpg,1\nb.jpg,0\n,\n",
        b'"image","ship"\n"a.jpg","1"\n"b.jpg","0"\n',
        b" image ; ship \n a.jpg ; 1 \nb.jpg;0\n",
        b"image\tship\na.jpg\t1\nb.jpg\t0\n",
        "image,ship\na.jpg,1\nb.jpg,0\n".encode("utf-16"),
        parquet(image=["a.jpg", "b.jpg"], ship=[True, False]),
        parquet(image=["a.jpg", "b.jpg"], ship=[1.0, 0.0]),
        parquet(image=pa.array(["a.jpg", "b.jpg"]).dictionary_encode(), ship=[1, 0]),
    ],
    ids=[
        "bom-crlf",
        "blank",
        "spaces-rows",
        "quotes",
        "semicolon",
        "tab",
        "utf16",
        "bool",
        "float",
        "dictionary",
    ],
)
def test_the_same_table_in_many_dresses(data):
    table = read(data)
    assert (table.keys, table.classes) == (("a.jpg", "b.jpg"), ("ship",))
    assert table.labels.tolist() == [[1], [0]]


@pytest.mark.parametrize("data", [b"\xff\xfea", b"\xfe\xffa", "a,b\n1,2\n".encode("utf-16")[:-1]])
def test_utf16_cut_short_is_refused(data):
    message = refused(data, name="cut.csv")
    assert "labels=cut.csv" in message
    assert "UTF-16" in message


@pytest.mark.parametrize("rows", [10, 20_000])
@pytest.mark.parametrize("header", ['"image,ship', 'image,"ship'])
def test_a_stray_quote_in_the_header_is_refused(header, rows):
    text = header + "\n" + "".join(f"tile_{i},{i % 2}\n" for i in range(rows))
    message = refused(text, name="stray.csv")
    assert "labels=stray.csv" in message
    assert len(message) < 500
    if rows > 10:
        assert "stray quote" in message


def test_quoted_cells_hold_delimiters_quotes_and_line_breaks():
    table = read('image,note,ship\n"a, b.jpg","say ""x""\ntwice",1\nc.jpg,,0\n')
    assert table.keys == ("a, b.jpg", "c.jpg")
    assert table.columns["note"] == ('say "x"\ntwice', None)


def test_parquet_lists_of_tags():
    table = read(parquet(image=["a", "b"], tags=[["bare soil", "sea"], []]))
    assert table.classes == ("bare soil", "sea")
    assert table.labels.tolist() == [[1, 1], [0, 0]]
    assert "row 2 (b)" in refused(parquet(image=["a", "b"], tags=[["x"], None]))


def test_parquet_columns_that_hold_no_text_are_passed_over():
    boxes = pa.array([[{"x": 1}], []])
    pixels = pa.array([b"\xff\xfe", b"\x00"])
    table = read(parquet(pixels=pixels, boxes=boxes, image=["a", "b"], ship=[1, 0]))
    assert table.keys == ("a", "b")
    assert table.columns == {}
    assert table.passed_over == ("pixels", "boxes")


@pytest.mark.parametrize("value", [None, float("nan")])
def test_parquet_gap_names_row_and_column(value):
    assert "row 2 (b), column 'ship'" in refused(parquet(image=["a", "b"], ship=[1.0, value]))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is empty"),
        (b"\n \n", "is empty"),
        (b"image,ship\n", "no rows"),
        (b"image,ship\n,\n", "no rows"),
        (b"image,ship\na,1,7\n", "row 2 has 3 cells"),
        (b"image,ship,ship\na,1,1\n", "two columns named 'ship'"),
        (b"PAR1 but no more", "Parquet"),
        (b"PK\x03\x04 a spreadsheet", "not text"),
        (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "not text"),
        ("image,tags\na,for\xeat\n".encode("latin-1"), "not UTF-8 text (line 2)"),
    ],
)
def test_files_that_are_no_tables(data, says):
    assert says in refused(data)


# ---- task


def test_multiclass_is_one_hot():
    table = read("image,class\na,sea\nb,land\nc,sea\n", task="multiclass")
    assert table.task == "multiclass"
    assert table.labels.tolist() == [[0, 1], [1, 0], [0, 1]]


def test_multiclass_refuses_several_and_none():
    message = refused("image,tags\na,sea\nb,land sea\n", task="multiclass")
    assert "row 2 (b)" in message
    assert "land, sea" in message
    assert "has 0" in refused("image,x,y\na,1,0\nb,0,0\n", task="multiclass")


def test_multiclass_leaves_other_classes_out():
    table = read("image,tags\na,x\nb,y\nc,z\n", task="multiclass", classes=("z", "x"))
    assert table.keys == ("a", "c")
    assert table.labels.tolist() == [[0, 1], [1, 0]]
    assert table.left_out == ("b",)


def test_binary_takes_one_class_and_multiclass_two():
    assert "ship, sea" in refused(WIDE, task="binary")
    assert "two classes" in refused(WIDE, task="multiclass", classes=("ship",))
    assert read(WIDE, task="multilabel", classes=("ship",)).task == "multilabel"


# ---- folders

FOLDERS = ["Port/a.jpg", "Beach/b.jpg", "Port/sub/c.jpg"]


def test_folders_are_multiclass():
    table = labels_from_folders(FOLDERS, recipe())
    assert (table.format, table.task, table.classes) == ("folders", "multiclass", ("Beach", "Port"))
    assert table.keys == tuple(FOLDERS)
    assert table.labels.tolist() == [[0, 1], [1, 0], [0, 1]]


def test_one_folder_of_several_is_binary_against_the_rest():
    table = labels_from_folders(FOLDERS, recipe(classes=("Port",)))
    assert table.task == "binary"
    assert table.labels.tolist() == [[1], [0], [1]]


def test_folders_left_out_by_classes():
    table = labels_from_folders([*FOLDERS, "Sea/d.jpg"], recipe(classes=("Sea", "Port")))
    assert table.keys == ("Port/a.jpg", "Port/sub/c.jpg", "Sea/d.jpg")
    assert table.left_out == ("Beach/b.jpg",)


def test_folders_of_parts_give_the_split():
    keys = ["train/x/1.png", "train/y/2.png", "valid/x/3.png"]
    table = labels_from_folders(keys, recipe())
    assert table.classes == ("x", "y")
    assert table.columns == {"split": ("train", "train", "valid")}


@pytest.mark.parametrize(
    ("keys", "more"),
    [
        (["a.jpg", "Port/b.jpg"], {}),
        (["Port/a.jpg", "Port/b.jpg"], {}),
        ([], {}),
        (FOLDERS, {"label_format": "tags"}),
        (FOLDERS, {"task": "binary"}),
        (FOLDERS, {"key_column": "image"}),
        (FOLDERS, {"classes": ("Prt",)}),
    ],
)
def test_folders_refused(keys, more):
    with pytest.raises(InputError):
        labels_from_folders(keys, recipe(**more))


def test_folders_take_no_table():
    assert "reads no table" in refused(WIDE, label_format="folders")


# ---- real tables


@pytest.mark.data
def test_aid_table(data: Path):
    content = (data / "aid" / "labels.csv").read_bytes()
    table = read_labels(content, "labels.csv", recipe())
    assert len(table) == 2400
    assert len(table.classes) == 17
    assert table.classes[0] == "airplane"
    assert table.classes[-1] == "water"
    assert table.task == "multilabel"
    assert list(table.columns) == ["scene", "split"]
    assert 5.1 < table.labels.sum(axis=1).mean() < 5.3
    ship = read_labels(content, "labels.csv", recipe(classes=("ship",)))
    assert ship.task == "binary"
    assert 0.09 < ship.labels.mean() < 0.11


@pytest.mark.data
def test_airbus_table(data: Path):
    name = "train_ship_segmentations.csv"
    table = read_labels((data / "airbus" / name).read_bytes(), name, recipe())
    assert (table.format, table.task, table.classes) == ("rle", "binary", ("ship",))
    assert table.keys == tuple(
        f"{i}.jpg" for i in ("00003e153", "0001124c7", "0a0df8299", "0a1a58833", "0a1b7d6ec")
    )
    assert table.labels[:, 0].tolist() == [0, 0, 1, 1, 1]


# ---- varieties of the same kinds

EUROSAT = ("AnnualCrop", "Forest", "Herbaceous Vegetation", "River", "Permanent Crop", "Sea Lake")
LAND = "Land principally occupied by agriculture, with significant areas of natural vegetation"


def test_names_of_two_words_stay_whole_in_a_column_called_tags_too():
    table = column(EUROSAT * 2, "tags")
    assert table.classes == tuple(sorted(EUROSAT))
    assert any("label_separator=blank" in note for note in table.notes)


@pytest.mark.parametrize("cells", [("a b", "b a", "c"), ("a b", "a c b", "c d", "e", "f")])
def test_words_that_change_places_are_no_names_unasked(cells):
    assert "label_separator=blank or none" in refused_column(cells, "labels")
    assert column(cells, "labels", label_separator="blank").classes[:2] == ("a", "b")


def refused_column(cells: Sequence[str], title: str, **keys) -> str:
    with pytest.raises(InputError) as caught:
        column(cells, title, **keys)
    return str(caught.value)


@pytest.mark.parametrize("title", ["tags", "label"])
@pytest.mark.parametrize("mark", [" + ", " & ", "/", " / "])
@pytest.mark.parametrize("end", [True, False])
def test_a_separator_that_is_not_known_makes_no_class(title, mark, end):
    cells = [c + mark * end for c in (f"sea{mark}port", "sea", "port", f"port{mark}sea{mark}ice")]
    assert f"label_separator={mark.strip()!r}" in refused_column(cells, title)


def test_a_name_with_a_comma_is_not_cut_in_silence():
    cells = [LAND, f"{LAND}, Pastures", "Pastures", "Pastures, Mixed forest", "Mixed forest"]
    assert "label_separator=comma or none" in refused_column(cells, "labels")
    unquoted = [f"[{cell}]" for cell in cells]
    assert "in quotes" in refused_column(unquoted, "labels")


def test_arrays_as_numpy_prints_them_are_lists():
    cells = [f"array(['{LAND}', 'Pastures'], dtype=object)", "array(['Pastures'], dtype=object)"]
    assert names_of(column(cells, "labels")) == [{LAND, "Pastures"}, {"Pastures"}]


def test_0_and_1_without_anything_between_are_a_vector():
    cells = ["010", "100", "001", "110"]
    assert "3 names in order" in refused_column(cells, "label")
    table = column(cells, "label", classes=("a", "b", "c"))
    assert table.labels.tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 1], [1, 1, 0]]
    assert column(["01", "02", "10"], "label").classes == ("01", "02", "10")


def test_blank_names_of_a_list_are_none():
    table = read(parquet(tile=["a", "b"], labels=[["sea ", ""], ["ice"]]))
    assert names_of(table) == [{"sea"}, {"ice"}]


def test_yes_and_no_stand_beside_0_and_1():
    table = read("tile,ship,dock\na,yes,0\nb,no,1\nc,no,0\n")
    assert table.classes == ("ship", "dock")
    assert table.labels.tolist() == [[1, 0], [0, 1], [0, 0]]
    rows = "".join(f"t{i},{cell},1\n" for i, cell in enumerate(["yes", "no"] * 3 + ["maybe"]))
    assert "row 7 (t6), column 'ship' holds 'maybe'" in refused(f"tile,ship,dock\n{rows}")


@pytest.mark.parametrize("odd", ["-1", "?", "unknown"])
def test_marks_of_the_unknown_are_refused_however_many(odd):
    text = f"tile,ship,dock\na,{odd},0\nb,1,1\nc,{odd},0\n"
    assert f"row 1 (a), column 'ship' holds '{odd}'" in refused(text)


def test_a_bound_for_positives_passes_no_column_of_counts_over():
    text = "tile,ship,dock\na,0,0\nb,3,1\nc,5,0\nd,2,1\n"
    assert "dock, ship; classes=[...]" in refused(text, label_positive=">0")
    table = read(text, label_positive=">0", classes=("ship", "dock"))
    assert table.labels.tolist() == [[0, 0], [1, 1], [1, 0], [1, 1]]


@pytest.mark.parametrize(
    "data",
    [b"sep=;\r\ntile;ship\r\na;0\r\nb;1\r\n", b"tile,ship\ra,0\rb,1\r", b"tile|ship\na|0\nb|1"],
)
def test_csv_as_spreadsheets_write_it(data):
    assert read(data).labels.tolist() == [[0], [1]]


def test_an_empty_column_is_called_empty():
    assert read("tile,ship,dock\na,,0\nb,,1\n").passed_over == ("ship (empty)",)


def test_tiles_may_be_numbered():
    table = read("tile,ship,dock\n00,1,0\n01,0,1\n02,0,0\n")
    assert (table.keys, table.classes) == (("00", "01", "02"), ("ship", "dock"))
    assert "no text column that names the tiles" in refused("ship,dock\n0,1\n1,0\n1,1\n")
