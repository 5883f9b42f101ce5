"""What a listing says about one object, and how to tell that it is another than it was."""

import zlib
from dataclasses import dataclass
from datetime import datetime

from satray.errors import DecodeError


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


CHANGED = "changed since it was indexed"
"""How messages about objects that are no longer those that were indexed begin."""


class ChangedError(DecodeError):
    """An object is not the one that was read before; the message says what differs."""


@dataclass(frozen=True)
class Version:
    """An object as it was when it was read: what it must still be to be the same."""

    size: int
    """Length in bytes."""
    etag: str | None
    """As of its entry; None where the store gave none."""
    crc32: int | None
    """CRC-32 of its content; None where it is not known."""

    def check(self, data: bytes, etag: str | None) -> None:
        """Refuse another object.

        An etag that differs is not enough: a file that was copied or touched has another time, and
        an object that was uploaded in other parts another etag, with the same content. Only where
        it differs is the content summed up.

        Args:
            data: the object as it is now.
            etag: as the store gave it with the data.

        Raises:
            ChangedError: its size, or its content, is another.
        """
        if len(data) != self.size:
            raise ChangedError(f"{CHANGED}: {len(data):,} bytes, then {self.size:,}")
        same = self.etag is None or etag is None or etag == self.etag
        if not same and (self.crc32 is None or zlib.crc32(data) != self.crc32):
            raise ChangedError(f"{CHANGED}: same size, other content")
