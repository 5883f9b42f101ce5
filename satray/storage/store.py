"""One way to list, read and publish, on disk and in object stores."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from satray.config.base import StorageOptions
from satray.errors import DecodeError, InputError
from satray.storage import names
from satray.storage.disk import Disk
from satray.storage.errors import in_one_line
from satray.storage.names import Entry, Version
from satray.storage.objects import Objects, gdal_env, open_store

Entries = list[Entry]  # inside the class, `list` is its method


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
        return sorted(self.walk(prefix), key=lambda entry: entry.key)

    def walk(self, prefix: str) -> Iterator[Entry]:
        """Yield what `list` returns, as it is found, in no order."""
        with self._at(prefix) as (home, place):
            yield from (e for e in home.walk(place) if "/." not in f"/{e.key}")

    def head(self, uri: str) -> Entry:
        """Describe one object; raises InputError when it is not there."""
        with self._at(uri) as (home, place):
            return home.head(place)

    def unlike(self, uri: str, version: Version) -> str | None:
        """Say why an object is not of a version any more; None where it is. One HEAD as a rule."""
        try:
            entry = self.head(uri)
            if entry.size != version.size or version.etag not in (None, entry.etag):
                self.read(uri, version)
        except (InputError, DecodeError) as error:
            return str(error)
        return None

    def exists(self, uri: str) -> bool:
        """Tell whether there is an object of this very name; a folder or prefix is none."""
        with self._at(uri) as (home, place):
            try:
                home.head(place)
            except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
                return False
            return True

    def read(self, uri: str, version: Version | None = None) -> bytes:
        """Return a whole object, by one request; raises InputError when it is not there.

        With a version, raises DecodeError where it is another object by now.
        """
        with self._at(uri) as (home, place):
            data, etag = home.fetch(place)
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
        pool = ThreadPoolExecutor(concurrency, thread_name_prefix="read")
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
            # not waited for: what nobody iterates to its end may be collected in any thread, one
            # that is being started too, whose locks joining others needs
            pool.shutdown(wait=False, cancel_futures=True)

    def write(self, uri: str, data: bytes, *, if_absent: bool = False) -> None:
        """Publish bytes as an object, in one step: readers see all of it or nothing.

        Raises:
            FileExistsError: with `if_absent`, when the object is there. Of writers that race,
                exactly one wins on disks and on stores that decide the condition and the write
                together (S3, Google, Azure); OpenStack Swift may let several win.
        """
        with self._at(uri) as (home, place):
            home.write(place, data, if_absent=if_absent)

    def upload(self, local_path: str | Path, uri: str) -> None:
        """Publish a local file under a name, in one step.

        Big files are streamed, in parts where the store wants parts.
        """
        with self._at(str(local_path)) as (disk, source):
            disk.head(source)
        with self._at(uri) as (home, target):
            home.upload(source, target)

    def delete(self, prefix: str) -> None:
        """Remove an object, or everything below a prefix; what is not there is gone already.

        Raises InputError for a whole bucket or disk, which is never meant.
        """
        with self._at(prefix) as (home, place):
            if names.parent(place) == place:
                raise InputError(
                    f"{place}: refusing to delete a whole bucket or disk; name a folder"
                )
            home.delete(place)

    def tidy(self, prefix: str) -> None:
        """Remove what writers that died left below a folder; stores show none of that."""
        if not names.is_remote(prefix):
            Disk().tidy(names.absolute(prefix))

    def arrow_filesystem(self, uri: str) -> tuple[Any, str]:
        """Return pyarrow's file system for a name, and the path in it; for Ray's own state only."""
        import pyarrow.fs

        with self._at(uri) as (_, place):
            if not names.is_remote(place):
                return pyarrow.fs.LocalFileSystem(), place
            open_store(place, self.options)
        from satray.storage.state import StateStore

        scheme, path = place.split("://", 1)
        handler = pyarrow.fs.FSSpecHandler(StateStore(scheme, self.options))
        return pyarrow.fs.PyFileSystem(handler), path

    def gdal_env(self) -> AbstractContextManager[Any]:
        """Return a `rasterio.Env` in which GDAL opens `/vsis3` by the same endpoint and chain."""
        return gdal_env(self.options)

    @contextmanager
    def _at(self, uri: str) -> Iterator[tuple[Disk | Objects, str]]:
        """Give what keeps a name, and its one spelling; what is raised becomes one line."""
        place = names.absolute(uri)
        with in_one_line(place):
            yield Objects(self.options) if names.is_remote(place) else Disk(), place
