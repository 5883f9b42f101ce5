"""References lead to neighbours and public addresses only."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from satray.errors import DecodeError
from satray.scoring.scenes.items import resolved


@pytest.mark.parametrize(
    ("href", "base", "wanted"),
    [
        ("b.tif", "/d/i.json", "/d/b.tif"),
        ("./x/../b c.tif", "/d/i.json", "/d/b c.tif"),
        ("../b.tif", "/d/e/i.json", "/d/b.tif"),
        ("/abs/b.tif", "/d/i.json", "/abs/b.tif"),
        ("file:///abs/b%20c.tif", "/d/i.json", "/abs/b c.tif"),
        ("~x.tif", "/d/i.json", "/d/~x.tif"),
        ("s3://b/k#1.tif", "/d/i.json", "s3://b/k#1.tif"),
        ("b.tif", "s3://b/d/i.json", "s3://b/d/b.tif"),
        ("../../b%20.tif", "s3://b/d/e/i.json", "s3://b/b%20.tif"),
        ("/x/b.tif", "https://h/d/i.json", "https://h/x/b.tif"),
        ("https://o/b.tif", "s3://b/d/i.json", "https://o/b.tif"),
        ("S3://b/k.tif", "/d/i.json", "s3://b/k.tif"),
    ],
)
def test_leads(href, base, wanted):
    assert resolved(href, base) == wanted


@pytest.mark.parametrize(
    ("href", "base"),
    [
        ("", "/d/i.json"),
        (None, "/d/i.json"),
        (["a"], "/d/i.json"),
        ("a\nb.tif", "/d/i.json"),
        ("/vsizip/a.zip/b.tif", "/d/i.json"),
        ("../vsicurl/x", "/d/i.json"),
        ("file:///vsimem/x", "/d/i.json"),
        ("gopher://h/x.tif", "/d/i.json"),
        ("zip+s3://b/x.zip!a.tif", "/d/i.json"),
        ("s3://", "/d/i.json"),
        ("s3://bucket", "/d/i.json"),
        ("file:///etc/passwd", "s3://b/i.json"),
        ("//evil/x.tif", "https://h/i.json"),
        ("../x.tif", "s3://b/i.json"),
        ("d/../../x.tif", "https://h/i.json"),
        (".", "s3://b/i.json"),
    ],
)
def test_refused(href, base):
    with pytest.raises(DecodeError) as error:
        resolved(href, base)
    assert "\n" not in str(error.value)


@given(st.text(max_size=30))
def test_never_out_of_a_store(href):
    try:
        found = resolved(href, "s3://bucket/a/b/item.json")
    except DecodeError:
        return
    assert found.startswith(("s3://", "http://", "https://"))
    if "://" not in href:
        assert found.startswith("s3://bucket/")
        assert not {"..", "."} & set(found.split("/"))
