"""What a listing says about one object."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class Entry:
    """One file or object, as its store describes it."""

    uri: str
    """Absolute path or URI; `Storage.read` takes it as it is."""
    key: str
    """Path below the listed prefix, `/`-separated; of a single object, its last part."""
    size: int
    """Length in bytes."""
    etag: str | None
    """Changes when the content does: the store's own, or size and time of change for a file."""
    modified: datetime
    """Time of the last change, in UTC."""
