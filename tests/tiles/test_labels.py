"""Label tables of every format, good and bad."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from satray.config.prepare import PrepareRecipe, SplitOptions
from satray.errors import InputError
from satray.tiles.labels import LabelTable, labels_from_folders, read_labels


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


def test_index_column_of_pandas_is_left_out():
    table = read(",image,ship\n0,a,1\n1,b,0\n")
    assert table.classes == ("ship",)
    assert table.columns == {}


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


@pytest.mark.parametrize("cell", ["nan", "None", '"ship, sea"', "ship;sea", "ship|sea"])
def test_tags_refuse_missing_words_and_other_separators(cell):
    message = refused(f"image,tags\na,ship\nb,{cell}\n", label_format="tags")
    assert "row 2 (b), column 'tags'" in message


def test_words_and_flags_are_unclear():
    text = "image,label,ship\na,Port,1\nb,Sea,0\n"
    assert "label_format=tags or label_format=wide" in refused(text)
    assert read(text, label_format="wide").classes == ("ship",)
    assert read(text, label_format="tags").classes == ("Port", "Sea")


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
