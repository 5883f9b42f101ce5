"""HTML pages that hold everything: no script, no other host, no second file.

A page is a template of `templates/` that extends `page.html`. Templates escape whatever they are
given; characters that HTML does not allow even escaped, or that turn the text around them, are
shown as replaced.
"""

import base64
import re
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

if TYPE_CHECKING:
    from jinja2 import Environment

BARRED = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff\ufffe\uffff\u200e\u200f\u202a-\u202e\u2066-\u2069]"
)


def html(template: str, **values: Any) -> bytes:
    """A page, UTF-8.

    Args:
        template: name of the page's template.
        values: what it is given. Every page wants `title`; `subtitle`, one line of ids; `warnings`,
            lines that a reader must know before any figure; and `footer`, one line at the end.
    """
    return _templates().get_template(template).render(values).encode()


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


def picture(data: bytes, alt: str, kind: str = "png") -> Markup:
    """An image inside the page; `kind` is its MIME subtype (png, jpeg)."""
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return Markup(f'<img src="{source}" alt="{escape(_allowed(alt))}">')


@cache
def _templates() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined  # not for --help

    found = Environment(
        loader=PackageLoader("satray.report"), autoescape=True, undefined=StrictUndefined,
        finalize=_allowed, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    found.filters.update(number=number, interval=interval, thousands="{:,}".format)
    found.globals["picture"] = picture
    return found


def _allowed(text: Any) -> Any:
    """Text without barred characters; whatever else as it is."""
    if not isinstance(text, str) or isinstance(text, Markup):
        return text
    return BARRED.sub("\N{REPLACEMENT CHARACTER}", text)
