"""Names of things: pure text."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from satray.errors import InputError
from satray.storage import absolute, is_remote, join, name, parent


@pytest.mark.parametrize(
    ("text", "expected", "remote"),
    [
        ("/a/b/", "/a/b", False),
        ("/a/../b/./c", "/b/c", False),
        ("x/y", f"{os.getcwd()}/x/y", False),
        ("a:b//c", f"{os.getcwd()}/a:b/c", False),
        ("~/x", "/home/me/x", False),
        ("file:///a/b%20c%23d", "/a/b c#d", False),
        ("file:///a/b#c?d", "/a/b#c?d", False),
        ("s3://bucket/a b#%20/", "s3://bucket/a b#%20", True),
        ("S3://Bucket/", "s3://Bucket", True),
        ("s3://bucket//a", "s3://bucket//a", True),  # another object than s3://bucket/a
        ("https://host/a", "https://host/a", True),
    ],
)
def test_absolute(monkeypatch, text, expected, remote):
    monkeypatch.setenv("HOME", "/home/me")
    assert absolute(text) == expected
    assert is_remote(text) is remote


def test_a_working_folder_that_is_gone_is_said(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(InputError, match=r"tiles: relative, .* is gone"):
        absolute("tiles")
    assert absolute("/tiles") == "/tiles"
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (("/a/", "/b/", "c"), "/a/b/c"),
        (("/", "", "b"), "/b"),
        (("s3://bucket/", ""), "s3://bucket"),
        (("s3://bucket/a", "b c#%.tif"), "s3://bucket/a/b c#%.tif"),
    ],
)
def test_join(parts, expected):
    assert join(*parts) == expected


@pytest.mark.parametrize(
    ("text", "above", "last"),
    [
        ("/a/b.tif", "/a", "b.tif"),
        ("/a", "/", "a"),
        ("/", "/", ""),
        ("s3://bucket/a/", "s3://bucket", "a"),
        ("s3://bucket", "s3://bucket", "bucket"),
    ],
)
def test_parent_and_name(text, above, last):
    assert (parent(text), name(text)) == (above, last)


PART = st.text(st.characters(exclude_characters="/\0", exclude_categories=("Cs",)), min_size=1)


@given(st.lists(PART, min_size=1, max_size=4))
def test_a_name_is_what_is_joined_to_its_parent(parts):
    whole = join("s3://bucket", *parts)
    assert whole == "s3://bucket/" + "/".join(parts)
    assert join(parent(whole), name(whole)) == whole
