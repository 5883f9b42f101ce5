"""Names of things: pure text."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from satray.storage import names


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
        ("s3://bucket/", "s3://bucket", True),
        ("S3://Bucket/a", "s3://Bucket/a", True),
        ("s3://bucket//a", "s3://bucket//a", True),  # another object than s3://bucket/a
        ("gs://bucket", "gs://bucket", True),
        ("https://host/a", "https://host/a", True),
    ],
)
def test_absolute(monkeypatch, text, expected, remote):
    monkeypatch.setenv("HOME", "/home/me")
    assert names.absolute(text) == expected
    assert names.is_remote(text) is remote


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (("/a", "b", "c"), "/a/b/c"),
        (("/a/", "/b/"), "/a/b"),
        (("/", "b"), "/b"),
        (("/a", "", "b"), "/a/b"),
        (("s3://bucket", "a/b"), "s3://bucket/a/b"),
        (("s3://bucket/", ""), "s3://bucket"),
        (("s3://bucket/a", "b c#%.tif"), "s3://bucket/a/b c#%.tif"),
    ],
)
def test_join(parts, expected):
    assert names.join(*parts) == expected


@pytest.mark.parametrize(
    ("text", "parent", "name"),
    [
        ("/a/b.tif", "/a", "b.tif"),
        ("/a", "/", "a"),
        ("/", "/", ""),
        ("s3://bucket/a/", "s3://bucket", "a"),
        ("s3://bucket", "s3://bucket", "bucket"),
    ],
)
def test_parent_and_name(text, parent, name):
    assert (names.parent(text), names.name(text)) == (parent, name)


PART = st.text(st.characters(exclude_characters="/\0", exclude_categories=("Cs",)), min_size=1)


@given(st.lists(PART, min_size=1, max_size=4))
def test_join_and_split_are_inverse(parts):
    key = "/".join(parts)
    assert names.split(names.join("s3://bucket", *parts)) == ("s3://bucket", key)
    whole = names.join("s3://bucket", key)
    assert names.join(names.parent(whole), names.name(whole)) == whole


def test_split_refuses_paths():
    with pytest.raises(ValueError, match="not a URI"):
        names.split("/a/b")
