"""One way to list, read and publish (atomically), on disk and in object stores."""

from satray.storage.names import Entry, Version, absolute, is_remote, join, name, parent
from satray.storage.objects import forget_connections
from satray.storage.store import Storage

__all__ = [
    "Entry",
    "Storage",
    "Version",
    "absolute",
    "forget_connections",
    "is_remote",
    "join",
    "name",
    "parent",
]
