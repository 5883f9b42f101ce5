"""One way to list, read and publish (atomically), on disk and in object stores."""

from satray.storage.entry import CHANGED, ChangedError, Entry, Version
from satray.storage.objects import forget_connections
from satray.storage.store import Storage
from satray.storage.uri import absolute, is_remote, join, name, parent

__all__ = [
    "CHANGED",
    "ChangedError",
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
