"""A store in memory with `Storage`'s ways: conditional create, a clock in whole seconds, a gate.

The gate is called before each request, so that a test may let others go first, kill or refuse.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from satray.errors import InputError
from satray.storage import Entry

START = datetime(2026, 11, 22, tzinfo=UTC)


@dataclass
class MemoryStore:
    """Objects by URI."""

    objects: dict[str, tuple[bytes, datetime]] = field(default_factory=dict)
    clock: datetime = START
    requests: list[tuple[str, str]] = field(default_factory=list)
    gate: Callable[[str, str], str | None] = lambda request, uri: None

    def pass_time(self, seconds: float) -> None:
        self.clock += timedelta(seconds=seconds)

    def list(self, prefix: str) -> list[Entry]:
        self._ask("list", prefix)
        keys = [uri for uri in sorted(self.objects) if uri.startswith(prefix + "/")]
        entries = [self._entry(uri, uri[len(prefix) + 1 :]) for uri in keys]
        return [e for e in entries if not e.key.startswith(".") and "/." not in e.key]

    def head(self, uri: str) -> Entry:
        self._ask("head", uri)
        if uri not in self.objects:
            raise InputError(f"{uri}: does not exist")
        return self._entry(uri, uri.rpartition("/")[2])

    def exists(self, uri: str) -> bool:
        self._ask("exists", uri)
        return uri in self.objects

    def read(self, uri: str) -> bytes:
        self._ask("read", uri)
        if uri not in self.objects:
            raise InputError(f"{uri}: does not exist")
        return self.objects[uri][0]

    def read_many(self, uris: Iterable[str]) -> Iterator[tuple[int, bytes | Exception]]:
        for place, uri in enumerate(uris):
            try:
                yield place, self.read(uri)
            except InputError as error:
                yield place, error

    def write(self, uri: str, data: bytes, *, if_absent: bool = False) -> None:
        told = self._ask("create" if if_absent else "write", uri)
        if if_absent and uri in self.objects:
            raise FileExistsError(uri)
        self.objects[uri] = (data, self.clock.replace(microsecond=0))
        if if_absent and told == "lost answer":  # the request is tried again, and finds itself
            raise FileExistsError(uri)

    def upload(self, local_path: Path, uri: str) -> None:
        self.write(uri, Path(local_path).read_bytes())

    def download(self, uri: str, local_path: Path) -> None:
        Path(local_path).write_bytes(self.read(uri))

    def delete(self, prefix: str) -> None:
        self._ask("delete", prefix)
        for uri in [u for u in self.objects if u == prefix or u.startswith(prefix + "/")]:
            del self.objects[uri]

    def _ask(self, request: str, uri: str) -> str | None:
        told = self.gate(request, uri)
        self.requests.append((request, uri))
        return told

    def _entry(self, uri: str, key: str) -> Entry:
        data, modified = self.objects[uri]
        return Entry(uri, key, len(data), hashlib.md5(data).hexdigest(), modified)
