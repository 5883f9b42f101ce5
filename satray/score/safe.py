"""Any text as one part of a path below a run folder."""

import hashlib
from urllib.parse import quote

NAME_LIMIT = 180
"""Longest encoded part of a path, bytes; file systems end at 255."""


def safe_part(text: str) -> str:
    """Encode any text as one part of a path.

    Letters, digits and `-._~` stay; all else, slashes and what is no Unicode included, is
    percent-encoded, as is a leading dot. What is too long keeps its start, then a digest. Different
    texts have different parts.
    """
    data = text.encode("utf-8", "surrogatepass")
    name = quote(data, safe="")
    if name.startswith("."):  # hidden, `.` or `..`
        name = "%2E" + name[1:]
    elif not name:
        name = "%2E%2E"  # which no text is: only a first dot is encoded
    if len(name) > NAME_LIMIT:
        name = f"{name[: NAME_LIMIT - 17]}-{hashlib.sha256(data).hexdigest()[:16]}"
    return name
