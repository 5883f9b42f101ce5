"""Names of things: pure text."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from satray.storage import uri


@pytest.mark.parametrize(
    ("text", "remote"),
    [
        ("s3://bucket/a", True),
        ("S3://bucket/a", True),
        ("gs://bucket", True),
        ("https://host/a", True),
        ("file:///a", False),
        ("/a/b", False),
        ("a/b", False),
        ("a:b//c", False),
    ],
)
def test_is_remote(text, remote):
    assert uri.is_remote(text) is remote


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/a/b/", "/a/b"),
        ("/a/../b/./c", "/b/c"),
        ("file:///a/b%20c%23d", "/a/b c#d"),
        ("file:///a/b#c?d", "/a/b#c?d"),
        ("s3://bucket/a b#%20/", "s3://bucket/a b#%20"),
        ("s3://bucket/", "s3://bucket"),
        ("S3://Bucket/a", "s3://Bucket/a"),
        ("s3://bucket//a", "s3://bucket//a"),  # another object than s3://bucket/a
    ],
)
def test_absolute(text, expected):
    assert uri.absolute(text) == expected


def test_absolute_makes_relative_paths_and_home_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    assert uri.absolute("x/y") == os.path.join(os.getcwd(), "x/y")
    assert uri.absolute("~/x") == "/home/me/x"
    assert uri.absolute(tmp_path / "x") == str(tmp_path / "x")


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (("/a", "b", "c"), "/a/b/c"),
        (("/a/", "/b/"), "/a/b"),
        (("/", "b"), "/b"),
        (("/a",), "/a"),
        (("/a", "", "b"), "/a/b"),
        (("s3://bucket", "a/b"), "s3://bucket/a/b"),
        (("s3://bucket/", ""), "s3://bucket"),
        (("s3://bucket/a", "b c#%.tif"), "s3://bucket/a/b c#%.tif"),
    ],
)
def test_join(parts, expected):
    assert uri.join(*parts) == expected


@pytest.mark.parametrize(
    ("text", "parent", "name"),
    [
        ("/a/b.tif", "/a", "b.tif"),
        ("/a", "/", "a"),
        ("/", "/", ""),
        ("s3://bucket/a/b.tif", "s3://bucket/a", "b.tif"),
        ("s3://bucket/a/", "s3://bucket", "a"),
        ("s3://bucket", "s3://bucket", "bucket"),
    ],
)
def test_parent_and_name(text, parent, name):
    assert uri.parent(text) == parent
    assert uri.name(text) == name


PART = st.text(st.characters(exclude_characters="/\0", exclude_categories=("Cs",)), min_size=1)


@given(st.lists(PART, min_size=1, max_size=4))
def test_join_and_split_are_inverse(parts):
    key = "/".join(parts)
    assert uri.split(uri.join("s3://bucket", *parts)) == ("s3://bucket", key)
    whole = uri.join("s3://bucket", key)
    assert uri.join(uri.parent(whole), uri.name(whole)) == whole


def test_split_refuses_paths():
    with pytest.raises(ValueError, match="not a URI"):
        uri.split("/a/b")
