"""Names of things: pure text."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from satray.errors import InputError
from satray.storage import absolute, is_remote, join, name, parent


@pytest.mark.parametrize(
    ("text", "expected", "above", "last"),
    [
        ("/a/b/", "/a/b", "/a", "b"),
        ("/", "/", "/", ""),
        ("/a/../b/./c", "/b/c", "/b", "c"),
        ("a:b//c", f"{os.getcwd()}/a:b/c", f"{os.getcwd()}/a:b", "c"),
        ("~/x", "/home/me/x", "/home/me", "x"),
        ("file:///a/b%20c%23d", "/a/b c#d", "/a", "b c#d"),
        ("file:///a/b#c?d", "/a/b#c?d", "/a", "b#c?d"),
        ("s3://bucket/a b#%20/", "s3://bucket/a b#%20", "s3://bucket", "a b#%20"),
        ("S3://Bucket/", "s3://Bucket", "s3://Bucket", "Bucket"),
        ("s3://bucket//a", "s3://bucket//a", "s3://bucket", "a"),  # not s3://bucket/a
        ("https://host/a/b", "https://host/a/b", "https://host/a", "b"),
    ],
)
def test_a_name_has_one_spelling_a_parent_and_a_last_part(monkeypatch, text, expected, above, last):
    monkeypatch.setenv("HOME", "/home/me")
    found = absolute(text)
    assert (found, parent(found), name(found)) == (expected, above, last)
    assert is_remote(text) is ("://" in expected)


def test_a_working_folder_that_is_gone_is_said(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(InputError, match=r"tiles: relative, .* is gone"):
        absolute("tiles")
    assert absolute("/tiles") == "/tiles"
    monkeypatch.chdir(tmp_path)


PART = st.text(st.characters(exclude_characters="/\0", exclude_categories=("Cs",)), min_size=1)


@given(st.sampled_from(["/", "/a", "/a/", "s3://bucket", "s3://bucket/"]), st.lists(PART))
def test_outer_slashes_do_not_matter_and_a_name_is_joined_to_its_parent(base, parts):
    whole = join(base, *[f"/{part}/" for part in parts], "")
    below = "/".join(parts)
    assert whole == (f"{base.rstrip('/')}/{below}" if below else base.rstrip("/") or "/")
    assert join(parent(whole), name(whole)) == whole or not parts
