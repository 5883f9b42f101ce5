"""Pages are safe against what users call things; the rooms' tests hold what each must show."""

import math

from page_checker import checked

from satray.report.page import html, interval, number, picture

NASTY = '</title><script>alert("x")</script> & \x00\ud800 <img src=x onerror=y>'
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
    assert "\x00" not in page.decode()
    assert picture(b"x", 'a" onload="b').count('"') == 4


def test_undefined_figures_are_dashes() -> None:
    values = (0.12345, None, math.nan, math.inf, 0.0)
    assert [number(value) for value in values] == ["0.123", "–", "–", "–", "0.000"]
    assert interval({"low": 0.25, "high": 0.75}) == "0.250 to 0.750"
    assert interval({"low": math.nan, "high": math.nan}) == "–"
