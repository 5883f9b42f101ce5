"""What every report must be: well-formed, self-contained, without script."""

import base64
import io
import re
from html.parser import HTMLParser
from typing import Any

from PIL import Image

VOID = {"img", "meta", "br", "link"}


class Checker(HTMLParser):
    """Collects elements; complains about tags that do not match."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict]] = []
        self.text: list[str] = []

    def handle_starttag(self, name, attributes) -> None:
        self.elements.append((name, dict(attributes)))
        if name not in VOID:
            self.open.append(name)

    def handle_endtag(self, name) -> None:
        assert self.open, f"</{name}> without beginning"
        assert self.open.pop() == name

    def handle_data(self, data) -> None:
        self.text.append(data)


def checked(page: bytes, beside: tuple[str, ...] = ()) -> Checker:
    """Parse a page and hold it to what every report must be.

    Args:
        page: UTF-8.
        beside: what links to files beside it may begin with; others lead to its own parts.
    """
    found = Checker()
    text = page.decode("utf-8")
    found.feed(text)
    found.close()
    assert found.open == []
    names = [name for name, _ in found.elements]
    assert not {"script", "iframe", "object", "embed", "link", "form"} & set(names)
    ids = [attributes["id"] for _, attributes in found.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for name, attributes in found.elements:
        assert not [key for key in attributes if key.startswith("on")]
        if name == "img":
            kind, data = re.fullmatch(
                r"data:image/(png|jpeg);base64,(.+)", attributes["src"]
            ).groups()
            image = Image.open(io.BytesIO(base64.b64decode(data, validate=True)))
            assert image.format == kind.upper()
            image.load()
            assert attributes["alt"].strip()
        if "href" in attributes and not attributes["href"].startswith(beside):
            assert attributes["href"][0] == "#"
            assert attributes["href"][1:] in ids
    assert "url(" not in text
    assert not re.search(r'(src|href)="\s*(https?:)?//', text)
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in (
        found.elements
    )
    return found


def save_nothing(self: Any, sink: Any, **_: object) -> None:
    """In place of a figure's `savefig`, where a page's words matter: an empty PNG, at once."""
    Image.new("L", (1, 1)).save(sink, "png")
