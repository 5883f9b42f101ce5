"""HTML that is safe by default: plain strings are escaped, only `Html` passes as it is."""

import base64
import html
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Final

TURNING: Final = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
"""Unicode's Bidi_Control: a name that holds them could turn the text around it."""
VOID: Final = {"img", "meta", "br", "link"}


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


Child = str | Html


def tag(name: str, /, *children: Child, **attributes: str) -> Html:
    """An element; `class_` stands for `class`. Children that are no `Html` are escaped."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(value)}"'
        for key, value in attributes.items()
    )
    if name in VOID:
        return Html(f"<{name}{written}>")
    return Html(f"<{name}{written}>{joined(children)}</{name}>")


def joined(children: Iterable[Child]) -> Html:
    """Children in a row."""
    return Html("".join(c if isinstance(c, Html) else html.escape(_plain(c)) for c in children))


def _plain(text: str) -> str:
    """Without control characters, which HTML does not allow even escaped, or that turn lines."""
    return "".join("�" if _barred(c) else c for c in text)


def _barred(c: str) -> bool:
    if c in "\n\t":
        return False
    return c in TURNING or unicodedata.category(c) in ("Cc", "Cs", "Cn")


def picture(data: bytes, alt: str, *, kind: str = "png", class_: str = "") -> Html:
    """An image inside the page; `kind` is its MIME subtype (png, jpeg)."""
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    more = {"class_": class_} if class_ else {}
    return tag("img", src=source, alt=_plain(alt), **more)


def plot(data: bytes, title: str, caption: str = "", *, wide: bool = False) -> Html:
    """A plot with its heading and a line on how to read it."""
    body = tag("div", picture(data, title), class_="scroll") if wide else picture(data, title)
    children = [tag("h3", title), body]
    if caption:
        children.append(tag("figcaption", caption))
    return tag("figure", *children)


def table(
    heads: Sequence[str], rows: Iterable[Sequence[Child]], *, texts: int = 1, caption: str = ""
) -> Html:
    """A table whose first `texts` columns are words and whose others are figures.

    It scrolls by itself where it is wider than the page.
    """
    sides = ["t" if i < texts else "n" for i in range(len(heads))]
    head = [
        tag("th", name, class_=side, scope="col") for name, side in zip(heads, sides, strict=True)
    ]
    body = [
        tag("tr", *(tag("td", cell, class_=side) for cell, side in zip(row, sides, strict=True)))
        for row in rows
    ]
    parts = [tag("caption", caption)] if caption else []
    parts += [tag("thead", tag("tr", *head)), tag("tbody", *body)]
    return tag("div", tag("table", *parts), class_="scroll")


def details(summary: Child, *children: Child, open_: bool = False) -> Html:
    """A part that unfolds without any script."""
    more = {"open": "open"} if open_ else {}
    return tag("details", tag("summary", summary), *children, **more)


def number(value: float | None, digits: int = 3) -> str:
    """A figure as the page writes it; a dash where it is undefined."""
    if value is None or value != value or value in (float("inf"), float("-inf")):
        return "–"
    return f"{value:.{digits}f}"
