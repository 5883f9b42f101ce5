"""A scene through the pipeline: opened, read in parts, looked at, written.

Of a schedule it is claimed once it is open, and what is written stands under its final names only
while the claim does.
"""

import contextlib
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from satray.errors import DecodeError, SatrayError
from satray.models.spec import BundleSpec
from satray.score.ledger import Claim, Ledger
from satray.score.maps.assemble import Assembly
from satray.score.maps.deliver import Delivery, TakenOverError
from satray.score.maps.jobs import SceneItem, SceneJob, SceneResult, about, failed
from satray.score.maps.layout import Geometries, SceneLayout, layout_of, px_bytes, tiles_of
from satray.score.maps.overview import Seen, see
from satray.score.maps.settings import Settings
from satray.score.maps.survey import Surveyor, open_for, refuse_name
from satray.score.predictions import Layout
from satray.score.products.moment import stamp
from satray.score.results import WindowScores
from satray.score.scenes.open import CACHE, Scene
from satray.score.scenes.read import WindowPixels, read_window, with_fills
from satray.score.stages import Ended, Stages, Started
from satray.storage import Storage, join
from satray.storage.temporary import scratch

if TYPE_CHECKING:
    from satray.models.bundle import Bundle
    from satray.score.engines import EngineKey, PrecisionKey
    from satray.score.forward import Features

Windows = tuple[WindowPixels, ...]
"""What the network is shown of a part."""


@dataclass(frozen=True)
class PartSeen:
    """What was seen of a part beside the network."""

    windows: tuple[Seen, ...]
    """Window by window."""
    seconds: float
    """Of reading."""


@dataclass(frozen=True)
class PartScores:
    """What the network says of a part."""

    windows: tuple[WindowScores, ...]
    """Window by window."""
    seconds: float
    """Of computing."""


@dataclass(frozen=True)
class SceneStages(Stages[SceneItem, SceneJob, SceneResult | None]):
    """What is done with each scene of a run."""

    bundle: str
    """Bundle folder, or a train run's `out`."""
    spec: BundleSpec
    """The bundle's, as the driver saw it."""
    bias: tuple[float, ...]
    """(K,) of its head; empty where that is dense."""
    storage: Storage
    """How everything is reached."""
    out: str
    """The run folder."""
    state: str
    """Folder for what an unfinished run needs."""
    layout: Layout
    """Columns of tables."""
    settings: Settings
    """The recipe's."""
    geometries: Geometries
    """The network's."""
    engine: "EngineKey"
    """What computes features on CPUs."""
    precision: "PrecisionKey"
    """What in."""
    ledger: Ledger | None = None
    """Of a schedule."""

    def open(self, item: SceneItem) -> Started[SceneJob] | Ended[SceneResult | None]:
        """Open a scene, claim it, and read its first part.

        Gives None where another run has the scene; what a process of this run committed, which
        died before it could say so, as it was committed.
        """
        _bound_cache()
        surveyor = Surveyor(self.spec, self.settings, self.geometries)
        with contextlib.ExitStack() as ends:
            found: SceneJob | SceneResult
            try:
                refuse_name(item.ref.scene)
                scene = ends.enter_context(
                    open_for(item.ref, self.spec, self.settings, self.storage)
                )
                found = surveyor.look(scene, item.number, item.ref)
            except DecodeError as error:
                found = surveyor.refused(item.number, item.ref, "open", error)
            claim = None
            if self.ledger is not None and item.task is not None:
                task = item.task
                claim = self.ledger.claim(task.key, task.history, task.looked)
                if claim is None:
                    return Ended(None)
                if claim.committed is not None:
                    return Ended(self._committed(claim))
            if isinstance(found, SceneResult):
                self._give_up(claim, found)
                return Ended(found)
            job = replace(found, task=item.task, claim=claim)
            try:
                return Started(job, *self._read(scene, job, 0))
            except DecodeError as error:
                return Ended(self.failed(job, error))

    def read(self, job: SceneJob, part: int) -> tuple[Windows, PartSeen]:
        """Read another part.

        Raises:
            DecodeError: the scene cannot be read there.
        """
        _bound_cache()
        with open_for(job.ref, self.spec, self.settings, self.storage) as scene:
            return self._read(scene, job, part)

    def network(self, gpu: bool) -> "SceneNetwork":
        """Load the bundle.

        Raises:
            InputError: it is not the one that the driver saw.
        """
        from satray.score.engines import load_engine

        model_id, storage = self.layout.model_id, self.storage
        loaded = load_engine(self.bundle, model_id, storage, gpu, self.engine, self.precision)
        return SceneNetwork(self, loaded.bundle, loaded.features, loaded.engine)

    def write(
        self, job: SceneJob, parts: Iterable[tuple[PartSeen, PartScores]], engine: str
    ) -> SceneResult:
        """Put a scene together and publish it."""
        _bound_cache()
        try:
            return self._publish(job, parts, engine)
        except DecodeError as error:
            return self.failed(job, error)
        except TakenOverError as error:
            return self._taken(job, error)

    def unopened(self, item: SceneItem, error: DecodeError) -> SceneResult | None:
        """That a scene could not be opened: an attempt like any other, or it would end each run."""
        result = failed(item.number, item.ref, "open", error)
        if self.ledger is None or item.task is None:
            return result
        task = item.task
        claim = self.ledger.claim(task.key, task.history, task.looked)
        if claim is None:
            return None
        if claim.committed is not None:
            return self._committed(claim)
        self._give_up(claim, result)
        return result

    def failed(self, job: SceneJob, error: DecodeError) -> SceneResult:
        """That a scene could not be read, or not be written."""
        result = about(job, failed(job.number, job.ref, "read", error))
        self._give_up(job.claim, result)
        return result

    def result_uri(self, number: int) -> str:
        """Where the result of a scene of a run without a ledger is, once it is done."""
        return join(self.state, "results", f"{number:06d}.json")

    def layout_of(self, job: SceneJob) -> SceneLayout:
        """The windows of a scene, and its overview."""
        return layout_of(job.grid, job.mode, self.settings, self.geometries, self.spec.bands)

    def windows_of(self, job: SceneJob, part: int) -> range:
        """Numbers of the windows of a part."""
        size = px_bytes(job.grid, self.spec.bands, self.spec.dtype)
        return self.layout_of(job).parts(size, strips=job.strips)[part]

    def _read(self, scene: Scene, job: SceneJob, part: int) -> tuple[Windows, PartSeen]:
        begin = time.perf_counter()
        layout = self.layout_of(job)
        shown, seen = [], []
        for number in self.windows_of(job, part):
            window = layout.plan.windows[number]
            y, x = window.row.px.start, window.col.px.start
            pixels = read_window(scene, job.grid, x, y, window.width, window.height)
            if layout.plan.mode == "tiles":
                size = layout.plan.rows.size, layout.plan.cols.size
                tiles = tiles_of(window, layout.plan)
                pixels = with_fills(pixels, scene, job.grid, (y, x), tiles, size)
            seen.append(
                see(
                    layout.canvas, layout.coverage, pixels.pixels_CHW, pixels.valid_HW, (y, x),
                    layout.alone(number),
                )
            )  # fmt: skip
            shown.append(_packed(pixels))
        return tuple(shown), PartSeen(tuple(seen), time.perf_counter() - begin)

    def _publish(
        self, job: SceneJob, parts: Iterable[tuple[PartSeen, PartScores]], engine: str
    ) -> SceneResult:
        start, spent = time.perf_counter(), Counter[str]()
        assembly = Assembly(
            job, self.layout_of(job), self.settings, self.spec, self.layout, self.bias, engine
        )
        delivery = Delivery(self.storage, self.out, self.ledger)
        with scratch("scene") as folder:
            files, counts, notes = assembly.make(_windows(parts, spent), folder)
            products, entry = delivery.deliver(assembly, files, (*job.notes, *notes), job.claim)
        spent["writing"] = time.perf_counter() - start  # type: ignore[assignment]
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
            px=job.grid.height * job.grid.width,
            predicted=tuple(int(n) for n in counts.predicted),
            seconds={name: round(each, 3) for name, each in spent.items()},
            run_id=self.layout.run_id,
            engine=engine,
            bbox=tuple(entry.bbox or ()),
            times=tuple(stamp(each) for each in moment.span),
            products=products,
        )
        result = about(job, result)
        if job.claim is not None:
            delivery.commit(job.claim, result)
        else:
            self.storage.write(self.result_uri(job.number), result.to_json())
        return result

    def _give_up(self, claim: Claim | None, result: SceneResult) -> None:
        if self.ledger is not None and claim is not None:
            reason = f"{result.stage}: {result.error}"
            self.ledger.fail(claim, reason, retryable=result.retryable)

    def _committed(self, claim: Claim) -> SceneResult:
        assert claim.committed is not None
        return SceneResult.from_tree(claim.committed)

    def _taken(self, job: SceneJob, error: TakenOverError) -> SceneResult:
        """Of a scene that is another run's now; or this run's already, by a process that died."""
        assert self.ledger is not None
        assert job.claim is not None
        assert job.task is not None
        mine = self.ledger.claim(job.task.key, job.task.history, job.task.looked)
        if mine is not None and mine.committed is not None:
            return self._committed(mine)
        with contextlib.suppress(SatrayError):
            if self.ledger.stands(job.claim):
                self.ledger.release(job.claim)
        skipped = failed(job.number, job.ref, "score", error)
        return about(job, replace(skipped, status="skipped", stage=None))


class SceneNetwork:
    """A bundle over the windows of scenes."""

    def __init__(
        self, stages: SceneStages, bundle: "Bundle", features: "Features | None", engine: str
    ) -> None:
        """Prepare.

        Args:
            stages: of the run.
            bundle: on the device that is to compute.
            features: another way to the network's features.
            engine: what that is.
        """
        self.engine = engine
        self._stages, self._bundle, self._features = stages, bundle, features
        self._scorer: tuple[int, Any] | None = None

    def __call__(self, job: SceneJob, part: int, pixels: Windows) -> PartScores:
        """Look at a part.

        Raises:
            DecodeError: the network's output is not finite.
        """
        begin = time.perf_counter()
        plan = self._stages.layout_of(job).plan
        if self._scorer is None or self._scorer[0] != job.number:
            self._scorer = job.number, self._scorer_of(job)
        scorer, found = self._scorer[1], []
        for number, each in zip(self._stages.windows_of(job, part), pixels, strict=True):
            shown, window = _unpacked(each), plan.windows[number]
            fills = (shown.fills_NC,) if plan.mode == "tiles" else ()
            scores: WindowScores = scorer(shown.pixels_CHW, shown.measured_CHW, window, *fills)
            wrong = ~np.isfinite(scores.tiles.numbers.logits).all(axis=1) & scores.tiles.scored
            if wrong.any():
                raise DecodeError(f"the network's output is not finite for {wrong.sum()} tiles")
            found.append(scores)
        return PartScores(tuple(found), time.perf_counter() - begin)

    def _scorer_of(self, job: SceneJob) -> Any:
        from satray.score.dense.by_tile import TileScorer
        from satray.score.dense.forward import DenseScorer

        stages = self._stages
        plan, wanted = stages.layout_of(job).plan, stages.settings.wanted(self._bundle.spec)
        if plan.mode == "dense":
            return DenseScorer(self._bundle, plan, wanted, self._features)
        return TileScorer(self._bundle, plan, wanted, stages.settings.batch, self._features)


def _windows(
    parts: Iterable[tuple[PartSeen, PartScores]], spent: Counter[str]
) -> Iterator[tuple[Seen, WindowScores]]:
    """The windows of all parts in order; seconds are added up on the way."""
    for seen, scores in parts:
        spent["reading"] += seen.seconds  # type: ignore[assignment]
        spent["computing"] += scores.seconds  # type: ignore[assignment]
        yield from zip(seen.windows, scores.windows, strict=True)


def _packed(window: WindowPixels) -> WindowPixels:
    """A window as it travels: nothing in place of a mask that says only yes."""
    if (window.measured_CHW == 1).all():
        return replace(window, measured_CHW=np.ones((1, 1, 1), bool))
    return window


def _unpacked(window: WindowPixels) -> WindowPixels:
    """Undo `_packed`."""
    shape = window.pixels_CHW.shape
    return replace(window, measured_CHW=np.broadcast_to(window.measured_CHW, shape))


def _bound_cache() -> None:
    """Bound GDAL's cache before the first raster of this process."""
    os.environ.setdefault("GDAL_CACHEMAX", str(CACHE >> 20))
