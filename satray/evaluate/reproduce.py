"""Does a split score as it did before? All logits, tile by tile, and what differs behind them.

The Planet report's own routine looked at one tile and at signed sums, which cancel; here every
logit counts, matched by tile id.
"""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from satray.config.score import EvaluateRecipe
from satray.errors import InputError, counted, listed
from satray.evaluate.quality import Gathered, Predicted
from satray.runs.run import RunRecord, library_versions, read_run
from satray.storage import Storage, join

NO_CAUSE = "no cause was found in bundle, index, library versions, device and recipe"
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
                f"reproduces run {self.run_id}: {counted(self.compared, 'tile')}, logits differ by "
                f"{self.largest:.3g} at most (tolerance {self.tolerance:g})"
            )
        parts = ["no tile in both runs"] if self.compared == 0 else []
        if self.over:
            parts.append(
                f"{len(self.over):,} of {counted(self.compared, 'tile')} differ by more than "
                f"{self.tolerance:g}, at most by {self.largest:.3g} ({self.where})"
            )
        for ids, where in (
            (self.only_here, "this run"),
            (self.only_there, "the earlier run: this one's failures.parquet says why"),
        ):
            if ids:
                parts.append(f"{counted(len(ids), 'tile')} ({listed(ids, 3)}) only in {where}")
        causes = "; ".join(self.differs) or NO_CAUSE
        return f"does not reproduce run {self.run_id}: {'; '.join(parts)}. {causes}"


def compare(
    now: Predicted, then: Predicted, classes: Sequence[str], tolerance: float, run_id: str = ""
) -> Comparison:
    """Compare the logits of two runs by tile id; `differs` is left to the caller."""
    place = {name: i for i, name in enumerate(then.ids)}
    rows = [i for i, name in enumerate(now.ids) if name in place]
    both, here = [now.ids[i] for i in rows], set(now.ids)
    largest, where = float("nan"), ""
    over: tuple[str, ...] = ()
    if both:
        apart_NK = np.abs(now.logits[rows] - then.logits[[place[name] for name in both]])
        tile, klass = np.unravel_index(int(apart_NK.argmax()), apart_NK.shape)
        largest, where = float(apart_NK[tile, klass]), f"{classes[int(klass)]} of {both[int(tile)]}"
        far_N = ~(apart_NK <= tolerance).all(axis=1)  # so that NaN is far from everything
        over = tuple(both[i] for i in np.flatnonzero(far_N))
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


@dataclass(frozen=True)
class Earlier:
    """A finished evaluate run, to be compared with."""

    uri: str
    """Its folder."""
    record: RunRecord
    """Its run.json."""
    document: Mapping[str, Any]
    """Its metrics.json."""

    def predicted(self, storage: Storage) -> Predicted:
        """What it predicted."""
        gathered = Gathered(tuple(self.document["classes"]))
        for product in self.record.products:
            if product.path.startswith("predictions/"):
                data = storage.read(join(self.uri, product.path))
                file = pq.ParquetFile(io.BytesIO(data))
                for group in range(file.num_row_groups):  # a large split's table is never whole
                    gathered.add(file.read_row_group(group))
        return gathered.predicted()


def earlier(recipe: EvaluateRecipe, classes: Sequence[str], storage: Storage) -> Earlier:
    """Find the run to reproduce; only small files are read.

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
    place = join(uri, "metrics.json")
    try:
        document = json.loads(storage.read(place))
        theirs, _, _ = (document[name] for name in ("classes", "bundle", "device"))
    except (ValueError, TypeError, KeyError):
        raise InputError(f"{place}: not a metrics.json that satray wrote") from None
    if theirs != list(classes):
        raise InputError(
            f"reproduce={uri}: its classes are {', '.join(theirs)}, the bundle's "
            f"{', '.join(classes)}"
        )
    return Earlier(uri, record, document)


def causes(
    recipe: EvaluateRecipe, before: Earlier, document: Mapping[str, Any], digest: str
) -> tuple[str, ...]:
    """What is known to differ between an earlier run and this one, a line each.

    Tiles whose files changed are no cause: they are failed tiles, and only in the earlier run.

    Args:
        recipe: this run's.
        before: the earlier run.
        document: `device` and `bundle` (SHA-256 by file) of this run.
        digest: SHA-256 of this run's index.
    """

    def facts(
        document: Mapping[str, Any], digest: str, versions: dict[str, str], config: dict[str, Any]
    ) -> dict[str, Any]:
        files = {f"the bundle's {name}": one[:12] for name, one in document["bundle"].items()}
        rest = {"tile index": digest[:12], **versions, "device": document["device"]}
        return files | rest | {name: config.get(name) for name in ("symmetries", "batch")}

    record = before.record
    then = facts(before.document, record.inputs.get("index", ""), record.versions, record.config)
    now = facts(document, digest, library_versions(), recipe.model_dump(mode="json"))
    return tuple(
        f"{name} differs: {then.get(name, 'absent')} then, {now.get(name, 'absent')} now"
        for name in dict.fromkeys((*now, *then))
        if then.get(name) != now.get(name)
    )
