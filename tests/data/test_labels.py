"""Label tables of every format, good and bad."""

import io
from collections.abc import Sequence
from datetime import date

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
        b"\n\nimage,ship\na.jpg,1\n\nb.jpg,0",
        b"image,ship\n,\na.jpg,1\nb.jpg,0\n,\n",
        b" image ; ship \n a.jpg ; 1 \nb.jpg;0\n",
        b"image\tship\na.jpg\t1\nb.jpg\t0\n",
        b"\timage\tship\n0\ta.jpg\t1\n1\tb.jpg\t0\n",
        b"image;ship\r\na.jpg;1\r\nb.jpg;0\r\n",
        b"image|ship\na.jpg|1\nb.jpg|0",
        parquet(image=["a.jpg", "b.jpg"], ship=[1.0, 0.0]),
        parquet(image=pa.array(["a.jpg", "b.jpg"]).dictionary_encode(), ship=[1, 0]),
    ],
)
def test_the_same_table_in_many_dresses(data):
    table = read(data)
    assert (table.keys.to_pylist(), table.classes) == (["a.jpg", "b.jpg"], ("ship",))
    assert table.labels.tolist() == [[1], [0]]
    assert table.labels.dtype == np.uint8


def test_quoted_cells_hold_delimiters_quotes_and_line_breaks_however_long():
    long = "x\n" * 200_000
    text = f'image,note,ship\n"a, b.jpg","say ""x""\ntwice",1\nc.jpg,,0\nd.jpg,"{long}",1\n'
    table = read(text, split=SplitOptions(group="note"))
    assert table.keys.to_pylist() == ["a, b.jpg", "c.jpg", "d.jpg"]
    assert table.columns["note"] == ('say "x"\ntwice', None, long.strip())


SPLIT_RLE = "ImageId,EncodedPixels,split,area\na,1 1,train,5\na,7 1,{},6\nb,,val,0\n"


def with_odd(cell: str, title: str = "ship", beside: str = ",dock", rows: int = 12) -> str:
    """Rows of flags, of which row 6 holds `cell`."""
    cells = [cell if i == 5 else str(i // 2 % 2) for i in range(rows)]
    dock = [f",{i % 2}" if beside else "" for i in range(rows)]
    return "\n".join([f"tile{beside},{title}", *(f"t{i}{dock[i]},{cells[i]}" for i in range(rows))])


ODD = "tile,dock,ship\na,0,2\nb,1,0\nc,0,1\nd,1,0\ne,1,1\n"
MANY = "image,ships,lat,never,always,none\na,3,1.5,0,1,\nb,0,0.5,0,1,\nc,1,1,0,1,\n"
CLOUDY = "\n".join(["tile,ship,cloud", *(f"t{i},{i % 2},{i % 5 and i / 1000}" for i in range(400))])
LABEL = ",Filename,Label,ClassName\n0,a,7,Sea Lake\n1,b,1,Forest\n2,c,7,Sea Lake\n"
BOTH = "image,label,ship\na,Port,1\nb,Sea,0\n"
MASKS = "ImageId,EncodedPixels\nb.jpg,1 2\na.jpg,\nb.jpg,9 1 12 3\nc.jpg,\nb.jpg,\n"
RUNS = " ".join(f"{n} 1" for n in range(1, 60_000, 2))
SHIPS = "image,label\na,ship\nb,no ship\nc,ship\n"
SEVERAL = "tile,ship,dock\na,0,0\nb,3,1\nc,5,0\nd,2,1\n"
OVER = {"label_positive": ">0"}


@pytest.mark.parametrize(
    ("text", "keys", "classes", "found"),
    [
        (WIDE, {}, "multilabel ship sea", "ship sea|sea|"),
        (WIDE, {"classes": ("ship",)}, "binary ship", "ship||"),
        (WIDE, {"classes": ("ship",), "task": "multilabel"}, "multilabel ship", "ship||"),
        (MANY, {}, "multilabel never always", "always|always|always"),
        (ODD, {"classes": ("dock",)}, "binary dock", "|dock||dock|dock"),
        (CLOUDY, {}, "binary ship", "|".join(["", "ship"] * 200)),
        ("i,f,b,n\nx,1.0,True,1\ny,0.0,False,0\nz,1,TRUE,0.", {}, "multilabel f b n", "f b n||f b"),
        ("image,tags\na,x y\nb,z\nc,y\n", {"classes": ("z", "y")}, "multilabel z y", "y|z|y"),
        ("tile,ship,dock\n00,1,0\n01,0,1\n02,0,0\n", {}, "multilabel ship dock", "ship|dock|"),
        ("tile,ship\na,0\nb,2\nc,1\n", OVER, "binary ship", "|ship|ship"),
        ("t,cloud\na,0\nb,50\nc,12.5\n", {"label_positive": ">=50"}, "binary cloud", "|cloud|"),
        ("tile,label\na,0\nb,7\nc,3\n", OVER, "binary label", "|label|label"),
        (SEVERAL, OVER | {"classes": ("ship",)}, "binary ship", "|ship|ship|ship"),
        (BOTH, {"label_format": "wide"}, "binary ship", "ship|"),
        (BOTH, {"label_format": "tags"}, "multiclass Port Sea", "Port|Sea"),
        (LABEL.replace(" Lake", ""), {}, "multiclass Forest Sea", "Sea|Forest|Sea"),
        (parquet(image=["a", "b"], label=[3.0, 0.0]), {}, "multiclass 0 3", "3|0"),
        ("image,label\na,07\nb,10\nc,07\n", {}, "multiclass 07 10", "07|10|07"),
        ("image,label\na,0\nb,1\nc,2\n", {"label_format": "tags"}, "multiclass 0 1 2", "0|1|2"),
        ("i,tags\na,3 7\nb,7\nc,12 3 7\nd,0 1\n", {}, "multilabel 0 1 12 3 7", "3 7|7|3 7 12|0 1"),
        (parquet(i=[*"ab"], tag=[["ice", "bog ", ""], []]), {}, "multilabel bog ice", "bog ice|"),
        (parquet(i=[*"ab"], tag=[[date(2026, 1, 2)], []]), {}, "binary 2026-01-02",
         "2026-01-02|"),
        *((f"tile,{title}\na,{no}\nb,{yes}\nc,{no}", {}, f"binary {title}", f"|{title}|")
          for yes, no in (("True", "False"), ("1.0", "0.0"))
          for title in ("ship", "label")),
        *((f"t,{title}\na,3\nb,0\nc,12\n", {}, "multiclass 0 12 3", "3|0|12")
          for title in ("label", "Label", "class_id", "category")),
        ("t,tags\na,c\nb,b a B\nc,\n", {}, "multilabel B a b c", "c|B a b|"),
        (MASKS, {}, "binary ship", "ship||"),
        (f"ImageId,EncodedPixels\na,{RUNS}\nb,\n", {}, "binary ship", "ship|"),
        (SHIPS, {"classes": ("ship",)}, "binary ship", "ship||ship"),
        (SHIPS.replace("no ship", ""), {}, "binary ship", "ship||ship"),
        ("i,label\na,sea\nb,\nc,bog", {"task": "multilabel"}, "multilabel bog sea", "sea||bog"),
    ],
)  # fmt: skip
def test_what_is_read(text, keys, classes, found):
    table = read(text, **keys)
    assert (table.task, *table.classes) == tuple(classes.split())
    assert names_of(table) == [set(names.split()) for names in found.split("|")]


@pytest.mark.parametrize(
    ("text", "keys", "expected"),
    [
        ("number,split,name,ship\n7,train,a/1.tif,1\n8,val,a/2,0\n", {}, ("a/1.tif", "a/2")),
        ("number,split,name,ship\n7,train,a/1.tif,1\n", {"key_column": "number"}, ("7",)),
        ("tile,ship,dock\n00,1,0\n01,0,1\n02,0,0\n", {}, ("00", "01", "02")),
        (MASKS, {}, ("b.jpg", "a.jpg", "c.jpg")),
    ],
)  # fmt: skip
def test_keys_are_texts_of_the_first_text_column_or_the_one_that_is_said(text, keys, expected):
    assert tuple(read(text, **keys).keys.to_pylist()) == expected


SPLIT = "image,split,orbit,ship\na,train,007,1\nb,val,1e3,0\n"
NESTED = {
    "boxes": pa.array([[{"x": 1}], []]),
    "pairs": pa.array([[("x", 1)], []], pa.map_(pa.string(), pa.int8())),
    "pixels": pa.array([b"\xff\xfe", b"\x00"]),
}


@pytest.mark.parametrize(
    ("text", "split", "columns", "over"),
    [
        (SPLIT, {"group": "orbit"}, {"split": ("train", "val"), "orbit": ("007", "1e3")}, ()),
        (SPLIT, {}, {"split": ("train", "val")}, ("orbit",)),
        *(
            (SPLIT, {"by": by}, {"split": ("train", "val")}, ("split", "orbit"))
            for by in ("draw", "ground")
        ),
        (",image,ship\n0,a,1\n1,b,0\n", {}, {}, ("(no name)",)),
        ("Unnamed: 0,image,ship\n0,a,1\n1,b,0\n", {}, {}, ("Unnamed: 0",)),
        (MANY, {}, {}, ("ships", "lat", "none")),
        (LABEL, {}, {}, ("Label", "(no name)")),
        (parquet(**NESTED, image=["a", "b"], ship=[1, 0]), {}, {}, ("boxes", "pairs", "pixels")),
        (SPLIT_RLE.format("train"), {}, {"split": ("train", "val")}, ("area",)),
    ],
)  # fmt: skip
def test_columns_of_the_split_are_kept_and_others_named(text, split, columns, over):
    table = read(text, split=SplitOptions(**split))
    assert (table.columns, table.passed_over) == (columns, over)


@pytest.mark.parametrize(
    ("text", "keys", "says"),
    [
        (b"", {}, "labels=labels.csv is no CSV, TSV or Parquet table"),
        (b"image,ship\n,\n", {}, "no rows"),
        (b"image,ship\na,1,7\n", {}, "Row #2: Expected 2 columns, got 3: a,1,7"),
        (b"image,ship,ship\na,1,1\n", {}, "two columns named 'ship'"),
        (b"PAR1 but no more", {}, "Parquet"),
        ("image,ship\na,1\n".encode("utf-16"), {}, "is no CSV, TSV or Parquet table: Unicode"),
        ("image,tags\na,for\xeat\n".encode("latin-1"), {}, "can't decode byte 0xea in position 16"),
        (b'"image,ship\n' + b"tile_1234,1\n" * 20_000, {}, "stray quote"),
        ("ship,dock\n0,1\n1,0\n1,1\n", {}, "no text column that names the tiles; key_column=..."),
        (WIDE, {"key_column": "imgae"}, "'imgae' (nearest: 'image'); columns: image, scene, split"),
        (WIDE, {"split": SplitOptions(group="orbit")}, "split.group"),
        ("image,ship\na,1\nb,0\na,1\n", {}, "rows 1 and 3 both name 'a'"),
        ("scene,image,ship\nP,a,1\nP,b,0\n", {}, "key_column=... picks another of scene, image"),
        ("image,ship\na,1\n,0\n", {"key_column": "image"}, "row 2, column 'image', which names"),
        (WIDE, {"classes": ("ships",)}, "'ships' (nearest: 'ship')"),
        (WIDE, {"classes": ("ship", "ship")}, "names a class twice: ship, ship"),
        ("image,n\na,5\nb,7\n", {"label_format": "wide"}, "no column that holds only 0 and 1"),
        ("tile,cloud\n" + "".join(f"t{i},{-(i == 3)}\n" for i in range(12)), {}, "row 4 (t3)"),
        *(
            (with_odd(cell, beside=beside), {},
             "row 6 (t5), column 'ship' " + (f"holds '{cell}'" if cell else "is empty"))
            for cell, beside in zip(("2", "-1", "?", "", "nan"), ("", ",dock", "", ",dock", ""),
                                    strict=True)
        ),
        (parquet(image=["a", "b"], ship=[1.0, None]), {}, "row 2 (b), column 'ship'"),
        (with_odd("2", beside=""), {}, "label_positive='>0'"),
        (SEVERAL, OVER, "ship, dock; classes=[...]"),
        ("image,count\na,7\nb,9\n", {}, "(wide), a column of words called tags or label (tags"),
        ("image,tags\na,x y\nb,z\n", {"classes": ("zz",)}, "nearest: 'z'"),
        ("image,label,ship\na,Port,1\nb,Sea,0\n", {}, "label_format=tags or label_format=wide"),
        (with_odd("2", "label", beside=""), {}, "label_format=tags"),
        ("image,tags\na,ship\nb,nan\n", {"label_format": "tags"}, "row 2 (b), column 'tags'"),
        (parquet(image=["a", "b"], tags=[["x"], None]), {}, "row 2 (b)"),
        ("image,x,y\na,p,q\nb,r,s\n", {"label_format": "tags"}, "name it tags or label"),
        *(
            (f'ImageId,EncodedPixels\na,1 1\nb,"{mask}"\n', {}, "row 2 (b), column 'EncodedPixels'")
            for mask in ("nan", "1 2,5", "0", "0 4", "1 2 3")
        ),
        *((quoted(cells, "label"), {}, f"column 'label' holds '{cells[1]}'")
          for cells in (["3", "-1"], ["1", "0.5"], ["3", "inf"], ["110", "011"])),
        ("i,labels\na,sea;bog\nb,['sea']\n", {}, "row 2 (b), column 'labels' holds"),
        *((quoted([mark.join(v) for v in ("010", "110", "001")], title), {}, says)
          for title, mark, says in (
              ("tags", " ", "0 and 1"), ("labels", ",", "0 and 1"), ("onehot", "|", "pipe or none"),
              ("onehot", " ", "blank or none"))),
        (parquet(image=["a", "b"], labels=[[0, 1], [1, 1]]), {}, "holds vectors of 0 and 1"),
        ("id,x,y\na,1,2\n", {"label_format": "rle"}, "EncodedPixels"),
        (SPLIT_RLE.format("val"), {}, "rows 1 and 2 (a), column 'split': 'train' and 'val' (1"),
        (SPLIT_RLE, {"split": SplitOptions(by="draw", group="area")}, "'area': '5' and '6' (1 suc"),
        ("image,tags\na,sea\nb,land sea\n", {"task": "multiclass"}, "row 2 (b) of labels.csv has"),
        ("image,label\na,sea\nb,\nc,land\n", {}, "has 0: none (1 such rows); task=multi"),
        ("image,label\na,ship\nb,ship\n", {}, "all tiles are 'ship'"),
        (WIDE, {"task": "binary"}, "ship, sea"),
        (WIDE, {"task": "multiclass", "classes": ("ship",)}, "two classes"),
    ],
)  # fmt: skip
def test_tables_that_are_refused(text, keys, says):
    assert says in refused(text, **keys)


def test_a_table_of_text_that_is_too_large_is_refused():
    says = "labels=labels.csv: 2.0 GiB of text; accepted: less than 2 GiB, or Parquet"
    assert refused(bytes(1 << 31)) == says  # takes no memory: nobody looks at it


def test_a_condition_on_numbers_is_a_comparison_with_one():
    with pytest.raises(ValidationError):
        recipe(label_positive="<3")


# ---- what separates names in a cell

WEATHER, COVER = ("clear", "haze"), ("primary", "water", "primary road", "water road")
PLANET = ["cloudy", *(f"{weather} {cover}" for weather in WEATHER for cover in COVER)]
NAMES = ("Annual Crop", "Permanent Crop", "Sea Lake", "Forest")
CORINE = ("Beaches, dunes, sands", "Mixed forest", "Fruit trees and berry plantations")
EUROSAT = ("AnnualCrop", "Forest", "Herbaceous Vegetation", "River", "Permanent Crop", "Sea Lake")


MARKED = ["Sea Lake", "Sea Lake{}Forest", "Forest", "Forest{}Annual Crop{}", ""]
CUT = [{"Sea Lake"}, {"Sea Lake", "Forest"}, {"Forest"}, {"Forest", "Annual Crop"}, set()]


@pytest.mark.parametrize(
    ("cells", "title", "keys", "expected", "note"),
    [
        # names of several words stay whole, beside another separator too
        (sorted(NAMES * 2), "ClassName", {}, [{n} for n in sorted(NAMES * 2)], "label_separator=b"),
        (EUROSAT * 2, "label", {}, [{name} for name in EUROSAT * 2], "label_separator=blank"),
        ([";".join(CORINE[:2]), *CORINE[1:]], "labels", {},
         [set(CORINE[:2]), *({n} for n in CORINE[1:])], ""),
        # words that combine as Planet's are cut at blanks
        (PLANET, "tags", {}, [set(cell.split()) for cell in PLANET], "separator=none"),
        # a separator cuts, and nothing else does
        *(([cell.replace("{}", mark) for cell in MARKED], "labels", {}, CUT, "")
          for mark in (";", "|", ",", "; ", " , ")),
        # the separator that is said decides
        *(([cell, "x"], "label", {"label_separator": said}, [names, {"x"}], "")
          for said, cell, names in (
              ("none", "a, b;c d", {"a, b;c d"}), ("blank", "a, b;c d", {"a,", "b;c", "d"}),
              ("comma", "a, b;c d", {"a", "b;c d"}), ("semicolon", "a, b;c d", {"a, b", "c d"}),
              (" and ", "a and b and c", {"a", "b", "c"}), ("pipe", "a|b", {"a", "b"}))),
    ],
)  # fmt: skip
def test_names_in_cells(cells, title, keys, expected, note):
    table = column(cells, title, **keys)
    assert names_of(table) == expected
    several = any(len(names) != 1 for names in expected) or title == "tags"
    assert table.task == ("multilabel" if several else "multiclass")
    assert note in " ".join(table.notes)


LAND = "Land principally occupied by agriculture, with significant areas of natural vegetation"
WITH_LAND = [LAND, f"{LAND}, Pastures", "Pastures", "Pastures, Mixed forest", "Mixed forest"]


@pytest.mark.parametrize(
    ("cells", "title", "say"),
    [
        ([f"{a} {b}" for a in "xyz" for b in ("crop", "wood", "bog")], "label", "blank or none"),
        (PLANET, "label", "blank or none"),
        (["a b", "b a", "c"], "labels", "blank or none"),  # words that change places
        (CORINE, "label", "comma or none"),
        (WITH_LAND, "labels", "comma or none"),
        (["ship;sea", "port"], "class", "semicolon or none"),
        (["a;b", "c|d"], "tags", "semicolon, pipe or none"),
        (["ship;sea", "ship, sea"], "tags", "none"),
        (["ship/sea", "ship", "sea"], "tags", "none"),
    ],
)  # fmt: skip
def test_cells_that_can_be_read_in_two_ways_are_refused(cells, title, say):
    message = refused(quoted(cells, title))
    assert f"column '{title}'" in message
    assert f"label_separator={say}" in message
    assert column(cells, title, label_separator="none", task="multilabel").labels.any()


# ---- task


def test_multiclass_leaves_other_classes_out():
    table = read("image,tags\na,x\nb,y\nc,z\n", task="multiclass", classes=("z", "x"))
    assert (table.keys.to_pylist(), table.labels.tolist()) == (["a", "c"], [[0, 1], [1, 0]])
    assert table.left_out == ("b",)
    assert any("classes=[NAME] makes it binary" in note for note in read(SHIPS).notes)


# ---- folders

FOLDERS = ["Port/a.jpg", "Beach/b.jpg", "Port/sub/c.jpg"]


@pytest.mark.parametrize(
    ("keys", "more", "classes", "names", "left_out"),
    [
        (FOLDERS, {}, "multiclass Beach Port", "Port Beach Port", ()),
        (FOLDERS, {"classes": ("Port",)}, "binary Port", "Port  Port", ()),
        ([*FOLDERS, "Sea/d.jpg"], {"classes": ("Sea", "Port")}, "multiclass Sea Port",
         "Port Port Sea", ("Beach/b.jpg",)),
        (["train/x/1.png", "train/y/2.png", "valid/x/3.png"], {}, "multiclass x y", "x y x", ()),
    ],
)  # fmt: skip
def test_folders_are_classes_below_folders_of_parts_or_none(keys, more, classes, names, left_out):
    table = labels_from_folders(pa.array(keys, pa.string()), recipe(**more))
    assert (table.format, table.task, *table.classes) == ("folders", *classes.split())
    assert names_of(table) == [set(filter(None, [name])) for name in names.split(" ")]
    assert ({*table.keys.to_pylist(), *left_out}, table.left_out) == (set(keys), left_out)
    parts = {"split": ("train", "train", "valid")} if keys[0].startswith("train") else {}
    assert table.columns == parts


@pytest.mark.parametrize(
    ("keys", "more", "says"),
    [
        (["a.jpg", "Port/b.jpg"], {}, "a.jpg lies in no folder"),
        (["Port/a.jpg", "Port/b.jpg"], {}, "archive has Port of the two folders"),
        ([], {}, "archive has none of the two folders"),
        (FOLDERS, {"label_format": "tags"}, "are of a table, labels=TABLE; none"),
        (FOLDERS, {"task": "binary"}, "task=binary takes one class"),
        (FOLDERS, {"key_column": "image"}, "are of a table, labels=TABLE; none"),
        (FOLDERS, {"classes": ("Prt",)}, "nearest: 'Port'"),
    ],
)
def test_folders_refused(keys, more, says):
    with pytest.raises(InputError, match=says):
        labels_from_folders(pa.array(keys, pa.string()), recipe(**more))
