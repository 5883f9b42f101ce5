"""Names in the ledger."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scoring.ledger.ledger_material import CONFIG
from scoring.ledger.memory_store import START

from satray.scoring.ledger import Mark, config_of, key_of, safe_part
from satray.scoring.ledger.marks import histories, parse
from satray.scoring.rasters import cam_path
from satray.storage import Entry

SURROGATES = st.text(st.characters())
PLAIN = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/"))


@given(SURROGATES)
def test_any_text_is_one_visible_part_of_a_path(text):
    part = safe_part(text)
    assert part
    assert part.isascii()
    assert "/" not in part
    assert not part.startswith(".")
    assert len(part) <= 180


@given(st.lists(SURROGATES, unique=True, min_size=2, max_size=2))
@example(["", "."])
@example(["", ".."])
@example(["", "%2E%2E"])
def test_different_texts_are_different_parts(texts):
    first, second = texts
    assert safe_part(first) != safe_part(second)
    assert safe_part("x" * 300 + first) != safe_part("x" * 300 + second)


@given(PLAIN)
def test_parts_are_those_of_other_products(part):
    assert cam_path(part, "t") == f"cam/{safe_part(part)}__t.tif"


@pytest.mark.parametrize(
    "scene", ["..", "../../etc/passwd", ".hidden/x", "a//b", "", "a\0b", "ü é"]
)
def test_hostile_scenes_stay_in_their_folder(scene):
    parts = key_of(scene, 'W/"weak/../etag"', CONFIG).path.split("/")
    assert len(parts) == 2
    assert not any(part.startswith(".") for part in parts)


def test_a_key_tells_scene_etag_model_and_settings_apart():
    made = {
        key_of(scene, etag, config_of(model, settings)).path
        for scene in ("a", "b")
        for etag in ("1", "2")
        for model in ("m", "n")
        for settings in ("s", "t")
    }
    assert len(made) == 16
    assert config_of("ab", "c") != config_of("a", "bc")


@pytest.mark.parametrize(
    ("name", "kind", "number", "run", "digest"),
    [
        ("0001", "claim", 1, "", ""),
        ("12345", "claim", 12345, "", ""),
        ("0001.failed-b6", "failed", 1, "b6", ""),
        ("0001.final-b6", "final", 1, "b6", ""),
        ("0001.released", "released", 1, "", ""),
        ("done", "done", 0, "", ""),
        ("done.told-b6-0123456789abcdef", "told", 0, "b6", "0123456789abcdef"),
        ("done.from-b6", "from", 0, "b6", ""),
    ],
)
def test_marks(name, kind, number, run, digest):
    assert parse(name, START) == Mark(kind, number, START, run, digest)


@pytest.mark.parametrize(
    "name",
    ["", "1", "0001.", "0001.done", "done.tmp", "0001.failed", "done.told-x", "README", "٠٠٠١"],
)
def test_strangers_are_no_marks(name):
    assert parse(name, START) is None


def test_strangers_in_the_folder_are_passed_over():
    keys = ["README", "a/x", "a/v/0001", "a/v/notes.txt", "a/v/deeper/0001", "b/v/done"]
    entries = [(Entry(key, key, 0, "e", START), key) for key in keys]
    found = histories(entries)
    assert {scene: set(one.versions) for scene, one in found.items()} == {"a": {"v"}, "b": {"v"}}
    assert [mark.kind for mark in found["a"].marks("v")] == ["claim"]
