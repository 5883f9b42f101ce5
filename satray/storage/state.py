"""obstore's file system over satray's own stores, for the state that Ray Train and Tune keep."""

from typing import Any

from obstore.fsspec import BufferedFile, FsspecStore

from satray.config.base import StorageOptions
from satray.storage.objects import open_store


class _File(BufferedFile):
    def write(self, data: Any) -> int:
        """Write a buffer; pyarrow's say that they hold signed bytes, which obstore refuses."""
        return super().write(bytes(data))


class StateStore(FsspecStore):
    """Opens stores by satray's options where it is used, and pickles as these and a scheme."""

    cachable = False

    def __init__(self, scheme: str, options: StorageOptions) -> None:
        super().__init__(scheme)  # type: ignore[call-overload]
        self._options = options

    def _open(self, path: str, mode: Any = "rb", *_: Any, **__: Any) -> BufferedFile:
        return _File(self, path, mode)

    def _construct_store(self, bucket: str) -> Any:
        return open_store(f"{self.protocol}://{bucket}", self._options)
