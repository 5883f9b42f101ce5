"""`run.json`: what a finished run made. Its presence means complete; it is written last."""

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from satray.errors import InputError
from satray.runs.jsonable import to_json
from satray.storage import Storage, join

FILE = "run.json"


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
class RunRecord:
    """The content of `run.json`."""

    job: str
    """Name of the job."""
    run_id: str
    """Digest of configuration and inputs."""
    status: int
    """Exit status of the job: 0; 3 where more inputs failed than the budget allows; 1 where it came
    to a verdict."""
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
    counts: dict[str, int] = field(default_factory=dict)
    """What was counted (tiles, classes, failures, ...)."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """Headline figures."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Seconds by activity."""
    summary: tuple[str, ...] = ()
    """The lines that the job printed at its end."""
    products: tuple[Product, ...] = ()
    """Every file made, in path order."""
    verdict: str | None = None
    """The line that ended it with status 1; None where there is none."""

    def to_json(self) -> bytes:
        """Return the record as UTF-8 JSON; NaN becomes null."""
        return to_json(asdict(self))

    @classmethod
    def from_json(cls, data: bytes, source: str) -> "RunRecord":
        """Read a record.

        Raises:
            InputError: it is not a run.json.
        """
        try:
            tree = json.loads(data)
            products = tuple(Product(**item) for item in tree.pop("products"))
            return cls(**{**tree, "summary": tuple(tree["summary"]), "products": products})
        except (ValueError, TypeError, KeyError, AttributeError):
            raise InputError(f"{source}: not a run.json that satray wrote") from None


def read_run(storage: Storage, out: str) -> RunRecord:
    """Read the record of a finished run.

    Raises:
        InputError: there is none: the run is unfinished, or this is no run folder.
    """
    record = find_run(storage, out)
    if record is None:
        what = (
            "the run is unfinished: rerun its command"
            if storage.list(join(out, "state"))
            else "not a run folder"
        )
        raise InputError(f"{out}: no run.json ({what}); accepted: the `out` of a finished run")
    return record


def find_run(storage: Storage, out: str) -> RunRecord | None:
    """Read the record of a run where there is one."""
    uri = join(out, FILE)
    return RunRecord.from_json(storage.read(uri), uri) if storage.exists(uri) else None
