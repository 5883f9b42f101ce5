"""One run: its id, where it writes, what it made, where the time went, and its `run.json`.

The presence of a `run.json` means complete; it is written last.
"""

import hashlib
import io
import json
import math
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from satray import __version__
from satray.config.base import Recipe
from satray.errors import InputError
from satray.storage import Entry, Storage, join

if TYPE_CHECKING:
    import pyarrow as pa

FILE = "run.json"
LIBRARIES = ("ray", "torch", "torchvision", "timm", "numpy", "pyarrow", "rasterio", "scikit-learn")


@dataclass(frozen=True)
class Product:
    """One file that a run made."""

    path: str
    """Path below the run folder, `/`-separated."""
    bytes: int
    """Size of the file, bytes."""
    sha256: str
    """SHA-256 of its bytes, hexadecimal."""
    rows: int | None = None
    """Rows, where it is a table."""


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


@dataclass(frozen=True, kw_only=True)
class RunRecord(Outcome):
    """The content of `run.json`: what the job's work returned, and what it was."""

    job: str
    """Name of the job."""
    run_id: str
    """Digest of configuration and inputs."""
    config: dict[str, Any]
    """The resolved recipe."""
    inputs: dict[str, str]
    """Digest of each input by key."""
    versions: dict[str, str]
    """Versions of satray, Python and the libraries that shape results."""
    started: str
    """UTC, ISO 8601."""
    finished: str
    """UTC, ISO 8601."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Seconds by activity."""
    products: tuple[Product, ...] = ()
    """Every file made, in path order."""

    def to_json(self) -> bytes:
        """Return the record as UTF-8 JSON; NaN becomes null."""
        first = {"job": self.job, "run_id": self.run_id, "status": self.status}
        return to_json(first | asdict(self))

    @classmethod
    def from_json(cls, data: bytes, source: str) -> "RunRecord":
        """Read a record.

        Raises:
            InputError: it is not a run.json.
        """
        try:
            return TypeAdapter(cls).validate_json(data)  # but for its status, which follows
        except ValidationError:
            raise InputError(f"{source}: not a run.json that satray wrote") from None


def find_run(storage: Storage, out: str) -> RunRecord | None:
    """Read the record of a run where there is one."""
    uri = join(out, FILE)
    return RunRecord.from_json(storage.read(uri), uri) if storage.exists(uri) else None


def read_run(storage: Storage, out: str) -> RunRecord:
    """Read the record of a finished run.

    Raises:
        InputError: there is none: the run is unfinished, or this is no run folder.
    """
    record = find_run(storage, out)
    if record is None:
        unfinished = storage.list(join(out, "state"))
        what = "the run is unfinished: rerun its command" if unfinished else "not a run folder"
        raise InputError(f"{out}: no run.json ({what}); accepted: the `out` of a finished run")
    return record


@dataclass(eq=False)
class Run:
    """Handed to a job's work; gathers products and seconds for `run.json`."""

    job: str
    """Name of the job."""
    run_id: str
    """Its id."""
    out: str
    """The run folder."""
    storage: Storage
    """How it is reached."""
    say: Callable[[str], None] = lambda _: None
    """Prints a line."""
    progress: Callable[[str], None] = lambda _: None
    """Shows how far the job is."""
    shared: bool = field(default=False, kw_only=True)
    """Whether the folder serves many runs, each with its record in `runs/RUNID.json`."""
    ray: bool = field(default=True, kw_only=True)
    """Whether Ray is up for its work; else the work is embedded: it runs in this process."""
    before_writing: Callable[[], None] | None = field(default=None, init=False)
    """What is to be done before the first product is written."""
    after_record: Callable[[], None] | None = field(default=None, init=False)
    """What is to be done once the record is written."""
    seconds: dict[str, float] = field(default_factory=dict, init=False)
    """Seconds by activity."""
    _products: dict[str, Product] = field(default_factory=dict, init=False)

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

    def publish(self, path: str, source: bytes | Path, rows: int | None = None) -> Product:
        """Write a product atomically, data or a local file, and note it for `run.json`."""
        self.begin_writing()
        with self.activity("writing"):
            product = write_product(self.storage, self.out, path, source, rows)
        return self.record(product)

    def publish_table(self, path: str, table: "pa.Table") -> Product:
        """Write a table as a product."""
        return self.publish(path, to_parquet(table), rows=table.num_rows)

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


def write_product(
    storage: Storage, out: str, path: str, source: bytes | Path, rows: int | None = None
) -> Product:
    """Write a product, data or a local file, atomically below a run folder."""
    place = join(out, path)
    if isinstance(source, bytes):
        storage.write(place, source)
        return Product(path, len(source), hashlib.sha256(source).hexdigest(), rows)
    with source.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    storage.upload(source, place)
    return Product(path, source.stat().st_size, digest, rows)


def run_id(job: str, recipe: Recipe, inputs: Mapping[str, str]) -> str:
    """Return the run id: 12 hexadecimal digits of the SHA-256 of configuration and inputs."""
    whole = {"job": job, "config": recipe.identity(), "inputs": dict(inputs)}
    text = json.dumps(whole, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def digest_file(storage: Storage, uri: str) -> str:
    """Return the SHA-256 of a file's bytes, hexadecimal."""
    return hashlib.sha256(storage.read(uri)).hexdigest()


def digest_entries(entries: Iterable[Entry]) -> str:
    """Return the SHA-256 over key, size and etag (else modification time) of listed files."""
    digest = hashlib.sha256()
    for entry in entries:
        made = entry.etag or entry.modified.isoformat()
        line = f"{entry.key}\0{entry.size}\0{made}\n"
        digest.update(line.encode("utf-8", "surrogatepass"))  # names may be no text
    return digest.hexdigest()


def library_versions() -> dict[str, str]:
    """Versions of satray, Python and the libraries that results depend on, by name."""
    ours = {"satray": __version__, "python": platform.python_version()}
    return ours | {library: version(library) for library in LIBRARIES}


def finite(value: Any) -> Any:
    """Return plain values with NaN and infinities, which JSON does not have, as None."""
    if isinstance(value, dict):
        return {str(name): finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def to_json(value: Any) -> bytes:
    """Return a value as indented JSON in UTF-8, with null where a figure is not defined."""
    return json.dumps(finite(value), indent=2, ensure_ascii=False, allow_nan=False).encode()


def to_parquet(table: "pa.Table") -> bytes:
    """Return a table as a Parquet file."""
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()
