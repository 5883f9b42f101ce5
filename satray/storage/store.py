"""One way to list, read and publish, on disk and in object stores."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol

from satray.config.base import StorageOptions
from satray.errors import InputError
from satray.storage import disk, s3
from satray.storage import uri as names
from satray.storage.entry import ChangedError, Entry, Version
from satray.storage.errors import in_one_line
from satray.storage.objects import Objects, open_store

Entries = list[Entry]  # inside the class, `list` is its method


class _Home(Protocol):
    """What the module `disk` does with files, and `Objects` with objects."""

    def walk(self, place: str, /) -> Iterator[Entry]: ...
    def head(self, place: str, /) -> Entry: ...
    def fetch(self, place: str, /) -> tuple[bytes, str | None]: ...
    def stream(self, place: str, /) -> Iterator[bytes | memoryview]: ...
    def write(self, place: str, data: bytes, /, *, if_absent: bool = False) -> None: ...
    def delete(self, place: str, /) -> None: ...


@dataclass(frozen=True)
class Storage:
    """Lists, reads, writes and publishes by path or URI.

    It holds options and nothing else, so it pickles small and without credentials; connections are
    made in each process when first used. A name that is wrong, out of reach or not ours to open
    raises `InputError` in one line; a store that fails after its retries raises `SatrayError`.
    """

    options: StorageOptions = field(default_factory=StorageOptions)
    """Endpoint, region, profile, and whether to sign."""

    def list(self, prefix: str) -> Entries:
        """Return everything below a prefix, sorted by key; an empty list where there is nothing.

        Hidden files, and those in hidden folders, are left out.
        """
        place = names.absolute(prefix)
        with in_one_line(place):
            found = [e for e in self._home(place).walk(place) if "/." not in f"/{e.key}"]
        return sorted(found, key=lambda entry: entry.key)

    def head(self, uri: str) -> Entry:
        """Describe one object; raises InputError when it is not there."""
        place = names.absolute(uri)
        with in_one_line(place):
            return self._home(place).head(place)

    def unlike(self, uri: str, version: Version) -> str | None:
        """Say why an object is not of a version any more; None where it is. One HEAD as a rule."""
        try:
            entry = self.head(uri)
            if entry.size != version.size or version.etag not in (None, entry.etag):
                self.read(uri, version)
        except (InputError, ChangedError) as error:
            return str(error)
        return None

    def exists(self, uri: str) -> bool:
        """Tell whether there is an object of this very name; a folder or prefix is none."""
        place = names.absolute(uri)
        with in_one_line(place):
            try:
                self._home(place).head(place)
            except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
                return False
            return True

    def read(self, uri: str, version: Version | None = None) -> bytes:
        """Return a whole object, by one request; raises InputError when it is not there.

        With a version, raises ChangedError where it is another object by now.
        """
        place = names.absolute(uri)
        with in_one_line(place):
            data, etag = self._home(place).fetch(place)
        if version is not None:
            version.check(data, etag)
        return data

    def read_many(
        self,
        uris: Iterable[str],
        concurrency: int = 32,
        versions: Sequence[Version | None] | None = None,
    ) -> Iterator[tuple[int, bytes | Exception]]:
        """Read many objects at once and yield (position, content) as they arrive, in any order.

        What cannot be read, or is not of its version, arrives as its exception; what concerns every
        object of a store (no credentials, no such endpoint) is raised. At most `concurrency`
        contents are held.
        """
        done: SimpleQueue[tuple[int, bytes | Exception]] = SimpleQueue()

        def fetch(position: int, uri: str) -> None:
            try:
                done.put((position, self.read(uri, versions[position] if versions else None)))
            except Exception as error:  # errors are data here
                done.put((position, error))

        todo, waiting = enumerate(uris), 0
        with ThreadPoolExecutor(concurrency, thread_name_prefix="read") as pool:
            try:
                while True:
                    for position, uri in itertools.islice(todo, concurrency - waiting):
                        if names.is_remote(uri):
                            with in_one_line(uri):
                                open_store(uri, self.options)
                        pool.submit(fetch, position, uri)
                        waiting += 1
                    if not waiting:
                        return
                    yield done.get()
                    waiting -= 1
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def write(self, uri: str, data: bytes, *, if_absent: bool = False) -> None:
        """Publish bytes as an object, in one step: readers see all of it or nothing.

        Raises:
            FileExistsError: with `if_absent`, when the object is there. Of writers that race,
                exactly one wins on disks and on stores that decide the condition and the write
                together (S3, Google, Azure); OpenStack Swift may let several win.
        """
        place = names.absolute(uri)
        with in_one_line(place):
            self._home(place).write(place, data, if_absent=if_absent)

    def upload(self, local_path: str | Path, uri: str) -> None:
        """Publish a local file under a name, in one step.

        Big files are streamed, in parts where the store wants parts.
        """
        source, target = names.absolute(local_path), names.absolute(uri)
        with in_one_line(source):
            disk.head(source)
        with in_one_line(target):
            if names.is_remote(target):
                Objects(self.options).upload(source, target)
            else:
                disk.write(target, disk.stream(source))

    def download(self, uri: str, local_path: str | Path) -> None:
        """Fetch an object to a local file; raises InputError when it is not there."""
        source = names.absolute(uri)
        with in_one_line(source):
            disk.write(names.absolute(local_path), self._home(source).stream(source))

    def delete(self, prefix: str) -> None:
        """Remove an object, or everything below a prefix; what is not there is gone already.

        Raises InputError for a whole bucket or disk, which is never meant.
        """
        place = names.absolute(prefix)
        if names.parent(place) == place:
            raise InputError(f"{place}: refusing to delete a whole bucket or disk; name a folder")
        with in_one_line(place):
            self._home(place).delete(place)

    def tidy(self, prefix: str) -> int:
        """Remove what writers that died left below a local folder; return how many files.

        Object stores show no part of what was not finished.
        """
        place = names.absolute(prefix)
        return 0 if names.is_remote(place) else disk.tidy(place)

    def arrow_filesystem(self, uri: str) -> tuple[Any, str]:
        """Return pyarrow's file system for a name and the path in it; for Ray's own state only."""
        from satray.storage.state import state_filesystem

        place = names.absolute(uri)
        with in_one_line(place):
            return state_filesystem(place, self.options)

    def gdal_env(self) -> AbstractContextManager[Any]:
        """Return a `rasterio.Env` in which GDAL opens `/vsis3` by the same endpoint and chain."""
        return s3.gdal_env(self.options)

    def _home(self, place: str) -> _Home:
        return Objects(self.options) if names.is_remote(place) else disk
