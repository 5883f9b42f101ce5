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

from satray.config.score import EvaluateRecipe
from satray.data.index import TileIndex, unlike
from satray.errors import InputError, SatrayError
from satray.evaluate.quality import Gathered, Predicted
from satray.runs.run import RunRecord, library_versions, read_run
from satray.storage import CHANGED, Storage, join

CHECKED = 64
"""Most tiles whose files are looked at again."""
NAMED = 3
"""Tiles that a line names."""
NO_CAUSE = "no cause was found in bundle, data, library versions, device and recipe"
"""What is said where nothing is known to differ; that need not mean that nothing does."""


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
    differs: tuple[str, ...] = ()
    """What differs behind the logits, one line each; empty where nothing is known to."""

    @property
    def same(self) -> bool:
        """Whether both predicted the same tiles, all within the tolerance."""
        return not (self.over or self.only_here or self.only_there) and self.compared > 0

    def document(self) -> dict[str, Any]:
        """For metrics.json: tiles as their number."""
        plain = asdict(self) | {"same": self.same}
        return plain | {name: len(plain[name]) for name in ("over", "only_here", "only_there")}

    def line(self) -> str:
        """The verdict in one line."""
        if self.same:
            return (
                f"reproduces run {self.run_id}: {self.compared:,} tiles, logits differ by "
                f"{self.largest:.3g} at most (tolerance {self.tolerance:g})"
            )
        parts = ["no tile in both runs"] if self.compared == 0 else []
        if self.over:
            parts.append(
                f"{len(self.over):,} of {self.compared:,} tiles differ by more than "
                f"{self.tolerance:g}, at most by {self.largest:.3g} ({self.where})"
            )
        for ids, which in ((self.only_here, "this run"), (self.only_there, "the earlier run")):
            if ids:
                parts.append(f"{len(ids):,} tiles only in {which} ({_named(ids)})")
        causes = "; ".join(self.differs) or NO_CAUSE
        return f"does not reproduce run {self.run_id}: {'; '.join(parts)}. {causes}"


def compare(
    now: Predicted, then: Predicted, classes: Sequence[str], tolerance: float, run_id: str = ""
) -> Comparison:
    """Compare the logits of two runs by tile id; `differs` is left to the caller."""
    place = {name: i for i, name in enumerate(then.ids)}
    rows = [i for i, name in enumerate(now.ids) if name in place]
    both = [now.ids[i] for i in rows]
    largest, where = float("nan"), ""
    over: tuple[str, ...] = ()
    if both:
        apart_NK = np.abs(now.logits[rows] - then.logits[[place[name] for name in both]])
        tile, klass = np.unravel_index(int(apart_NK.argmax()), apart_NK.shape)
        largest = float(apart_NK[tile, klass])
        where = f"{classes[int(klass)]} of {both[int(tile)]}"
        far_N = ~(apart_NK <= tolerance).all(axis=1)  # so that NaN is far from everything
        over = tuple(both[i] for i in np.flatnonzero(far_N))
    here = set(now.ids)
    return Comparison(
        run_id=run_id,
        tolerance=tolerance,
        compared=len(both),
        largest=largest,
        where=where,
        over=over,
        only_here=tuple(name for name in now.ids if name not in place),
        only_there=tuple(name for name in then.ids if name not in here),
    )


def earlier(recipe: EvaluateRecipe, classes: Sequence[str], storage: Storage) -> RunRecord:
    """The record of the run to reproduce; only small files are read.

    Raises:
        InputError: no finished evaluate run, or one of other classes or of another split.
    """
    uri = str(recipe.reproduce)
    record = read_run(storage, uri)
    if record.job != "evaluate":
        raise InputError(f"reproduce={uri}: a run of {record.job}; accepted: of evaluate")
    split = record.config.get("split")
    if split != recipe.split:
        raise InputError(f"reproduce={uri}: predicted split {split}; give split={split}")
    if not any(product.path.startswith("predictions/") for product in record.products):
        raise InputError(f"reproduce={uri}: the run holds no predictions")
    theirs = read_document(uri, storage)["classes"]
    if theirs != list(classes):
        raise InputError(
            f"reproduce={uri}: its classes are {', '.join(theirs)}, the bundle's "
            f"{', '.join(classes)}"
        )
    return record


def read_document(uri: str, storage: Storage) -> dict[str, Any]:
    """The metrics.json of an evaluate run.

    Raises:
        InputError: it is none that satray wrote.
    """
    place = join(uri, "metrics.json")
    try:
        found = dict(json.loads(storage.read(place)))
        return found | {name: found[name] for name in ("classes", "bundle", "device")}
    except (ValueError, TypeError, KeyError):
        raise InputError(f"{place}: not a metrics.json that satray wrote") from None


def read_predicted(
    uri: str, record: RunRecord, classes: tuple[str, ...], storage: Storage
) -> Predicted:
    """What an evaluate run predicted."""
    gathered = Gathered(classes)
    for product in record.products:
        if product.path.startswith("predictions/"):
            gathered.add(pq.read_table(io.BytesIO(storage.read(join(uri, product.path)))))
    return gathered.predicted()


def causes(
    recipe: EvaluateRecipe,
    record: RunRecord,
    documents: tuple[Mapping[str, Any], Mapping[str, Any]],
    index: TileIndex,
    ids: Sequence[str],
    storage: Storage,
) -> tuple[str, ...]:
    """What is known to differ between an earlier run and this one, or could not be looked at.

    Args:
        recipe: this run's.
        record: the earlier run's.
        documents: `device` and `bundle` (SHA-256 by file) of this run, and of the earlier one.
        index: this run's split.
        ids: tiles that differ, or that one run only could predict.
        storage: where tiles are.
    """
    now, then = documents
    lines = []
    files = _differing(then["bundle"], now["bundle"])
    if files:
        same = "" if "model.safetensors" in files else "; the weights are the same"
        lines.append(f"bundle differs in {' and '.join(files)}{same}")
    theirs = record.inputs.get("index", "")
    if index.digest != theirs:
        lines.append(f"data differ: tile index {theirs[:12]} then, {index.digest[:12]} now")
    versions = _differing(record.versions, library_versions())
    if versions:
        lines.append(f"versions differ: {', '.join(f'{n} {v}' for n, v in versions.items())}")
    # a GPU that Ray had no name for may have been this one
    unnamed = "gpu" in (now["device"], then["device"]) and now["device"][:3] == then["device"][:3]
    settings = {"device": then["device"] if unnamed else now["device"]}
    settings |= {"symmetries": recipe.symmetries, "batch": recipe.batch}
    before = {name: record.config.get(name, then.get(name)) for name in settings}
    lines += [f"{name} differs: {said}" for name, said in _differing(before, settings).items()]
    try:
        lines += changed_files(index, ids, storage)
    except SatrayError as error:  # the figures count for more than the reasons
        lines.append(f"not everything could be looked at: {error}")
    return tuple(lines)


def changed_files(index: TileIndex, ids: Sequence[str], storage: Storage) -> list[str]:
    """Which of these tiles' files are no longer those that the index describes, in a line.

    Raises:
        SatrayError: the store fails.
    """
    mine = pc.is_in(index.table["tile_id"], value_set=pa.array(ids, pa.string()))
    rows = index.table.filter(mine)[:CHECKED]
    changed = [
        name if why.startswith(CHANGED) else f"{name} (cannot be read)"
        for name, why in unlike(rows, storage)
    ]
    if not changed:
        return []
    return [
        f"files differ from the tile index: {len(changed)} of {len(rows)} tiles looked at "
        f"({_named(changed)})"
    ]


def _differing(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, str]:
    """`A then, B now` by name, of what is not the same."""
    return {
        name: f"{then.get(name, 'absent')} then, {now.get(name, 'absent')} now"
        for name in sorted(then.keys() | now.keys())
        if then.get(name) != now.get(name)
    }


def _named(ids: Sequence[str]) -> str:
    return ", ".join(ids[:NAMED]) + (", ..." if len(ids) > NAMED else "")
