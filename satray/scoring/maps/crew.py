"""Scenes through the actors: which engine, which units, how far they are."""

import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from satray import cluster
from satray.block_pool import BlockRead, Report, through_actors
from satray.config.score import ScoreRecipe
from satray.errors import SatrayError
from satray.models.spec import bundle_digests, find_bundle
from satray.runs.run import Run
from satray.scoring.cpu import engine_for
from satray.scoring.ledger import Ledger
from satray.scoring.maps.actor import ASSEMBLING, FAILED, MapTask, Work, piece_name
from satray.scoring.maps.jobs import SceneJob, SceneResult, to_row
from satray.scoring.maps.look import Prepared
from satray.scoring.maps.survey import Surveyor
from satray.scoring.over_tiles import towers_with_shares
from satray.scoring.predictions import Layout
from satray.scoring.products.stac import ModelFacts
from satray.scoring.scenes.scene import SceneRef
from satray.storage import join

ACTIVITIES = ("reading", "waiting", "computing", "assembling", "writing", "publishing")


@dataclass
class Crew:
    """Scores scenes for a run."""

    run: Run
    """The run."""
    recipe: ScoreRecipe
    """Its recipe."""
    ready: Prepared
    """Its bundle."""
    ledger: Ledger | None = None
    """Of a schedule."""
    elsewhere: set[int] = field(default_factory=set, init=False)
    """Numbers of scenes that other runs turned out to have."""

    def survey(
        self, refs: Sequence[tuple[int, SceneRef]]
    ) -> tuple[list[SceneJob], list[SceneResult]]:
        """Open scenes; gives the jobs of those that can be scored, and why others cannot."""
        bundle, settings = self.ready.bundle, self.ready.settings
        surveyor = Surveyor(bundle.spec, settings, self.ready.geometries, self.run.storage)
        jobs: list[SceneJob] = []
        results: list[SceneResult] = []
        with self.run.activity("opening"):
            for count, looked in enumerate(surveyor.survey(refs), 1):
                if isinstance(looked, SceneResult):
                    results.append(looked)
                else:
                    jobs.append(looked)
                self.run.progress(f"opened {count:,} of {len(refs):,} scenes")
        return jobs, results

    def score(self, jobs: Sequence[SceneJob]) -> list[SceneResult]:
        """Score scenes and wait for all of them; pieces that are there are not made again.

        Raises:
            SatrayError: what ended a process for good, in one line.
        """
        if not jobs:
            return []
        workers = cluster.allot(self.recipe.resources, self.run.say)
        task = self._task(jobs, workers)
        units = self._units(task, jobs)
        blocks = [BlockRead(functools.partial(to_row, job, unit), 4096) for job, unit in units]
        tally = _Tally(self.run, len(jobs), len(blocks))
        results: dict[int, SceneResult] = {}
        make = functools.partial(Work, task, workers.gpu)
        with self.run.activity("scoring"):
            for report in through_actors("scenes", blocks, workers, make):
                result: SceneResult | None = report.get("result")
                if result is not None:
                    results.setdefault(result.number, result)
                if report.get("elsewhere"):
                    self.elsewhere.add(report["number"])
                tally.add(report, len(results))
        tally.end()
        for job in jobs:
            if job.number not in results and job.number not in self.elsewhere:
                raise SatrayError(f"{job.ref.scene}: was left half done; rerun")
        self.elsewhere -= set(results)
        return list(results.values())

    @functools.cached_property
    def _model(self) -> ModelFacts:
        """Read and digested once, however many waves of scenes there are."""
        bundle, storage = self.ready.bundle, self.run.storage
        folder, weights = find_bundle(self.recipe.bundle, storage), "model.safetensors"
        digest = bundle_digests(folder, storage)[weights]
        return ModelFacts(bundle.model_id, join(folder, weights), digest, bundle.spec)

    def _task(self, jobs: Sequence[SceneJob], workers: cluster.Workers) -> MapTask:
        recipe, run, bundle = self.recipe, self.run, self.ready.bundle
        spec, px = bundle.spec, sum(job.way.px for job in jobs)
        return MapTask(
            recipe.bundle,
            self._model,
            run.storage,
            run.out,
            run.state,
            Layout(spec.classes, towers_with_shares(spec), bundle.model_id, run.run_id),
            self.ready.settings,
            self.ready.geometries,
            engine_for(recipe.engine, px, workers),
            self.ledger,
        )

    def _units(self, task: MapTask, jobs: Sequence[SceneJob]) -> list[tuple[SceneJob, int]]:
        """Units to do; of a scene whose pieces are all there, the last, to put it together."""
        storage = self.run.storage
        there: dict[str, set[str]] = {}
        root = join(task.state, "pieces")
        for entry in storage.list(root):
            folder, _, name = entry.key.partition("/")
            if name in (FAILED, ASSEMBLING):  # of an attempt that is no more
                storage.delete(entry.uri)
            else:
                there.setdefault(folder, set()).add(name)
        units: list[tuple[SceneJob, int]] = []
        kept = 0
        for job in jobs:
            have = there.get(f"{job.number:06d}", set())
            every = range(len(job.way.units))
            missing = [unit for unit in every if piece_name(job, unit) not in have]
            kept += len(every) - len(missing)
            units += [(job, unit) for unit in missing or every[-1:]]
        if kept:
            self.run.say(f"going on: {kept:,} units of work are there already")
        return units


class _Tally:
    """Adds up the reports of units."""

    def __init__(self, run: Run, scenes: int, units: int) -> None:
        self._run, self._scenes, self._units = run, scenes, units
        self._start = time.perf_counter()
        self._done, self._px = 0, 0
        self._seconds: dict[str, float] = {}
        self._engines: set[str] = set()

    def add(self, report: Report, scenes: int) -> None:
        """Add a unit's report."""
        self._engines.add(report["engine"])
        self._done += 1
        self._px += report["px"]
        for name, spent in report["seconds"].items():
            self._seconds[name] = self._seconds.get(name, 0.0) + spent
        rate = self._px / 1e6 / (time.perf_counter() - self._start)
        self._run.progress(
            f"scored {scenes:,} of {self._scenes:,} scenes, {self._done:,} of {self._units:,} "
            f"units, {rate:.1f} Mpx a second"
        )

    def end(self) -> None:
        """Say how fast it was, and note the seconds of all processes."""
        for name in ACTIVITIES:
            if name in self._seconds:
                self._run.add_seconds(f"{name} (all processes)", self._seconds[name])
        seconds = time.perf_counter() - self._start
        self._run.say(f"engine: {'; '.join(sorted(self._engines))}")
        self._run.say(
            f"{self._scenes:,} scenes in {seconds:.1f} s, start of the actors included: "
            f"{self._scenes / seconds:.2f} scenes and {self._px / 1e6 / seconds:.2f} Mpx of "
            "network input a second"
        )
