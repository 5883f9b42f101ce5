"""One HTML page that holds everything: no script, no other host, no second file."""

from collections.abc import Sequence
from dataclasses import dataclass

from satray.report.css import CSS
from satray.report.markup import Html, joined, tag

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


def html(page: Page) -> bytes:
    """The page, UTF-8."""
    warnings = [tag("p", line) for line in page.warnings]
    header = [
        tag("h1", page.title),
        tag("p", page.subtitle, class_="sub"),
        *([tag("div", *warnings, class_="warn", role="alert")] if warnings else []),
        page.head,
        tag("nav", *(tag("a", s.title, href=f"#{s.anchor}") for s in page.sections)),
    ]
    body = [
        tag("section", tag("h2", section.title), section.body, id=section.anchor)
        for section in page.sections
    ]
    document = tag(
        "html",
        tag(
            "head",
            tag("meta", charset="utf-8"),
            tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
            tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
            tag("title", page.title),
            tag("style", Html(CSS)),
        ),
        tag(
            "body",
            tag("header", *header),
            tag("main", joined(body)),
            tag("footer", page.footer),
        ),
        lang="en",
    )
    return f"<!doctype html>\n{document}\n".encode()
