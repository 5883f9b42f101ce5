"""pyarrow's file system over satray's own stores, for the state that Ray Train and Tune keep."""

from typing import Any

import pyarrow.fs
from obstore.fsspec import BufferedFile, FsspecStore

from satray.config.base import StorageOptions
from satray.errors import InputError
from satray.storage import uri as names
from satray.storage.objects import open_store


class _File(BufferedFile):
    def write(self, data: Any) -> int:
        """Write a buffer; pyarrow's say that they hold signed bytes, which obstore refuses."""
        return super().write(bytes(data))


class StateStore(FsspecStore):
    """obstore's file system of stores that are opened by satray's options where they are used.

    It pickles as a scheme and options: credentials are found where it arrives.
    """

    cachable = False

    def __init__(self, scheme: str, options: StorageOptions) -> None:
        super().__init__(scheme)  # type: ignore[call-overload]
        self._options = options

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as scheme and options only."""
        return StateStore, (self.protocol, self._options)

    def _open(self, path: str, mode: Any = "rb", *_: Any, **__: Any) -> BufferedFile:
        return _File(self, path, mode)

    def _construct_store(self, bucket: str) -> Any:
        return open_store(f"{self.protocol}://{bucket}", self._options)


def state_filesystem(place: str, options: StorageOptions) -> tuple[Any, str]:
    """Return the file system of a path or URI, and the path in it (`bucket/key` of a store)."""
    if not names.is_remote(place):
        return pyarrow.fs.LocalFileSystem(), place
    scheme = names.scheme(place)
    open_store(place, options)
    if scheme.startswith("http"):
        raise InputError(f"{place}: Ray cannot keep its state there; use a local path or a bucket")
    handler = pyarrow.fs.FSSpecHandler(StateStore(scheme, options))
    return pyarrow.fs.PyFileSystem(handler), place.split("://", 1)[1]
