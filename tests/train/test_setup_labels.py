"""What labels make of a run is said, or refused, before anything starts."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from train.small_archive import generate, make_recipe

from satray.errors import InputError
from satray.storage import Storage
from satray.train.setup import set_up


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return generate(tmp_path_factory.mktemp("archive"))


def setup(archive, folder, labels=None, **changes):
    """Resolve a recipe; `labels` gives a tile's labels from its own, by split."""
    if labels is not None:
        table = pq.read_table(archive.index)
        rows = zip(*(table.column(name).to_pylist() for name in ("split", "labels")), strict=True)
        column = pa.array([labels.get(s, list)(old) for s, old in rows], pa.list_(pa.uint8()))
        place = table.column_names.index("labels")
        file = folder / "tiles-00000.parquet"
        pq.write_table(table.set_column(place, table.schema.field("labels"), column), file)
        changes["index"] = str(file)
    return set_up(make_recipe(archive, folder, **changes), Storage())


def test_good_labels_need_no_note(archive, tmp_path):
    assert setup(archive, tmp_path).notes == ()


def test_a_split_of_one_kind_is_refused(archive, tmp_path):
    with pytest.raises(InputError, match=r"48 tiles of split train are alike .all have bright"):
        setup(archive, tmp_path, {"train": lambda _: [1, 0]})
    with pytest.raises(
        InputError, match=r"16 tiles of split val are alike .none has any.: best=map"
    ):
        setup(archive, tmp_path, {"val": lambda _: [0, 0]})
    notes = setup(archive, tmp_path, {"val": lambda _: [0, 0]}, best="loss").notes
    assert notes == ("bright, left: the same on every validation tile, so cannot be judged",)


def test_a_constant_class_is_noted(archive, tmp_path):
    notes = setup(archive, tmp_path, {"train": lambda old: [old[0], 0]}).notes
    assert notes == ("left: the same on every train tile, so cannot be learnt",)


def test_repeats_are_noted(archive, tmp_path):
    (line,) = setup(archive, tmp_path, repeat=0.9).notes
    assert line.startswith("repeat=0.9: a pass has ")
    assert line.endswith("times")


def test_a_loss_of_another_task_is_refused(archive, tmp_path):
    with pytest.raises(InputError, match=r"loss.name=cross_entropy: does not fit a multilabel"):
        setup(archive, tmp_path, loss={"name": "cross_entropy"})
