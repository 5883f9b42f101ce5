"""What the train run that made a bundle tells of it, where the bundle still lies in its run."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from satray.errors import InputError
from satray.runs.run import RunRecord, find_run
from satray.storage import Storage, join, parent


@dataclass(frozen=True)
class Origin:
    """A finished train run."""

    record: RunRecord
    """Its run.json."""
    metrics: Mapping[str, Any]
    """Its metrics.json; empty where there is none."""
    curves: bytes | None
    """Its curves.png: losses, headline metric and learning rate against samples seen."""


def find_origin(bundle: str, storage: Storage) -> Origin | None:
    """The run whose `out`, or whose `bundle/`, this is; None for a bundle that stands alone."""
    for folder in (bundle, parent(bundle)):
        try:
            record = find_run(storage, folder)
        except InputError:
            continue
        if record is not None and any(p.path.startswith("bundle/") for p in record.products):
            there = {product.path for product in record.products}
            metrics = (
                storage.read(join(folder, "metrics.json")) if "metrics.json" in there else b"{}"
            )
            curves = storage.read(join(folder, "curves.png")) if "curves.png" in there else None
            return Origin(record, json.loads(metrics), curves)
    return None
