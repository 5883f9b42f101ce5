"""One HTML page that holds everything: no script, no other host, no second file.

Templates escape whatever is not `Html`. Characters that HTML does not allow even escaped, or that
turn the text around them, are shown as replaced.
"""

import base64
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from markupsafe import Markup, escape

if TYPE_CHECKING:
    from jinja2 import Environment

Html = Markup
"""Text that is markup already."""
Child = str | Html

TURNING: Final = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
"""Unicode's Bidi_Control: a name that holds them could turn the text around it."""
VOID: Final = {"img", "meta", "br", "link"}
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""The page may load nothing; said to the browser too, whatever a class name holds."""


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading."""

    anchor: str
    """Its name in links: [a-z-]+."""
    title: str
    """Heading, and the word in the list of contents."""
    body: Html
    """What it shows."""


@dataclass(frozen=True)
class Page:
    """What the page says."""

    title: str
    """What was measured on what."""
    subtitle: str
    """One line: ids."""
    warnings: tuple[str, ...]
    """What a reader must know before any figure."""
    head: Html
    """Between warnings and contents: the headline figures."""
    sections: Sequence[Section]
    """The rest."""
    footer: str
    """One line at the end."""


@dataclass(frozen=True)
class Headline:
    """One figure at the head of the page."""

    name: str
    """What it is called."""
    value: float | None
    """The figure."""
    interval: Mapping[str, float] | None
    """`low` and `high`; None: none."""
    beside: str
    """What to compare it with."""


def html(page: Page, template: str = '{% extends "page.html" %}', **values: Any) -> bytes:
    """The page, UTF-8.

    Args:
        page: what every page has.
        template: text of one that extends `page.html`; default the sections as they are.
        values: what it is given besides.
    """
    found = _templates().from_string(template)
    return found.render(page=page, policy=POLICY, **values).encode()


def tag(name: str, /, *children: Child, **attributes: str) -> Html:
    """An element; `class_` stands for `class`. Children that are no `Html` are escaped."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"'
        for key, value in attributes.items()
    )
    return Html(f"<{name}{written}>" + ("" if name in VOID else f"{joined(children)}</{name}>"))


def joined(children: Iterable[Child]) -> Html:
    """Children in a row."""
    return Html().join(_plain(child) for child in children)


def picture(data: bytes, alt: str, kind: str = "png") -> Html:
    """An image inside the page; `kind` is its MIME subtype (png, jpeg)."""
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return tag("img", src=source, alt=_plain(alt))


def plot(data: bytes, title: str, caption: str = "", *, wide: bool = False) -> Html:
    """A plot with its heading and a line on how to read it."""
    return _part("plot", picture(data, title), title, caption, wide)


def table(
    heads: Sequence[str], rows: Iterable[Sequence[Child]], *, texts: int = 1, caption: str = ""
) -> Html:
    """A table whose first `texts` columns are words and whose others are figures.

    It scrolls by itself where it is wider than the page.
    """
    return _part("table", heads, rows, texts, caption)


def pairs(rows: Sequence[tuple[str, Child]]) -> Html:
    """Names and values, two columns."""
    return _part("pairs", rows)


def details(summary: Child, *children: Child) -> Html:
    """A part that unfolds without any script."""
    return tag("details", tag("summary", summary), *children)


def cards(headlines: Sequence[Headline]) -> Html:
    """The headline figures, each with its interval and what to compare it with."""
    return _part("cards", headlines)


def versions(columns: Mapping[str, Mapping[str, str]]) -> Html:
    """Library versions side by side; a column a run."""
    names = list(dict.fromkeys(name for column in columns.values() for name in column))
    rows = [(name, *(column.get(name, "–") for column in columns.values())) for name in names]
    return table(("", *columns), rows, texts=1 + len(columns))


def number(value: float | None, digits: int = 3) -> str:
    """A figure as the page writes it; a dash where it is undefined."""
    if value is None or value != value or value in (float("inf"), float("-inf")):
        return "–"
    return f"{value:.{digits}f}"


def interval(found: Mapping[str, float], draws: int = 0) -> str:
    """Both ends of an interval; of `draws` of a bootstrap, on how many it rests if on fewer."""
    if found["low"] != found["low"]:
        return "–"
    said = f"{number(found['low'])} to {number(found['high'])}"
    defined = int(found.get("draws", draws))
    return said if defined >= draws else f"{said} ({defined:,} of {draws:,} draws)"


@cache
def _templates() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined  # not for --help

    found = Environment(
        loader=PackageLoader("satray.report"), autoescape=True, undefined=StrictUndefined,
        finalize=_plain,
    )  # fmt: skip
    found.filters.update(number=number, interval=interval)
    found.globals["picture"] = picture
    return found


def _part(name: str, *given: object) -> Html:
    found: Html = getattr(_templates().get_template("parts.html").module, name)(*given)
    return found


def _plain(text: Any) -> Any:
    """Text without barred characters; whatever else as it is."""
    if not isinstance(text, str) or isinstance(text, Html):
        return text
    return "".join("�" if _barred(c) else c for c in text)


def _barred(c: str) -> bool:
    if c in "\n\t":
        return False
    return c in TURNING or unicodedata.category(c) in ("Cc", "Cs", "Cn")
