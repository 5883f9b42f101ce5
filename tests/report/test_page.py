"""Pages are safe against what users call things; the rooms' tests hold what each must show."""

import pytest
from page_checker import checked

from satray.report.page import html, interval, number, picture

NASTY = '</title><script>alert("x")</script> & \x00\ud800\u202e <img src=x onerror=y>'
LETTERS = "forêt\u00a0claire 👩\u200d🌾 می\u200cخواهم ❤\ufe0f \ue000"


def test_names_are_escaped_and_letters_of_all_scripts_stay() -> None:
    page = html(
        "scenes.html", title=NASTY, subtitle=LETTERS, warnings=(NASTY,), footer=NASTY,
        summary=NASTY, pictured=(), done=(), failed=[(NASTY, NASTY, NASTY)], noted=(), links={},
        counted=str,
    )  # fmt: skip
    said = checked(page).text
    assert sum("onerror" in text for text in said) == 8
    assert LETTERS in said
    assert not set("\x00\u202e") & set(page.decode())
    assert picture(b"x", 'a" onload="b').count('"') == 4


@pytest.mark.parametrize(
    ("value", "said"),
    [(0.12345, "0.123"), (None, "–"), (float("nan"), "–"), (float("inf"), "–"), (0.0, "0.000")],
)
def test_undefined_figures_are_dashes(value, said) -> None:
    assert number(value) == said


def test_an_interval_says_on_how_many_draws_it_rests() -> None:
    found = {"low": 0.25, "high": 0.75, "sd": 0.1, "draws": 950}
    assert interval(found, 1000) == "0.250 to 0.750 (950 of 1,000 draws)"
    assert interval({**found, "draws": 1000}, 1000) == "0.250 to 0.750"
    assert interval({"low": float("nan"), "high": float("nan")}) == "–"
