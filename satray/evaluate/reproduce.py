"""Does a split score as it did before? All logits, tile by tile, and what differs behind them.

The report's own routine looked at one tile and at signed sums, which cancel; here every logit
counts, matched by tile id.
"""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from satray.config.score import EvaluateRecipe
from satray.errors import InputError
from satray.runs.run import RunRecord, read_run
from satray.scoring.predictions import OK, matrix
from satray.storage import Storage, join

NAMED = 3
"""Tiles that a line names."""
NO_CAUSE = "no cause was found in bundle, data, library versions, device and recipe"
"""What is said where nothing is known to differ; that need not mean that nothing does."""


@dataclass(frozen=True)
class Logits:
    """Logits of a split by tile id."""

    ids: tuple[str, ...]
    """N tile ids."""
    values: NDArray[np.float64]
    """(N, K) raw, in the order of the classes."""
    model_id: str
    """The bundle's id."""


@dataclass(frozen=True)
class Earlier:
    """A finished evaluate run that is to be reproduced."""

    record: RunRecord
    """Its run.json."""
    told: Mapping[str, Any]
    """Its metrics.json."""
    classes: tuple[str, ...]
    """Its classes."""
    logits: Logits
    """What it predicted."""


@dataclass(frozen=True)
class Comparison:
    """This run beside an earlier one."""

    run_id: str
    """The earlier run's id."""
    tolerance: float
    """Largest difference allowed."""
    compared: int
    """Tiles that both runs predicted."""
    largest: float
    """Largest |difference| of a logit; NaN where one is NaN, or nothing was compared."""
    where: str
    """Tile and class of the largest difference."""
    over: tuple[str, ...]
    """Ids of the tiles with a difference over the tolerance."""
    only_here: tuple[str, ...]
    """Tile ids that only this run predicted."""
    only_there: tuple[str, ...]
    """Tile ids that only the earlier run predicted."""
    differs: tuple[str, ...]
    """What differs behind the logits, one line each; empty where nothing is known to."""

    @property
    def same(self) -> bool:
        """Whether both predicted the same tiles, all within the tolerance."""
        return not (self.over or self.only_here or self.only_there) and self.compared > 0

    def document(self) -> dict[str, Any]:
        """For metrics.json."""
        plain = asdict(self) | {"same": self.same}
        for name in ("over", "only_here", "only_there"):
            plain[name] = len(plain[name])
        return plain

    def line(self) -> str:
        """The verdict in one line."""
        parts = []
        if self.compared == 0:
            parts.append("no tile in both runs")
        elif self.over:
            parts.append(
                f"{len(self.over):,} of {self.compared:,} tiles differ by more than "
                f"{self.tolerance:g}, at most by {self.largest:.3g} ({self.where})"
            )
        for ids, which in ((self.only_here, "this run"), (self.only_there, "the earlier run")):
            if ids:
                named = ", ".join(ids[:NAMED]) + (", ..." if len(ids) > NAMED else "")
                parts.append(f"{len(ids):,} tiles only in {which} ({named})")
        if not parts:
            return (
                f"reproduces run {self.run_id}: {self.compared:,} tiles, logits differ by "
                f"{self.largest:.3g} at most (tolerance {self.tolerance:g})"
            )
        causes = "; ".join(self.differs) or NO_CAUSE
        return f"does not reproduce run {self.run_id}: {'; '.join(parts)}. {causes}"


def compare(now: Logits, before: Logits, classes: Sequence[str], tolerance: float) -> Comparison:
    """Compare logits by tile id; `run_id` and `differs` are left to the caller."""
    here, there = set(now.ids), set(before.ids)
    place = {name: i for i, name in enumerate(before.ids)}
    rows = [i for i, name in enumerate(now.ids) if name in there]
    largest, where = float("nan"), ""
    over: tuple[str, ...] = ()
    if rows:
        theirs_NK = before.values[[place[now.ids[i]] for i in rows]]
        with np.errstate(invalid="ignore"):
            apart_NK = np.abs(now.values[rows] - theirs_NK)
        tile, klass = np.unravel_index(int(apart_NK.argmax()), apart_NK.shape)
        largest = float(apart_NK[tile, klass])
        where = f"{classes[int(klass)]} of {now.ids[rows[int(tile)]]}"
        far_N = ~(apart_NK <= tolerance).all(axis=1)  # so that NaN is far from everything
        over = tuple(now.ids[rows[i]] for i in np.flatnonzero(far_N))
    return Comparison(
        run_id="",
        tolerance=tolerance,
        compared=len(rows),
        largest=largest,
        where=where,
        over=over,
        only_here=tuple(name for name in now.ids if name not in there),
        only_there=tuple(name for name in before.ids if name not in here),
        differs=(),
    )


def earlier(recipe: EvaluateRecipe, classes: Sequence[str], storage: Storage) -> RunRecord:
    """The record of the run to reproduce.

    Raises:
        InputError: no finished evaluate run, or one of other classes or of another split.
    """
    uri = recipe.reproduce
    assert uri is not None
    record = read_run(storage, uri)
    if record.job != "evaluate":
        raise InputError(f"reproduce={uri}: a run of {record.job}; accepted: of evaluate")
    split = record.config.get("split")
    if split != recipe.split:
        raise InputError(f"reproduce={uri}: predicted split {split}; give split={split}")
    if not _parts(record):
        raise InputError(f"reproduce={uri}: the run holds no predictions")
    theirs = _told(storage, uri).get("classes", [])
    if theirs != list(classes):
        raise InputError(
            f"reproduce={uri}: its classes are {', '.join(theirs)}, the bundle's "
            f"{', '.join(classes)}"
        )
    return record


def read_earlier(recipe: EvaluateRecipe, classes: Sequence[str], storage: Storage) -> Earlier:
    """All of the run to reproduce.

    Raises:
        InputError: see `earlier`.
    """
    record = earlier(recipe, classes, storage)
    uri = str(recipe.reproduce)
    logits = read_logits(storage, uri, record, classes)
    return Earlier(record, _told(storage, uri), tuple(classes), logits)


def _told(storage: Storage, uri: str) -> dict[str, Any]:
    """What an evaluate run told of itself: its metrics.json, which is small."""
    place = join(uri, "metrics.json")
    try:
        return dict(json.loads(storage.read(place)))
    except (ValueError, TypeError):
        raise InputError(f"{place}: not a metrics.json that satray wrote") from None


def read_logits(storage: Storage, uri: str, record: RunRecord, classes: Sequence[str]) -> Logits:
    """Logits of a finished run."""
    columns = ["tile_id", "status", "model_id", *(f"logit_{name}" for name in classes)]
    tables = [
        pq.read_table(io.BytesIO(storage.read(join(uri, part))), columns=columns)
        for part in _parts(record)
    ]
    return logits_of(pa.concat_tables(tables), classes)


def logits_of(table: pa.Table, classes: Sequence[str]) -> Logits:
    """Logits of the tiles of a predictions table that did not fail."""
    good = table.filter(pc.equal(table.column("status"), OK))
    models = pc.unique(table.column("model_id")).to_pylist()
    return Logits(
        tuple(good.column("tile_id").to_pylist()),
        matrix(good, "logit", classes),
        ", ".join(models),
    )


def _parts(record: RunRecord) -> list[str]:
    return [p.path for p in record.products if p.path.startswith("predictions/")]
