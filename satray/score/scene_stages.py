"""A scene through the pipeline: opened, read in parts, looked at, written.

Of a schedule it is claimed before it is opened: one that kills its process would end every run.
What is written stands under its final names only while the claim does.
"""

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from satray.errors import DecodeError, SatrayError, counted
from satray.runs.run import Product, write_product
from satray.score.assemble import Assembly
from satray.score.layout import Seen
from satray.score.ledger import Claim, Ledger
from satray.score.predictions import Layout
from satray.score.products.catalogue import MadeFile, item_of, stamp, to_bytes
from satray.score.products.names import product_path
from satray.score.results import SceneItem, SceneJob, SceneResult, WindowScores, failed
from satray.score.scenes.find import SceneRef, etag_of, uris_of
from satray.score.scenes.open import Scene, bound_cache
from satray.score.scenes.read import WindowPixels, read_window, with_fills
from satray.score.stages import Ended, Stages, Started
from satray.score.survey import Scoring
from satray.score.windows import ScenePlan
from satray.storage import Storage, join
from satray.storage.temporary import scratch

if TYPE_CHECKING:
    import pystac

    from satray.models.bundle import Bundle
    from satray.score.engines import EngineKey
    from satray.score.forward import Features

TAKEN_OVER = "another run has taken it over"
Windows = tuple[WindowPixels, ...]
"""What the network is shown of a part, window by window."""
PartSeen = tuple[Seen, ...]
"""What else was seen of it."""
PartScores = tuple[WindowScores, ...]
"""What the network says of it."""


class TakenOverError(SatrayError):
    """The scene is no longer this run's to publish; the message says why."""


@dataclass(frozen=True)
class SceneStages(Stages[SceneItem, SceneJob, SceneResult | None]):
    """What is done with each scene of a run."""

    scoring: Scoring
    """How scenes are scored."""
    bias: tuple[float, ...]
    """(K,) of the bundle's head; empty where that is dense."""
    storage: Storage
    """How everything is reached."""
    out: str
    """The run folder."""
    state: str
    """Folder for what an unfinished run needs."""
    layout: Layout
    """Columns of tables."""
    engine: "EngineKey"
    """What computes features on CPUs."""
    ledger: Ledger | None = None
    """Of a schedule."""

    def open(self, item: SceneItem) -> Started[SceneJob] | Ended[SceneResult | None]:
        """Claim a scene, open it, and read its first part.

        Gives None where another run has the scene; what a process of this run committed, which
        died before it could say so, as it was committed.
        """
        ended, claim = self._claim(item)
        if ended is not None:
            return ended
        with contextlib.ExitStack() as ends:
            found: SceneJob | SceneResult
            try:
                scene = ends.enter_context(self._open(item.ref))
                found = self.scoring.look(scene, item.number, item.ref)
            except DecodeError as error:
                found = failed(item.number, item.ref, "open", error)
            if isinstance(found, SceneResult):
                self._give_up(claim, found)
                return Ended(found)
            job = replace(found, claim=claim)
            try:
                return Started(job, *self._read(scene, job, 0))
            except DecodeError as error:
                return Ended(self.failed(job, error, "read"))

    def read(self, job: SceneJob, part: int) -> tuple[Windows, PartSeen]:
        """Read another part.

        Raises:
            DecodeError: the scene cannot be read there.
        """
        with self._open(job.ref) as scene:
            return self._read(scene, job, part)

    def network(self, gpu: bool) -> "tuple[SceneNetwork, str]":
        """Load the bundle, and say what computes its features.

        Raises:
            InputError: it is not the one that the driver saw.
        """
        from satray.score.engines import load_engine

        recipe, of = self.scoring.recipe, (self.layout.model_id, self.storage)
        loaded = load_engine(recipe.bundle, *of, gpu, self.engine, recipe.precision)
        return SceneNetwork(self.scoring, loaded.bundle, loaded.features), loaded.engine

    def write(
        self, job: SceneJob, parts: Iterable[tuple[PartSeen, PartScores]], engine: str
    ) -> SceneResult:
        """Put a scene together and publish it."""
        bound_cache()
        try:
            return self._publish(job, parts, engine)
        except DecodeError as error:
            return self.failed(job, error, "write")
        except TakenOverError as error:
            return self._taken(job, error)

    def unopened(self, item: SceneItem, error: DecodeError) -> SceneResult | None:
        """That a scene could not be opened: an attempt like any other, or it would end each run."""
        ended, claim = self._claim(item)
        if ended is not None:
            return ended.result
        result = failed(item.number, item.ref, "open", error)
        self._give_up(claim, result)
        return result

    def failed(self, job: SceneJob, error: DecodeError, kind: str) -> SceneResult:
        """That a scene could not be read, or what came of it not be made or written."""
        stage = "read" if kind == "read" else "score"
        result = self._about(job, failed(job.number, job.ref, stage, error))
        self._give_up(job.claim, result)
        return result

    def result_uri(self, number: int) -> str:
        """Where the result of a scene of a run without a ledger is, once it is done."""
        return join(self.state, "results", f"{number:06d}.json")

    def _about(self, job: SceneJob, result: SceneResult) -> SceneResult:
        """A result with what the job knows of its scene."""
        return replace(
            result,
            mode=self.scoring.mode,
            why=self.scoring.why,
            drift=job.drift,
            notes=(*job.notes, *result.notes),
            height=job.grid.extent.height,
            width=job.grid.extent.width,
            crs=job.grid.extent.crs,
        )

    def _open(self, ref: SceneRef) -> Scene:
        return self.scoring.open(ref, self.storage)

    def _claim(self, item: SceneItem) -> tuple[Ended[SceneResult | None] | None, Claim | None]:
        """Of a schedule, claim a scene; or how it ends, where this run is not to score it."""
        if self.ledger is None or item.task is None:
            return None, None
        claim = self.ledger.claim(item.task)
        if claim is None:
            return Ended(None), None
        if claim.committed is not None:
            return Ended(SceneResult.read(claim.committed, claim.key.path)), None
        return None, claim

    def _give_up(self, claim: Claim | None, result: SceneResult) -> None:
        if self.ledger is not None and claim is not None:
            reason = f"{result.stage}: {result.error}"
            self.ledger.fail(claim, reason, retryable=result.retryable)

    def _read(self, scene: Scene, job: SceneJob, part: int) -> tuple[Windows, PartSeen]:
        layout = self.scoring.layout(job.grid)
        shown, seen = [], []
        for number in self.scoring.parts(job.grid)[part]:
            window = layout.plan.windows[number]
            y, x = window.row.px.start, window.col.px.start
            pixels = read_window(scene, job.grid, x, y, window.width, window.height)
            if layout.plan.mode == "tiles":
                size = layout.plan.rows.size, layout.plan.cols.size
                tiles = layout.plan.places(window)
                pixels = with_fills(pixels, scene, job.grid, (y, x), tiles, size)
            seen.append(layout.see(number, pixels.pixels_CHW, pixels.valid_HW))
            shown.append(pixels)
        return tuple(shown), tuple(seen)

    def _publish(
        self, job: SceneJob, parts: Iterable[tuple[PartSeen, PartScores]], engine: str
    ) -> SceneResult:
        layout = self.scoring.layout(job.grid)
        assembly = Assembly(job, layout, self.scoring, self.layout, self.bias, engine)
        with scratch("scene") as folder:
            windows = (pair for part in parts for pair in zip(*part, strict=True))
            files, counts, notes = assembly.make(windows, folder)
            products, entry = self._deliver(assembly, files, (*job.notes, *notes))
        moment = assembly.moment
        at = moment.at or moment.start
        result = SceneResult(
            job.number,
            job.ref.scene,
            job.ref.uri,
            "done",
            notes=tuple(notes),
            taken=f"{at:%Y-%m-%d %H:%M} ({moment.source})" if at else moment.source,
            tiles=counts.tiles,
            nodata=counts.nodata,
            detections=counts.detections,
            predicted=counts.predicted,
            run_id=self.layout.run_id,
            engine=engine,
            bbox=tuple(entry.bbox or ()),
            times=tuple(stamp(each) for each in moment.span),
            products=products,
        )
        result = self._about(job, result)
        if self.ledger is None or job.claim is None:
            self.storage.write(self.result_uri(job.number), result.to_json())
        elif not self.ledger.commit(job.claim, asdict(result)):
            raise TakenOverError(TAKEN_OVER)
        return result

    def _deliver(
        self, assembly: Assembly, files: Sequence[MadeFile], notes: Sequence[str]
    ) -> tuple[tuple[Product, ...], "pystac.Item"]:
        """Write all products of a scene, its catalogue entry last, and return them and it.

        Raises:
            TakenOverError: another run has the scene now, or its provider changed it.
        """
        job = assembly.job
        claim = job.claim
        if claim is not None and not self._unchanged(job.ref):
            raise TakenOverError("its provider changed it while it was scored")
        scene, made = job.ref.scene, list[tuple[MadeFile, Product]]()
        for file in files:
            made.append((file, self._put(file, scene, claim)))
            if isinstance(file.source, Path):
                file.source.unlink()  # the disk holds one large file less
        more = {
            "satray:mode": self.scoring.mode,
            "satray:engine": assembly.engine,
            "satray:drift": None if job.drift is None else round(job.drift, 4),
            "satray:notes": list(notes),
            "satray:scale": [job.grid.scale_x, job.grid.scale_y],
        }
        entry = item_of(
            job.grid.extent,
            assembly.moment,
            claim.task.looked
            if claim is not None
            else datetime.now(UTC),  # done twice, the same bytes
            uris_of(job.ref),
            assembly.layout,
            made,
            job.ref.uri if job.ref.item is not None and job.ref.uri.endswith("json") else None,
            {name: value for name, value in more.items() if value is not None},
        )
        own = self._put(MadeFile("item", to_bytes(entry)), scene, claim)
        return (*(product for _, product in made), own), entry

    def _put(self, file: MadeFile, scene: str, claim: Claim | None) -> Product:
        if claim is not None and self.ledger is not None and not self.ledger.stands(claim):
            raise TakenOverError(TAKEN_OVER)
        path = product_path(file.kind, scene, file.tower)
        return write_product(self.storage, self.out, path, file.source, file.rows)

    def _unchanged(self, ref: SceneRef) -> bool:
        """Whether a scene's files are those that were listed."""
        try:
            files = [self.storage.head(uri) for uri in ref.files]
        except SatrayError:
            return False
        return etag_of(files, ref) == ref.etag

    def _taken(self, job: SceneJob, error: TakenOverError) -> SceneResult:
        """Of a scene that is another run's now; or this run's already, by a process that died."""
        assert self.ledger is not None
        assert job.claim is not None
        mine = self.ledger.claim(job.claim.task)
        if mine is not None and mine.committed is not None:
            return SceneResult.read(mine.committed, mine.key.path)
        with contextlib.suppress(SatrayError):
            if self.ledger.stands(job.claim):
                self.ledger.release(job.claim)
        skipped = failed(job.number, job.ref, "score", error)
        return self._about(job, replace(skipped, status="skipped", stage=None))


class SceneNetwork:
    """A bundle over the windows of scenes."""

    def __init__(self, scoring: Scoring, bundle: "Bundle", features: "Features | None") -> None:
        """Prepare.

        Args:
            scoring: how scenes are scored.
            bundle: on the device that is to compute.
            features: another way to the network's features.
        """
        self._scoring, self._bundle, self._features = scoring, bundle, features
        self._scorer: tuple[int, Any] | None = None

    def __call__(self, job: SceneJob, part: int, pixels: Windows) -> PartScores:
        """Look at a part.

        Raises:
            DecodeError: the network's output is not finite.
        """
        plan = self._scoring.layout(job.grid).plan
        if self._scorer is None or self._scorer[0] != job.number:
            self._scorer = job.number, self._scorer_of(plan)
        scorer, found = self._scorer[1], []
        numbers = self._scoring.parts(job.grid)[part]
        for number, shown in zip(numbers, pixels, strict=True):
            window = plan.windows[number]
            fills = (shown.fills_NC,) if plan.mode == "tiles" else ()
            scores: WindowScores = scorer(shown.pixels_CHW, shown.measured_CHW, window, *fills)
            wrong = ~np.isfinite(scores.numbers.logits).all(axis=1) & scores.scored
            if wrong.any():
                tiles = counted(int(wrong.sum()), "tile")
                raise DecodeError(f"the network's output is not finite for {tiles}")
            found.append(scores)
        return tuple(found)

    def _scorer_of(self, plan: ScenePlan) -> Any:
        from satray.score.window_forward import DenseScorer, TileScorer

        recipe = self._scoring.recipe
        given = self._bundle, plan, self._scoring.computed, recipe.min_valid
        if plan.mode == "dense":
            return DenseScorer(*given, features=self._features)
        return TileScorer(*given, batch=recipe.batch, features=self._features)
