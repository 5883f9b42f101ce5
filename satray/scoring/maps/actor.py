"""One process's part: score units of scenes, and put a scene together when its last is done.

A scene of one unit is put together at once. Of several units each leaves a file; whoever finds
all of them there, and is the first to say so, puts the scene together.
"""

import contextlib
import json
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from satray.block_pool import Report, Row
from satray.errors import DecodeError, InputError, SatrayError
from satray.models.bundle import load_bundle
from satray.scoring.cpu import CpuFeatures, EngineKey, engine_line
from satray.scoring.ledger import Claim, Ledger
from satray.scoring.maps.assemble import Assembly
from satray.scoring.maps.deliver import Delivery, TakenOverError
from satray.scoring.maps.jobs import SceneJob, SceneResult, about, failed, from_row
from satray.scoring.maps.piece import PieceOfWork, from_bytes, to_bytes
from satray.scoring.maps.plan import Geometries
from satray.scoring.maps.settings import Settings
from satray.scoring.maps.survey import open_for
from satray.scoring.maps.unit import UnitScorer
from satray.scoring.predictions import Layout
from satray.scoring.products.stac import ModelFacts
from satray.scoring.scenes.raster import CACHE
from satray.storage import Storage, join
from satray.storage.temporary import scratch


@dataclass(frozen=True)
class MapTask:
    """What every actor needs; pickles small."""

    bundle: str
    """Bundle folder, or a train run's `out`."""
    model: ModelFacts
    """The bundle as the driver saw it."""
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
    engine: EngineKey
    """What computes features on CPUs."""
    ledger: Ledger | None = None
    """Of a schedule."""

    def folder(self, number: int) -> str:
        """Where the pieces of a scene are."""
        return join(self.state, "pieces", f"{number:06d}")

    def result(self, number: int) -> str:
        """Where a scene's result is, once it is done."""
        return join(self.state, "results", f"{number:06d}.json")


FAILED, ASSEMBLING = "failed.json", "assembling.json"
"""Names among a scene's pieces."""


def piece_name(job: SceneJob, unit: int) -> str:
    """Name of a unit's file; another cut has other names."""
    return f"{job.way.mode}-{unit:05d}-of-{len(job.way.units):05d}.npz"


class Work:
    """Holds the bundle; does a unit a call."""

    def __init__(self, task: MapTask, gpu: bool) -> None:
        os.environ.setdefault("GDAL_CACHEMAX", str(CACHE >> 20))
        bundle = load_bundle(task.bundle, task.storage, "cuda" if gpu else "cpu")
        if bundle.model_id != task.model.model_id:
            raise InputError(
                f"bundle={task.bundle}: changed while the job was running "
                f"({task.model.model_id} -> {bundle.model_id}); rerun"
            )
        features = None if gpu else CpuFeatures(bundle, task.engine)
        self._engine = engine_line(features)
        self._task, self._bundle = task, bundle
        self._scorer = UnitScorer(bundle, task.settings, task.geometries, features)
        self._delivery = Delivery(task.storage, task.out, task.model, task.ledger)
        linear = bundle.spec.variant.head == "linear"
        self._bias: tuple[float, ...] = ()
        if linear:
            self._bias = tuple(bundle.network.get_parameter("head.bias").float().tolist())

    def __call__(self, row: Row) -> Report:
        """Do a unit; `result` of the report is the scene's, where that came to an end by it."""
        job, unit = from_row(row)
        report: Report = {
            "number": job.number,
            "unit": unit,
            "px": 0,
            "seconds": {},
            "engine": self._engine,
        }
        ledger, claim = self._task.ledger, None
        if ledger is not None and job.task is not None:
            claim = ledger.claim(job.task.key, job.task.history, job.task.looked)
            if claim is None:
                return {**report, "elsewhere": True}
            if claim.committed is not None:  # this process's forerunner died after its commit
                return {**report, "result": SceneResult.from_tree(claim.committed)}
        try:
            report["result"] = self._unit(job, unit, report, claim)
        except TakenOverError as error:
            with contextlib.suppress(SatrayError):
                if ledger is not None and claim is not None and ledger.stands(claim):
                    ledger.release(claim)
            skipped = failed(job.number, job.ref, "score", error)
            report["result"] = about(job, replace(skipped, status="skipped", stage=None))
        except DecodeError as error:
            result = about(job, failed(job.number, job.ref, "read", error))
            if len(job.way.units) > 1:
                place = join(self._task.folder(job.number), FAILED)
                self._task.storage.write(place, result.to_json())
            if ledger is not None and claim is not None:
                ledger.fail(claim, f"{result.stage}: {result.error}", retryable=result.retryable)
            report["result"] = result
        return report

    def _unit(
        self, job: SceneJob, unit: int, report: Report, claim: Claim | None
    ) -> SceneResult | None:
        storage, count = self._task.storage, len(job.way.units)
        ready = self._task.result(job.number)
        if storage.exists(ready):  # this process's forerunner died between that and its report
            return SceneResult.from_json(storage.read(ready), ready)
        if count == 1:
            piece = self._score(job, unit)
            report["px"], report["seconds"] = piece.px, dict(piece.seconds)
            return self._assemble(job, [piece], report, claim)
        folder = self._task.folder(job.number)
        if storage.exists(join(folder, FAILED)):
            return None
        place = join(folder, piece_name(job, unit))
        if not storage.exists(place):
            piece = self._score(job, unit)
            report["px"], report["seconds"] = piece.px, dict(piece.seconds)
            start = time.perf_counter()
            storage.write(place, to_bytes(piece))
            report["seconds"]["writing"] = time.perf_counter() - start
            del piece
        if not self._turn(job, unit, folder):
            return None
        result = self._assemble(job, self._pieces(job, folder), report, claim)
        storage.delete(folder)
        return result

    def _score(self, job: SceneJob, unit: int) -> PieceOfWork:
        spec, settings = self._bundle.spec, self._task.settings
        with open_for(job.ref, spec, settings, self._task.storage) as scene:
            return self._scorer(scene, job, unit)

    def _turn(self, job: SceneJob, unit: int, folder: str) -> bool:
        """Whether all pieces are there, and it is this unit's turn to put them together."""
        storage = self._task.storage
        there = {entry.key for entry in storage.list(folder)}
        if not {piece_name(job, n) for n in range(len(job.way.units))} <= there:
            return False
        mark = join(folder, ASSEMBLING)
        try:
            storage.write(mark, json.dumps(unit).encode(), if_absent=True)
        except FileExistsError:
            return bool(json.loads(storage.read(mark)) == unit)
        return True

    def _pieces(self, job: SceneJob, folder: str) -> Iterator[PieceOfWork]:
        for unit in range(len(job.way.units)):
            place = join(folder, piece_name(job, unit))
            yield from_bytes(self._task.storage.read(place), place)

    def _assemble(
        self, job: SceneJob, pieces: Iterable[PieceOfWork], report: Report, claim: Claim | None
    ) -> SceneResult:
        task, start = self._task, time.perf_counter()
        spent = Counter[str]()
        layouts = self._scorer.layouts(job)
        assembly = Assembly(
            job, layouts, task.settings, self._bundle.spec, task.layout, self._bias, self._engine
        )
        with scratch("scene") as folder:
            files, counts, notes = assembly.make(_timed(pieces, spent), folder)
            made = time.perf_counter()
            told = (*job.notes, *notes)
            products = self._delivery.deliver(assembly, files, told, claim)
        seconds = {"assembling": made - start, "publishing": time.perf_counter() - made}
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
            seconds={name: round(each, 3) for name, each in {**spent, **seconds}.items()},
            products=products,
        )
        result = about(job, result)
        report["seconds"] = {**report["seconds"], **seconds}
        if claim is not None:
            self._delivery.commit(claim, result)
        else:
            task.storage.write(task.result(job.number), result.to_json())
        return result


def _timed(pieces: Iterable[PieceOfWork], spent: Counter[str]) -> Iterator[PieceOfWork]:
    """Pieces as they are; their seconds are added up on the way."""
    for piece in pieces:
        spent.update(piece.seconds)
        yield piece
