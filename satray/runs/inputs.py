"""Digests of a job's inputs and of its configuration: the run id."""

import hashlib
import json
from collections.abc import Iterable
from typing import Any

from satray.config.base import Recipe
from satray.storage import Entry, Storage


def digest_file(storage: Storage, uri: str) -> str:
    """Return the SHA-256 of a file's bytes, hexadecimal."""
    return hashlib.sha256(storage.read(uri)).hexdigest()


def digest_entries(entries: Iterable[Entry]) -> str:
    """Return the SHA-256 over key, size and etag (else modification time) of listed files."""
    digest = hashlib.sha256()
    for entry in entries:
        version = entry.etag or entry.modified.isoformat()
        digest.update(f"{entry.key}\0{entry.size}\0{version}\n".encode())
    return digest.hexdigest()


def run_id(job: str, recipe: Recipe, inputs: dict[str, str]) -> str:
    """Return the run id: 12 hexadecimal digits of the SHA-256 of configuration and inputs."""
    whole: dict[str, Any] = {"job": job, "config": recipe.identity(), "inputs": inputs}
    text = json.dumps(whole, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
