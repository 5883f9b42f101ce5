"""When a scene was taken: the first source that tells."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from satray.errors import InputError
from satray.score.products.moment import moment_of, parse, stamp, time_pattern

STORED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
ITEM = {"properties": {"datetime": "2024-05-06T07:08:09.5Z"}}
AT = datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)


@pytest.mark.parametrize(
    ("pattern", "scene", "expected"),
    [
        (r"_(?P<datetime>\d{8}T\d{6})_", "S2A_20240506T070809_R1.tif", AT),
        (r"(?P<datetime>\d{8})", "x/20240506.tif", datetime(2024, 5, 6, tzinfo=UTC)),
        (r"(?P<datetime>\d{4}-\d\d-\d\dT\d\d:\d\d)", "2024-05-06T07:08",
         datetime(2024, 5, 6, 7, 8, tzinfo=UTC)),
        (r"(?P<year>\d{4})(?P<doy>\d{3})", "LC8_2024127", datetime(2024, 5, 6, tzinfo=UTC)),
        (r"(?P<year>\d\d)-(?P<month>\d\d)", "24-05.tif", datetime(2024, 5, 1, tzinfo=UTC)),
        (r"(?P<year>\d{4})/(?P<month>\d+)/(?P<day>\d+)/(?P<hour>\d+)h(?P<minute>\d+)"
         r"(?:m(?P<second>\d+))?", "2024/5/6/7h8", datetime(2024, 5, 6, 7, 8, tzinfo=UTC)),
        # what does not match, or is no time, leaves it to the Item
        (r"(?P<year>\d{4})", "other", None),
        (r"(?P<datetime>\d{8})", "20241399", None),
        (r"(?P<year>\d{4})(?P<doy>\d{3})", "2023366", None),
        (r"(?P<year>\d{4})-(?P<month>\d\d)", "2024-13", None),
        (r"(?P<year>0)", "٢٠٢٤x", None),
    ],
)  # fmt: skip
def test_patterns(pattern: str, scene: str, expected: datetime | None) -> None:
    found = moment_of(scene, STORED, time_pattern(pattern), ITEM, "2020:01:01 00:00:00")
    assert found.source == ("pattern" if expected else "item")
    assert expected is None or found.at == expected


def test_order_of_sources() -> None:
    found = moment_of("a", STORED, None, ITEM, "2020:01:01 00:00:00")
    assert (found.source, stamp(found.at)) == ("item", "2024-05-06T07:08:09.500000Z")
    found = moment_of("a", STORED, None, {"properties": {"datetime": 5}}, "2020:01:02 03:04:05\x00")
    assert (found.source, found.at) == ("tiff", datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC))
    for item in (None, {}, {"properties": None}, {"properties": {"datetime": "soon"}}):
        found = moment_of("a", STORED, None, item, "    :  :  ")
        assert (found.source, found.at) == ("modified", STORED)


def test_an_item_may_say_a_stretch() -> None:
    item = {
        "properties": {
            "datetime": None,
            "start_datetime": "2024-05-01T00:00:00Z",
            "end_datetime": "2024-05-31T00:00:00+02:00",
        }
    }
    found = moment_of("a", STORED, None, item)
    assert (found.at, found.source) == (None, "item")
    assert found.end == datetime(2024, 5, 30, 22, tzinfo=UTC)
    del item["properties"]["end_datetime"]
    assert moment_of("a", STORED, None, item).source == "modified"


@pytest.mark.parametrize(
    ("text", "word"),
    [("(", "expression"), (r"\d+", "neither"), (r"(?P<year>\d+)(?P<moon>.)", "'moon'")],
)
def test_wrong_patterns_are_one_line(text: str, word: str) -> None:
    with pytest.raises(InputError, match=word) as caught:
        time_pattern(text)
    assert "\n" not in str(caught.value)


@given(st.text(max_size=30), st.datetimes(timezones=st.just(UTC)))
def test_any_text_is_a_time_or_none_and_stamps_read_back(text: str, at: datetime) -> None:
    found = parse(text)
    assert found is None or found.tzinfo is not None
    assert parse(stamp(at)) == at
    assert stamp(at).endswith("Z")
