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
from sklearn.preprocessing import MultiLabelBinarizer

from satray.config.prepare import PrepareRecipe, SplitOptions
from satray.data.labels import LabelTable, labels_from_folders, read_labels
from satray.errors import InputError


def recipe(**keys) -> PrepareRecipe:
    return PrepareRecipe(images="archive", **keys)


def read(text: str | bytes, name: str = "labels.csv", **keys) -> LabelTable:
    data = text.encode() if isinstance(text, str) else text
    return read_labels(data, name, recipe(labels=name, **keys))


def refused(text: str | bytes, **keys) -> str:
    """The message, one line, that a table is refused with."""
    with pytest.raises(InputError) as caught:
        read(text, **keys)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 500
    return message


def parquet(**columns) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


def column(cells: Sequence[str], title: str = "label", **keys) -> LabelTable:
    """A table of one column beside the key, its cells quoted."""
    return read(quoted(cells, title), **keys)


def quoted(cells: Sequence[str], title: str) -> str:
    rows = (f't{i:03d}.tif,"{cell.replace(chr(34), chr(34) * 2)}"' for i, cell in enumerate(cells))
    return "\n".join((f"filename,{title}", *rows))


def names_of(table: LabelTable) -> list[set[str]]:
    return [{c for c, on in zip(table.classes, row, strict=True) if on} for row in table.labels]


WIDE = "image,scene,split,ship,sea\na.jpg,Port,train,1,1\nb.jpg,Port,val,0,1\nc.jpg,Beach,val,0,0\n"


# ---- the file


@pytest.mark.parametrize(
    "data",
    [
        "\ufeffimage,ship\r\na.jpg,1\r\n\r\nb.jpg,0\r\n".encode(),
        b"\n\nimage,ship\na.jpg,1\n   \nb.jpg,0",
        b"image,ship\n,\na.jpg,1\nb.jpg,0\n,\n",
        b'"image","ship"\n"a.jpg","1"\n"b.jpg","0"\n',
        b" image ; ship \n a.jpg ; 1 \nb.jpg;0\n",
        b"image\tship\na.jpg\t1\nb.jpg\t0\n",
        b"\timage\tship\n0\ta.jpg\t1\n1\tb.jpg\t0\n",
        b"sep=;\r\nimage;ship\r\na.jpg;1\r\nb.jpg;0\r\n",
        b"image,ship\ra.jpg,1\rb.jpg,0\r",
        b"image|ship\na.jpg|1\nb.jpg|0",
        parquet(image=["a.jpg", "b.jpg"], ship=[True, False]),
        parquet(image=["a.jpg", "b.jpg"], ship=[1.0, 0.0]),
        parquet(image=pa.array(["a.jpg", "b.jpg"]).dictionary_encode(), ship=[1, 0]),
    ],
)
def test_the_same_table_in_many_dresses(data):
    table = read(data)
    assert (table.keys, table.classes) == (("a.jpg", "b.jpg"), ("ship",))
    assert table.labels.tolist() == [[1], [0]]
    assert table.labels.dtype == np.uint8


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "labels=labels.csv is empty"),
        (b"\n \n", "is empty"),
        (b"image,ship\n", "no rows"),
        (b"image,ship\n,\n", "no rows"),
        (b"image,ship\na,1,7\n", "line 2 has 3 cells where the header has 2"),
        (b"image,ship\na,1\nb\nc,1\n", "line 3 has 1 cells where the header has 2"),
        (b"\n\nimage;ship;dock\n\na;1;\nb;1\n", "line 6 has 2 cells where the header has 3"),
        (b'image,ship\n"a\nb",1\nc\n', "line 4 has 1 cells"),
        (b"image,ship,ship\na,1,1\n", "two columns named 'ship'"),
        (b"PAR1 but no more", "Parquet"),
        (b"PK\x03\x04 a spreadsheet", "no UTF-8 text; a CSV, TSV or Parquet table is accepted"),
        (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "no UTF-8 text"),
        ("image,ship\na,1\n".encode("utf-16"), "no UTF-8 text"),
        ("image,tags\na,for\xeat\n".encode("latin-1"), "not UTF-8 text (line 2)"),
        (b'image,"ship\na,1\nb,0\n', "stray quote"),
        (b'"image,ship\n' + b"tile_1234,1\n" * 20_000, "stray quote"),
        (b'image,ship\na,1\n"b,0\nc,0\n', "line 3 has 1 cells"),
    ],
)
def test_files_that_are_no_tables(data, says):
    assert says in refused(data)


def test_quoted_cells_hold_delimiters_quotes_and_line_breaks_however_long():
    long = "x\n" * 200_000
    text = f'image,note,ship\n"a, b.jpg","say ""x""\ntwice",1\nc.jpg,,0\nd.jpg,"{long}",1\n'
    table = read(text, split=SplitOptions(group="note"))
    assert table.keys == ("a, b.jpg", "c.jpg", "d.jpg")
    assert table.columns["note"] == ('say "x"\ntwice', None, long.strip())


def test_texts_keep_their_spelling():
    split = SplitOptions(group="site")
    text = "id,site,ship\n007,001,1\n010,nan,0\n1e3,1.50,0\n"
    table = read(text, key_column="id", split=split)
    assert table.keys == ("007", "010", "1e3")
    assert table.columns["site"] == ("001", "nan", "1.50")


@pytest.mark.parametrize(("title", "said"), [("", "(no name)"), ("Unnamed: 0", "Unnamed: 0")])
def test_index_column_of_pandas_is_left_out_and_named(title, said):
    table = read(f"{title},image,ship\n0,a,1\n1,b,0\n")
    assert (table.classes, table.columns, table.passed_over) == (("ship",), {}, (said,))


def test_columns_of_parquet_that_hold_no_text_are_passed_over():
    boxes, pixels = pa.array([[{"x": 1}], []]), pa.array([b"\xff\xfe", b"\x00"])
    table = read(parquet(pixels=pixels, boxes=boxes, image=["a", "b"], ship=[1, 0]))
    assert (table.keys, table.columns) == (("a", "b"), {})
    assert table.passed_over == ("pixels", "boxes")


# ---- keys, split and group


def test_the_key_is_the_first_text_column_or_the_one_that_is_said():
    text = "number,split,name,ship\n7,train,a/1.tif,1\n8,val,a/2.tif,0\n"
    assert read(text).keys == ("a/1.tif", "a/2.tif")
    assert read(text, key_column="number").keys == ("7", "8")


def test_tiles_may_be_numbered():
    table = read("tile,ship,dock\n00,1,0\n01,0,1\n02,0,0\n")
    assert (table.keys, table.classes) == (("00", "01", "02"), ("ship", "dock"))


@pytest.mark.parametrize(
    ("text", "keys", "says"),
    [
        ("ship,dock\n0,1\n1,0\n1,1\n", {}, "no text column that names the tiles; key_column=..."),
        (WIDE, {"key_column": "imgae"}, "'imgae' (nearest: 'image'); columns: image, scene, split"),
        (WIDE, {"split": SplitOptions(group="orbit")}, "split.group"),
        ("image,ship\na,1\nb,0\na,1\n", {}, "rows 1 and 3 both name 'a'"),
        ("scene,image,ship\nP,a,1\nP,b,0\n", {}, "key_column=... picks another column of image"),
        ("image,ship\na,1\n,0\n", {"key_column": "image"}, "row 2, column 'image' is empty"),
    ],
)
def test_keys_that_are_refused(text, keys, says):
    assert says in refused(text, **keys)


def test_split_and_group_columns_are_no_classes():
    split = SplitOptions(column="fold", group="orbit")
    table = read("image,fold,orbit,ship\na,0,1,1\nb,1,0,0\n", split=split)
    assert (table.classes, set(table.columns)) == (("ship",), {"fold", "orbit"})


@pytest.mark.parametrize(("by", "over"), [("auto", ()), ("draw", ("split (words)",)),
                                          ("ground", ("split (words)",))])  # fmt: skip
def test_a_split_that_is_not_used_is_named(by, over):
    split = SplitOptions(by=by)
    assert read("image,split,ship\na,train,1\nb,val,0\n", split=split).passed_over == over


# ---- wide


def test_wide_takes_the_columns_that_hold_only_0_and_1():
    table = read(WIDE)
    assert (table.format, table.task) == ("wide", "multilabel")
    assert table.keys == ("a.jpg", "b.jpg", "c.jpg")
    assert table.classes == ("ship", "sea")
    assert table.labels.tolist() == [[1, 1], [0, 1], [0, 0]]
    assert table.columns == {"split": ("train", "val", "val")}
    assert table.passed_over == ("scene (words)",)


def test_wide_spellings_constants_and_what_is_passed_over():
    table = read("image,f,b,n\na,1.0,True,1\nb,0.0,False,0\nc,1,TRUE,0.\n")
    assert table.labels.tolist() == [[1, 1, 1], [0, 0, 0], [1, 1, 0]]
    table = read("image,ships,lat,never,always,none\na,3,1.5,0,1,\nb,0,0.5,0,1,\nc,1,1,0,1,\n")
    assert table.classes == ("never", "always")
    assert table.passed_over == ("ships (numbers)", "lat (numbers)", "none (empty)")


def test_wide_classes_select_and_order():
    table = read(WIDE, classes=("sea", "ship"))
    assert (table.classes, table.task) == (("sea", "ship"), "multilabel")
    assert table.labels.tolist() == [[1, 1], [1, 0], [0, 0]]
    table = read(WIDE, classes=("ship",))
    assert (table.task, table.labels.shape) == ("binary", (3, 1))
    assert table.passed_over == ("scene (words)", "sea (numbers)")


def with_odd(cell: str, title: str = "ship", beside: str = ",dock", rows: int = 12) -> str:
    """Rows of flags, of which row 6 holds `cell`."""
    cells = [cell if i == 5 else str(i // 2 % 2) for i in range(rows)]
    dock = [f",{i % 2}" if beside else "" for i in range(rows)]
    return "\n".join([f"tile{beside},{title}", *(f"t{i}{dock[i]},{cells[i]}" for i in range(rows))])


@pytest.mark.parametrize("beside", ["", ",dock"])
@pytest.mark.parametrize("cell", ["2", "-1", "0.5", "?", "unsure", "x", "", "nan"])
def test_a_few_other_values_in_a_class_column_are_refused(cell, beside):
    message = refused(with_odd(cell, beside=beside))
    assert "row 6 (t5), column 'ship' " + (f"holds '{cell}'" if cell else "is empty") in message


def test_a_column_that_is_left_out_may_hold_anything():
    left_out = [read(with_odd(cell), classes=("dock",)).passed_over for cell in ("2", "x")]
    assert left_out == [("ship (numbers)",), ("ship (words)",)]


@pytest.mark.parametrize(
    ("text", "keys", "says"),
    [
        (WIDE, {"classes": ("ships",)}, "'ships' (nearest: 'ship')"),
        (WIDE, {"classes": ("ship", "ship")}, "classes names ship twice"),
        (WIDE, {"classes": ()}, "classes=[] keeps no class"),
        ("image,n\na,5\nb,7\n", {"label_format": "wide"}, "no column that holds only 0 and 1"),
        ("image,ship\na,1\nb,0\nc,2\n", {"classes": ("ship",)}, "row 3 (c), column 'ship' holds"),
        ("image,ship\na,1\nb,0\nc,yes\n", {"classes": ("ship",)}, "row 3 (c), column 'ship'"),
        ("tile,cloud\n" + "".join(f"t{i},{-(i == 3)}\n" for i in range(12)), {}, "row 4 (t3)"),
        ("tile,ship,dock\na,?,0\nb,1,1\nc,?,0\n", {}, "row 1 (a), column 'ship' holds '?'"),
        ("tile,ship,dock\na,-1,0\nb,1,1\nc,-1,0\n", {}, "row 1 (a), column 'ship' holds '-1'"),
        (with_odd("maybe").replace(",0", ",no").replace(",1", ",yes"), {}, "holds 'maybe'"),
        (parquet(image=["a", "b"], ship=[1.0, None]), {}, "row 2 (b), column 'ship'"),
        (parquet(image=["a", "b"], ship=[1.0, float("nan")]), {}, "row 2 (b), column 'ship'"),
        ("image,count\na,7\nb,9\n", {}, "(wide), a column of words called tags or label (tags)"),
        (WIDE, {"label_format": "folders"}, "reads no table"),
    ],
)  # fmt: skip
def test_wide_tables_that_are_refused(text, keys, says):
    assert says in refused(text, **keys)


@pytest.mark.parametrize("words", [("yes", "no"), ("Y", "N"), ("True", "False"), ("1.0", "0.0")])
@pytest.mark.parametrize("title", ["ship", "label"])
def test_yes_and_no_are_flags(words, title):
    yes, no = words
    table = read(f"tile,{title}\na,{no}\nb,{yes}\nc,{no}\n")
    assert (table.task, table.classes) == ("binary", (title,))
    assert table.labels[:, 0].tolist() == [0, 1, 0]
    beside = read(f"tile,{title},dock\na,{no},0\nb,{yes},1\nc,{no},0\n", label_format="wide")
    assert beside.classes == (title, "dock")


def test_numbers_above_a_bound_are_positive_where_that_is_said():
    counts = with_odd("2")
    assert "label_positive='>0'" in refused(counts)
    table = read(counts, label_positive=">0")
    assert table.classes == ("dock", "ship")
    assert table.labels[:, 1].tolist() == [0, 0, 1, 1, 0, 1, 1, 1, 0, 0, 1, 1]
    percent = "tile,cloud\na,0\nb,50\nc,12.5\n"
    assert read(percent, label_positive=">=50", classes="cloud").labels[:, 0].tolist() == [0, 1, 0]
    assert read("tile,label\na,0\nb,7\nc,3\n", label_positive=">0").labels.sum() == 2
    assert "row 6" in refused(with_odd("?"), label_positive=">0")
    assert "only 0 and 1" in refused("tile,tags\na,x\nb,y\n", label_positive=">0")
    several = "tile,ship,dock\na,0,0\nb,3,1\nc,5,0\nd,2,1\n"
    assert "dock, ship; classes=[...]" in refused(several, label_positive=">0")
    table = read(several, label_positive=">0", classes=("ship", "dock"))
    assert table.labels.tolist() == [[0, 0], [1, 1], [1, 0], [1, 1]]
    with pytest.raises(ValidationError):
        recipe(label_positive="<3")


# ---- tags


def planet(rows: int) -> list[str]:
    """Cells as the Planet table's: a weather, mostly primary, and some of thirteen others."""
    rng = np.random.default_rng(3)
    weather, rare = ["clear", "haze", "partly_cloudy"], [f"cover_{i}" for i in range(13)]
    cells = []
    for _ in range(rows):
        words = [weather[rng.integers(3)], *rng.choice(rare, rng.integers(0, 3), replace=False)]
        cells.append(" ".join(words + ["primary"] * int(rng.random() < 0.9)))
    return [*cells, "cloudy"]


def test_tags_sorted_as_multilabelbinarizer_does():
    rows = ["haze primary", "agriculture clear primary water", "Clear", "", "primary"]
    text = "image_name,tags\n" + "".join(f"train_{i},{tags}\n" for i, tags in enumerate(rows))
    table = read(text)
    binarizer = MultiLabelBinarizer()
    expected = binarizer.fit_transform([row.split() for row in rows])
    assert (table.format, table.task) == ("tags", "multilabel")
    assert list(table.classes) == list(binarizer.classes_)
    assert np.array_equal(table.labels, expected)
    assert table.keys == tuple(f"train_{i}" for i in range(5))


def test_tags_classes_select_and_order_and_keep_all_rows():
    table = read("image,tags\na,x y\nb,z\nc,y\n", classes=("z", "y"))
    assert table.classes == ("z", "y")
    assert table.labels.tolist() == [[0, 1], [1, 0], [0, 1]]


def test_which_column_holds_the_tags():
    assert read("image,weather\na,clear\nb,haze\n").classes == ("clear", "haze")
    table = read(",Filename,Label,ClassName\n0,a,7,Sea Lake\n1,b,1,Forest\n2,c,7,Sea Lake\n")
    assert (table.task, table.classes) == ("multiclass", ("Forest", "Sea Lake"))
    assert sorted(table.passed_over) == ["(no name)", "Label (numbers)"]
    both = "image,label,ship\na,Port,1\nb,Sea,0\n"
    assert read(both, label_format="wide").classes == ("ship",)
    assert read(both, label_format="tags").classes == ("Port", "Sea")


@pytest.mark.parametrize(
    ("text", "keys", "says"),
    [
        ("image,tags\na,x y\nb,z\n", {"classes": ("zz",)}, "nearest: 'z'"),
        ("image,label,ship\na,Port,1\nb,Sea,0\n", {}, "label_format=tags or label_format=wide"),
        ("image,label,ship\na,3,1\nb,7,0\n", {}, "label_format=tags"),
        (with_odd("2", "label", beside=""), {}, "label_format=tags"),
        ("image,tags\na,ship\nb,nan\n", {"label_format": "tags"}, "row 2 (b), column 'tags'"),
        ("image,tags\na,ship\nb,None\n", {"label_format": "tags"}, "row 2 (b), column 'tags'"),
        (parquet(image=["a", "b"], tags=[["x"], None]), {}, "row 2 (b)"),
        ("image,label\na,3\nb,5\nc,-1\n", {}, "row 3 (c), column 'label' holds '-1'"),
        ("image,label\na,3\nb,5\nc,0.5\n", {}, "row 3 (c), column 'label' holds '0.5'"),
        ("image,x,y\na,p,q\nb,r,s\n", {"label_format": "tags"}, "name it tags or labels"),
    ],
)  # fmt: skip
def test_tags_that_are_refused(text, keys, says):
    assert says in refused(text, **keys)


@pytest.mark.parametrize("title", ["label", "class", "Label", "class_id", "category"])
def test_numbers_of_classes_are_one_a_tile(title):
    table = column(["3", "0", "12", "1"], title)
    assert (table.classes, table.task) == (("0", "1", "12", "3"), "multiclass")
    assert names_of(table) == [{"3"}, {"0"}, {"12"}, {"1"}]


def test_spellings_of_numbers_of_classes():
    table = read(parquet(image=["a", "b", "c"], label=[3.0, 0.0, 2.0]))
    assert (table.task, table.classes) == ("multiclass", ("0", "2", "3"))
    assert column(["07", "10", "07"]).classes == ("07", "10")
    forced = {"label_format": "tags", "task": "multiclass"}
    assert read("image,label\na,10\nb,2\n", **forced).classes == ("10", "2")
    assert read(with_odd("2", "label", beside=""), label_format="tags").classes == ("0", "1", "2")
    several = column(["3 7", "7", "12 3 7", "1 12", "0 1", "1"], "tags")
    assert several.classes == ("0", "1", "12", "3", "7")


# ---- what separates names in a cell

NAMES = ("Annual Crop", "Permanent Crop", "Sea Lake", "Forest")
CORINE = ("Beaches, dunes, sands", "Mixed forest", "Fruit trees and berry plantations")
EUROSAT = ("AnnualCrop", "Forest", "Herbaceous Vegetation", "River", "Permanent Crop", "Sea Lake")
LAND = "Land principally occupied by agriculture, with significant areas of natural vegetation"
WITH_LAND = [LAND, f"{LAND}, Pastures", "Pastures", "Pastures, Mixed forest", "Mixed forest"]


@pytest.mark.parametrize("title", ["label", "class", "Class", "ClassName", "land cover"])
@pytest.mark.parametrize("order", [NAMES * 4, sorted(NAMES * 2), NAMES])
def test_names_of_several_words_stay_whole_and_one_a_tile(order, title):
    table = column(order, title)
    assert table.classes == tuple(sorted(NAMES))
    assert names_of(table) == [{name} for name in order]
    assert table.task == "multiclass"
    assert any("label_separator=blank" in note for note in table.notes)


def test_names_of_two_words_stay_whole_in_a_column_called_tags_too():
    table = column(EUROSAT * 2, "tags")
    assert table.classes == tuple(sorted(EUROSAT))
    assert any("label_separator=blank" in note for note in table.notes)


@pytest.mark.parametrize(
    ("cells", "title"),
    [
        *((planet(400), title) for title in ("tags", "labels", "label")),
        (["haze water", "clear primary"] * 4, "tags"),
    ],
)
def test_words_that_combine_as_planets_are_cut_at_blanks(cells, title):
    table = column(cells, title)
    assert names_of(table) == [set(cell.split()) for cell in cells]
    assert table.task == "multilabel"
    assert any("label_separator=none" in note for note in table.notes)


@pytest.mark.parametrize("title", ["tags", "label"])
@pytest.mark.parametrize("mark", [";", "|", ",", "; ", " , "])
def test_names_are_cut_at_a_separator_and_nowhere_else(mark, title):
    cells = ["Sea Lake", f"Sea Lake{mark}Forest", "Forest", f"Forest{mark}Annual Crop{mark}", ""]
    table = column(cells, title)
    found = [{"Sea Lake"}, {"Sea Lake", "Forest"}, {"Forest"}, {"Forest", "Annual Crop"}, set()]
    assert (names_of(table), table.task) == (found, "multilabel")


def test_commas_within_names_survive_another_separator():
    table = column([f"{CORINE[0]};{CORINE[1]}", CORINE[1], CORINE[2]], "labels")
    assert table.classes == tuple(sorted(CORINE))


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
        (["a b", "b a", "c"], "labels", "blank or none"),  # words that change places
        (["a b", "a c b", "c d", "e", "f"], "labels", "blank or none"),
        ([*CORINE, CORINE[0]], "label", "comma or none"),
        (["ship,sea", "port"], "tags", "comma or none"),
        (WITH_LAND, "labels", "comma or none"),
        ([f"[{cell}]" for cell in WITH_LAND], "labels", "none, or put the names of lists"),
        (["a;b", "c|d"], "tags", "semicolon or pipe"),
        (["ship;sea", "ship, sea"], "tags", "none, or mend"),
        *(
            ([c + mark * end for c in (f"sea{mark}port", "sea", "port", f"port{mark}sea{mark}ice")],
             title, f"{mark.strip()!r} or none")
            for mark in (" + ", " & ", "/", " / ")
            for title in ("tags", "label")
            for end in (0, 1)
        ),
    ],
)  # fmt: skip
def test_cells_that_can_be_read_in_two_ways_are_refused(cells, title, say):
    message = refused(quoted(cells, title))
    assert f"column '{title}'" in message
    assert f"label_separator={say}" in message
    assert column(cells, title, label_separator="none", task="multilabel").labels.any()


LISTED = [{"Sea Lake", "Forest"}, {"Forest"}, {"it's"}, set()]


@pytest.mark.parametrize(
    "spell",
    [
        lambda names: str(names),
        json.dumps,
        lambda names: str(np.array(names)) if names else "[]",
        lambda names: f"[{', '.join(names)}]",
        lambda names: str(tuple(names)),
        lambda names: f"array({names}, dtype=object)",
    ],
    ids=["python", "json", "numpy", "bare", "tuple", "array"],
)
def test_lists_written_as_text(spell):
    table = column([spell(sorted(names)) for names in LISTED], "labels")
    assert (names_of(table), table.task) == (LISTED, "multilabel")


def test_lists_of_parquet():
    table = read(parquet(image=["a", "b"], tags=[["bare soil", "sea ", ""], []]))
    assert table.classes == ("bare soil", "sea")
    assert table.labels.tolist() == [[1, 1], [0, 0]]


# ---- vectors of 0 and 1

VECTORS = [[0, 1, 0], [1, 1, 0], [0, 0, 0], [0, 1, 1]]


@pytest.mark.parametrize("title", ["label", "labels", "onehot"])
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
def test_vectors_are_multi_hot_and_want_names(spell, title):
    cells = [spell(vector) for vector in VECTORS]
    text = quoted(cells, title)
    message = refused(text)
    assert f"'{title}' holds lists of 3 " in message
    assert "classes=[...] names" in message
    assert "3 names in order; classes has 2" in refused(text, classes=("a", "b"))
    named = {"classes": ("sea", "ship", "ice")}
    table = column(cells, title, **named)
    assert (table.task, table.classes) == ("multilabel", named["classes"])
    assert table.labels.tolist() == VECTORS
    for wrong in (spell([0, 2, 0]).replace("True", "2"), spell([0, 1]), ""):
        assert "row 5 (t004.tif)" in refused(quoted([*cells, wrong], title), **named)


def test_0_and_1_without_anything_between_are_a_vector():
    assert "3 names in order" in refused(quoted(["010", "100", "001", "110"], "label"))
    table = column(["010", "100", "001", "110"], classes=("a", "b", "c"))
    assert table.labels.tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 1], [1, 1, 0]]
    assert column(["01", "02", "10"]).classes == ("01", "02", "10")


@pytest.mark.parametrize(
    "kind",
    [pa.list_(pa.int64()), pa.list_(pa.bool_()), pa.list_(pa.float32()), pa.list_(pa.int8(), 3)],
)
def test_vectors_of_parquet(kind):
    labels = pa.array(VECTORS).cast(pa.list_(pa.int8())).cast(kind)
    data = parquet(image=list("abcd"), labels=labels)
    assert "classes=[...]" in refused(data)
    assert read(data, classes=("x", "y", "z")).labels.tolist() == VECTORS


# ---- rle


def test_rle_groups_rows_by_image():
    table = read("ImageId,EncodedPixels\nb.jpg,1 2\na.jpg,\nb.jpg,9 1 12 3\nc.jpg,\nb.jpg,\n")
    assert (table.format, table.task, table.classes) == ("rle", "binary", ("ship",))
    assert table.keys == ("b.jpg", "a.jpg", "c.jpg")
    assert table.labels.tolist() == [[1], [0], [0]]


def test_rle_masks_may_be_long_and_columns_forced():
    runs = " ".join(f"{n} 1" for n in range(1, 60_000, 2))
    assert read(f"ImageId,EncodedPixels\na,{runs}\nb,\n").labels.tolist() == [[1], [0]]
    assert read("id,mask\na,3 4\nb,\n", label_format="rle").labels.tolist() == [[1], [0]]


SPLIT_RLE = "ImageId,EncodedPixels,split,area\na,1 1,train,5\na,7 1,{},6\nb,,val,0\n"


@pytest.mark.parametrize(
    ("text", "keys", "says"),
    [
        *(
            (f'ImageId,EncodedPixels\na,1 1\nb,"{mask}"\n', {}, "row 2 (b), column 'EncodedPixels'")
            for mask in ("1 2 3", "0 4", "nan", "1 2,5", "-3 4", "1.5 2", "1 0")
        ),
        (SPLIT_RLE.format("val"), {}, "row 2 (a), column 'split'"),
        ("id,x,y\na,1,2\n", {"label_format": "rle"}, "EncodedPixels"),
    ],
)
def test_rle_that_is_refused(text, keys, says):
    assert says in refused(text, **keys)


def test_rle_rows_of_one_image_agree_in_the_split():
    assert read(SPLIT_RLE.format("train")).columns == {"split": ("train", "val")}


# ---- task


def test_two_words_are_two_classes_and_one_of_them_is_binary():
    cells = ["ship", "no ship", "no ship", "ship"]
    both = column(cells)
    assert (both.task, both.classes) == ("multiclass", ("no ship", "ship"))
    assert any("classes=[NAME]" in note for note in both.notes)
    one = column(cells, classes=("ship",))
    assert (one.task, one.labels[:, 0].tolist()) == ("binary", [1, 0, 0, 1])
    assert column(["ship", "", "", "ship"]).task == "binary"


def test_notes_on_classes():
    table = column(["Forest", "forest", "Sea"])
    assert "classes that differ in capitals only: Forest, forest" in table.notes
    table = read("image,x,y\na,1,0\nb,0,1\n")
    assert any("task=multiclass" in note for note in table.notes)


def test_multiclass_is_one_hot_and_leaves_other_classes_out():
    table = read("image,class\na,sea\nb,land\nc,sea\n", task="multiclass")
    assert table.task == "multiclass"
    assert table.labels.tolist() == [[0, 1], [1, 0], [0, 1]]
    table = read("image,tags\na,x\nb,y\nc,z\n", task="multiclass", classes=("z", "x"))
    assert table.keys == ("a", "c")
    assert table.labels.tolist() == [[0, 1], [1, 0]]
    assert table.left_out == ("b",)


@pytest.mark.parametrize(
    ("text", "keys", "says"),
    [
        ("image,tags\na,sea\nb,land sea\n", {"task": "multiclass"}, "row 2 (b) of labels.csv has"),
        ("image,x,y\na,1,0\nb,0,0\n", {"task": "multiclass"}, "has 0"),
        ("image,label\na,sea\nb,\nc,land\n", {}, "has 0: none (1 such rows); task=multi"),
        ("image,label\na,ship\nb,ship\n", {}, "all tiles are 'ship'"),
        (WIDE, {"task": "binary"}, "ship, sea"),
        (WIDE, {"task": "multiclass", "classes": ("ship",)}, "two classes"),
    ],
)  # fmt: skip
def test_tasks_that_labels_do_not_fit(text, keys, says):
    assert says in refused(text, **keys)


def test_multilabel_takes_tiles_without_a_class_and_one_class():
    assert column(["sea", "", "land"], task="multilabel").labels.sum() == 2
    assert read(WIDE, task="multilabel", classes=("ship",)).task == "multilabel"


# ---- folders

FOLDERS = ["Port/a.jpg", "Beach/b.jpg", "Port/sub/c.jpg"]


def test_folders_are_multiclass_and_one_of_several_is_binary():
    table = labels_from_folders(FOLDERS, recipe())
    assert (table.format, table.task, table.classes) == ("folders", "multiclass", ("Beach", "Port"))
    assert table.keys == tuple(FOLDERS)
    assert table.labels.tolist() == [[0, 1], [1, 0], [0, 1]]
    table = labels_from_folders(FOLDERS, recipe(classes=("Port",)))
    assert (table.task, table.labels.tolist()) == ("binary", [[1], [0], [1]])


def test_folders_left_out_by_classes():
    table = labels_from_folders([*FOLDERS, "Sea/d.jpg"], recipe(classes=("Sea", "Port")))
    assert table.keys == ("Port/a.jpg", "Port/sub/c.jpg", "Sea/d.jpg")
    assert table.left_out == ("Beach/b.jpg",)


def test_folders_of_parts_give_the_split():
    table = labels_from_folders(["train/x/1.png", "train/y/2.png", "valid/x/3.png"], recipe())
    assert table.classes == ("x", "y")
    assert table.columns == {"split": ("train", "train", "valid")}


@pytest.mark.parametrize(
    ("keys", "more", "says"),
    [
        (["a.jpg", "Port/b.jpg"], {}, "a.jpg lies in no folder"),
        (["Port/a.jpg", "Port/b.jpg"], {}, "only Port; two folders"),
        ([], {}, "no folder with images"),
        (FOLDERS, {"label_format": "tags"}, "needs labels=TABLE"),
        (FOLDERS, {"task": "binary"}, "task=binary takes one class"),
        (FOLDERS, {"key_column": "image"}, "key_column names a column"),
        (FOLDERS, {"classes": ("Prt",)}, "nearest: 'Port'"),
    ],
)
def test_folders_refused(keys, more, says):
    with pytest.raises(InputError, match=says):
        labels_from_folders(keys, recipe(**more))


# ---- real tables


@pytest.mark.data
def test_aid_table(data: Path):
    content = (data / "aid" / "labels.csv").read_bytes()
    table = read_labels(content, "labels.csv", recipe())
    assert len(table) == 2400
    assert (table.classes[0], table.classes[-1], len(table.classes)) == ("airplane", "water", 17)
    assert (table.task, list(table.columns)) == ("multilabel", ["split"])
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
