"""One run under way: where it writes, what it made, where the time went."""

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from satray.runs.record import FILE, Product
from satray.storage import Storage, join


@dataclass(frozen=True)
class Outcome:
    """What a job's work returns."""

    counts: dict[str, int] = field(default_factory=dict)
    """What was counted."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """Headline figures."""
    summary: tuple[str, ...] = ()
    """Lines for the person, printed at the end."""
    attempted: int = 0
    """Inputs tried."""
    failed: int = 0
    """Inputs that failed."""
    error_budget: float | None = None
    """Share of inputs that may fail; more ends the job with status 3."""
    verdict: str | None = None
    """One line against what the job was to confirm, which ends it with status 1: everything is
    written and recorded all the same. None: nothing to say against it."""
    idle: bool = False
    """Whether there was nothing to do: a run in a shared folder then leaves no record."""

    @property
    def status(self) -> int:
        """Exit status of the job: 0, 1 or 3."""
        if self.verdict is not None:
            return 1
        if self.error_budget is None or self.attempted == 0:
            return 0
        return 3 if self.failed > self.error_budget * self.attempted else 0


def _silent(line: str) -> None:
    """Say nothing."""


class Run:
    """Handed to a job's work; gathers products and seconds for `run.json`."""

    def __init__(
        self,
        job: str,
        run_id: str,
        out: str,
        storage: Storage,
        say: Callable[[str], None] = _silent,
        progress: Callable[[str], None] = _silent,
        *,
        shared: bool = False,
        ray: bool = True,
    ) -> None:
        """Begin.

        Args:
            job: its name.
            run_id: its id.
            out: the run folder.
            storage: how it is reached.
            say: prints a line.
            progress: shows how far the job is.
            shared: the folder serves many runs, each with its record in `runs/RUNID.json`.
            ray: Ray is up for its work; else the work is embedded: it runs in this process.
        """
        self.ray = ray
        self.job = job
        self.shared = shared
        self.run_id = run_id
        self.out = out
        self.storage = storage
        self.say = say
        self.progress = progress
        self.before_writing: Callable[[], None] | None = None
        self.after_record: Callable[[], None] | None = None
        self.seconds: dict[str, float] = {}
        self._products: dict[str, Product] = {}

    @property
    def state(self) -> str:
        """Folder for what an unfinished run needs to go on."""
        return join(self.out, "state", self.run_id)

    @property
    def record_path(self) -> str:
        """Path of the run's record below the run folder."""
        return f"runs/{self.run_id}.json" if self.shared else FILE

    @property
    def products(self) -> tuple[Product, ...]:
        """Files made so far, in path order."""
        return tuple(self._products[path] for path in sorted(self._products))

    def uri(self, *parts: str) -> str:
        """Return the URI of a path below the run folder."""
        return join(self.out, *parts)

    def begin_writing(self) -> None:
        """Clear what `overwrite=true` replaces; products are written from here on.

        Called before the first product, so that a run that cannot start costs the old one nothing.
        """
        if self.before_writing is not None:
            self.before_writing()
            self.before_writing = None

    def publish(self, path: str, data: bytes, rows: int | None = None) -> Product:
        """Write a product atomically and note it for `run.json`."""
        self.begin_writing()
        with self.activity("writing"):
            self.storage.write(self.uri(path), data)
        return self.record(Product(path, len(data), hashlib.sha256(data).hexdigest(), rows))

    def publish_file(self, path: str, local: Path, rows: int | None = None) -> Product:
        """Upload a local file as a product."""
        self.begin_writing()
        with local.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        with self.activity("writing"):
            self.storage.upload(local, self.uri(path))
        return self.record(Product(path, local.stat().st_size, digest, rows))

    def record(self, product: Product) -> Product:
        """Note a product that somebody else wrote."""
        self._products[product.path] = product
        return product

    @contextmanager
    def activity(self, name: str) -> Iterator[None]:
        """Add the block's wall seconds to the activity `name`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add_seconds(name, time.perf_counter() - start)

    def add_seconds(self, name: str, seconds: float) -> None:
        """Add seconds that were measured elsewhere."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds
