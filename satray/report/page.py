"""HTML pages that hold everything: no script, no other host, no second file.

A page is a template of `templates/` that extends `page.html`. Templates escape whatever they are
given.
"""

import base64
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

if TYPE_CHECKING:
    from jinja2 import Environment


def html(template: str, **values: Any) -> bytes:
    """A page, UTF-8.

    Args:
        template: name of the page's template.
        values: what it is given. Every page wants `title`; `subtitle`, one line of ids; `warnings`,
            lines that a reader must know before any figure; and `footer`, one line at the end.
    """
    page = _templates().get_template(template).render(values)
    return page.replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace")


def number(value: float | None, digits: int = 3) -> str:
    """A figure as the page writes it; a dash where it is undefined."""
    if value is None or value != value or value in (float("inf"), float("-inf")):
        return "–"
    return f"{value:.{digits}f}"


def interval(found: Mapping[str, float]) -> str:
    """Both ends of an interval; a dash where it is undefined."""
    if found["low"] != found["low"]:
        return "–"
    return f"{number(found['low'])} to {number(found['high'])}"


def picture(data: bytes, alt: str, kind: str = "png") -> Markup:
    """An image inside the page; `kind` is its MIME subtype (png, jpeg)."""
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return Markup(f'<img src="{source}" alt="{escape(alt)}">')


@cache
def _templates() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined  # not for --help

    found = Environment(
        loader=PackageLoader("satray.report"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    found.filters.update(number=number, interval=interval, thousands="{:,}".format)
    found.globals["picture"] = picture
    return found
