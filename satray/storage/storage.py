"""One way to list, read and publish, on disk and in object stores."""

import contextlib
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from satray.config.base import StorageOptions
from satray.errors import InputError
from satray.storage import local, remote
from satray.storage import uri as names
from satray.storage.connect import open_root
from satray.storage.entry import ChangedError, Entry, Version
from satray.storage.failures import told

_COPIES = 8  # files of a folder that travel at once

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
        return [entry for entry in self._all_below(prefix) if not _hidden(entry.key)]

    def head(self, uri: str) -> Entry:
        """Describe one object; raises InputError when it is not there."""
        place = names.absolute(uri)
        with told(place):
            if names.is_remote(place):
                return remote.head(place, self.options)
            return local.head(place)

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
        with told(place):
            if names.is_remote(place):
                return remote.exists(place, self.options)
            return os.path.isfile(place)

    def read(self, uri: str, version: Version | None = None) -> bytes:
        """Return a whole object, by one request; raises InputError when it is not there.

        With a version, raises ChangedError where it is another object by now.
        """
        place = names.absolute(uri)
        etag: str | None
        with told(place):
            if names.is_remote(place):
                data, etag = remote.fetch(place, self.options)
            else:
                data, etag = local.fetch(place)
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
                            open_root(uri, self.options)
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
        with told(place):
            if names.is_remote(place):
                remote.write(place, data, self.options, if_absent=if_absent)
            else:
                local.write(place, data, if_absent=if_absent)

    def upload(self, local_path: Path, uri: str) -> None:
        """Publish a local file under a name, or the files of a folder below it, each in one step.

        Big files are streamed, in parts where the store wants parts.
        """
        source, target = names.absolute(local_path), names.absolute(uri)
        if not os.path.isdir(source):
            with told(source):
                local.head(source)
            self._put(source, target)
            return
        with told(source):
            entries = list(local.walk(source))
        self._each(self._put, [(entry.uri, names.join(target, entry.key)) for entry in entries])

    def download(self, uri: str, local_path: Path) -> None:
        """Fetch an object to a local file, or everything below a prefix into a local folder.

        Raises InputError where there is nothing.
        """
        source, target = names.absolute(uri), names.absolute(local_path)
        if self.exists(source):
            self._get(source, target)
            return
        entries = self._all_below(source)
        if not entries:
            raise InputError(f"{source}: nothing there to download")
        self._each(self._get, [(entry.uri, os.path.join(target, entry.key)) for entry in entries])

    def delete(self, prefix: str) -> None:
        """Remove an object, or everything below a prefix; what is not there is gone already.

        Raises InputError for a whole bucket or disk, which is never meant.
        """
        place = names.absolute(prefix)
        if names.parent(place) == place:
            raise InputError(f"{place}: refusing to delete a whole bucket or disk; name a folder")
        with told(place):
            if names.is_remote(place):
                remote.delete(place, self.options)
            else:
                local.delete(place)

    def tidy(self, prefix: str) -> int:
        """Remove what writers that died left below a local folder; return how many files.

        Object stores show no part of what was not finished.
        """
        place = names.absolute(prefix)
        return 0 if names.is_remote(place) else local.tidy(place)

    def arrow_filesystem(self, uri: str) -> tuple[Any, str]:
        """Return pyarrow's file system for a name and the path in it; for Ray's own state only."""
        from satray.storage.arrow import arrow_filesystem

        place = names.absolute(uri)
        with told(place):
            return arrow_filesystem(place, self.options)

    def gdal_env(self) -> contextlib.AbstractContextManager[Any]:
        """Return a `rasterio.Env` in which GDAL opens `/vsis3` by the same endpoint and chain."""
        from satray.storage.gdal import gdal_env

        return gdal_env(self.options)

    def _all_below(self, prefix: str) -> Entries:
        place = names.absolute(prefix)
        with told(place):
            found = (
                remote.walk(place, self.options)
                if names.is_remote(place)
                else list(local.walk(place))
            )
        return sorted(found, key=lambda entry: entry.key)

    def _put(self, source: str, target: str) -> None:
        with told(target):
            if names.is_remote(target):
                remote.upload(source, target, self.options)
            else:
                local.copy(source, target)

    def _get(self, source: str, target: str) -> None:
        with told(source):
            if names.is_remote(source):
                local.receive(target, lambda: remote.stream(source, self.options))
            else:
                local.copy(source, target)

    @staticmethod
    def _each(move: Any, pairs: Sequence[tuple[str, str]]) -> None:
        with ThreadPoolExecutor(_COPIES, thread_name_prefix="copy") as pool:
            for _ in pool.map(move, *zip(*pairs, strict=True)) if pairs else ():
                pass


def _hidden(key: str) -> bool:
    return key.startswith(".") or "/." in key
