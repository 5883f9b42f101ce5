"""The page is well-formed, safe against what users call things, and needs nothing else."""

import io

import pytest
from page_checker import checked
from PIL import Image

from satray.report.page import (
    Headline,
    Html,
    Page,
    Section,
    cards,
    details,
    html,
    interval,
    number,
    picture,
    plot,
    table,
    tag,
)


def png() -> bytes:
    sink = io.BytesIO()
    Image.new("RGB", (4, 3)).save(sink, "PNG")
    return sink.getvalue()


NASTY = '</title><script>alert("x")</script> & \x00 <img src=x onerror=y>'


def test_everything_given_is_escaped_everywhere() -> None:
    body = [
        plot(png(), NASTY, NASTY, wide=True),
        details(NASTY, tag("pre", NASTY)),
        table([NASTY], [[NASTY]], caption=NASTY),
    ]
    page = Page(
        title=NASTY,
        subtitle=NASTY,
        warnings=(NASTY,),
        head=cards([Headline(NASTY, 0.5, {"low": 0.4, "high": 0.6}, NASTY)]),
        sections=[Section("all", NASTY, Html("".join(body)))],
        footer=NASTY,
    )
    found = checked(html(page))
    assert sum("onerror" in text for text in found.text) > 8
    assert [a for name, a in found.elements if name == "img" and "onerror" in a] == []
    assert "\x00" not in html(page).decode()


def test_letters_of_all_scripts_stay_as_they_are() -> None:
    for name in ("forêt\u00a0claire", "👩\u200d🌾", "می\u200cخواهم", "❤\ufe0f", "\ue000"):
        assert tag("p", name) == f"<p>{name}</p>"
    for barred in "\x00\r\x7f\ud800\ufffe\u202e\u2066\u200f":
        assert tag("p", f"a{barred}b") == "<p>a\N{REPLACEMENT CHARACTER}b</p>"


def test_an_interval_says_on_how_many_draws_it_rests() -> None:
    found = {"low": 0.25, "high": 0.75, "sd": 0.1, "draws": 950}
    assert interval(found, 1000) == "0.250 to 0.750 (950 of 1,000 draws)"
    assert interval({**found, "draws": 1000}, 1000) == "0.250 to 0.750"


def test_attributes_are_escaped() -> None:
    assert picture(b"x", 'a" onload="b').count('"') == 4


@pytest.mark.parametrize(
    ("value", "said"),
    [(0.12345, "0.123"), (None, "–"), (float("nan"), "–"), (float("inf"), "–"), (0.0, "0.000")],
)
def test_numbers(value, said) -> None:
    assert number(value) == said


def test_undefined_figures_are_dashes_not_nan() -> None:
    nan = float("nan")
    shown = cards([Headline("mAP", nan, {"low": nan, "high": nan}, "")])
    assert "nan" not in shown.lower()
    assert shown.count("–") == 2


def test_the_checker_can_fail() -> None:
    head = '<meta name="viewport" content="width=device-width, initial-scale=1">'
    checked(f"<p>{head}</p>".encode())
    for bad in (
        '<img src="https://x.org/a.png" alt="a">',
        '<img src="data:image/png;base64,AAAA" alt="a">',
        "<script>1</script>",
        "<p>",
        '<a href="https://x.org">x</a>',
        '<p onclick="x">y</p>',
    ):
        with pytest.raises((AssertionError, AttributeError, OSError)):
            checked(f"<div>{head}{bad}</div>".encode())
