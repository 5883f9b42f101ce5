"""`only_new=true`: of the scenes of a place, those that no run has scored into this `out`.

Each run has an id of its own, and its record is `runs/RUNID.json`, beside its page, its table of
scenes and its failures; `predictions/RUNID.parquet` holds the tiles of the scenes that it scored.
A run that finds nothing to do leaves nothing behind. Scenes are claimed some at a time, and a
thread for each tells that its owner lives.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from satray.config.score import ScoreRecipe
from satray.runs.run import Outcome, Run
from satray.scoring.ledger import (
    Claim,
    Heartbeat,
    Ledger,
    Pass,
    Task,
    changed,
    list_finals,
    look,
    plan_pass,
    publish,
)
from satray.scoring.maps import closing
from satray.scoring.maps.crew import Crew
from satray.scoring.maps.job import layout_of, outcome_of
from satray.scoring.maps.jobs import SceneResult
from satray.scoring.maps.look import ledger_of, prepare, scenes_of
from satray.scoring.over_tiles import read_spec
from satray.scoring.scenes.found import Found
from satray.scoring.scenes.scene import SceneRef
from satray.storage import join

FIRST_WAVE = 32
"""Scenes that are claimed at once, at first."""
MOST = 256
"""The most that ever are: each has a thread that tells of life."""
SHORT = 300.0
"""Seconds below which the next wave is twice as large."""
OLD = timedelta(days=7)
"""Age from which on what another run left in `state/`, its log included, is removed."""


@dataclass(frozen=True)
class Sorted:
    """Scenes by what is to be done."""

    ledger: Ledger
    """The ledger."""
    found: Found
    """The scenes."""
    by: Pass[SceneRef]
    """What is to be done with each."""
    at: datetime
    """When that was, by the store's clock."""


def early(recipe: ScoreRecipe, run: Run) -> Outcome | None:
    """What comes before Ray: where no scene is to be scored, the whole run."""
    from satray.models.bundle import bundle_digest

    with run.activity("looking"):
        spec = read_spec(recipe.bundle, run.storage)
        model_id = bundle_digest(recipe.bundle, run.storage)[:12]
        ledger = ledger_of(recipe, spec, model_id, run.run_id, run.out, run.storage)
        now = _sort(recipe, run, ledger)
    if now.by.todo:
        return None
    repaired = _repair(run, now)
    lines = [*_lines(now), "nothing to score"]
    counts = {"scenes": 0, "failed": 0, "repaired": repaired}
    return Outcome(counts=counts, summary=tuple(lines), idle=not repaired)


def work(recipe: ScoreRecipe, run: Run) -> Outcome:
    """Score the new scenes."""
    with run.activity("preparing"):
        spec = read_spec(recipe.bundle, run.storage)
        before = scenes_of(recipe, spec, run.storage)
        ready = prepare(recipe, run.storage)
    with run.activity("looking"):
        model_id = ready.bundle.model_id
        ledger = ledger_of(recipe, spec, model_id, run.run_id, run.out, run.storage)
        now = _sort(recipe, run, ledger, before.scenes)
    for line in _lines(now):
        run.say(line)
    repaired = _repair(run, now)
    _clear(run, now.at)
    crew = Crew(run, recipe, ready, ledger)
    results: list[SceneResult] = []
    todo, wave = list(enumerate(now.by.todo)), FIRST_WAVE
    while todo:
        start = time.perf_counter()
        some, todo = todo[:wave], todo[wave:]
        results += _wave(crew, ledger, some)
        if time.perf_counter() - start < SHORT:
            wave = min(2 * wave, MOST)
    taken = len(now.by.todo) - len(results)
    said = [f"{taken:,} scenes are in work elsewhere"] if taken else []
    if not results:
        return Outcome(summary=(*said, "nothing to score"), idle=not repaired)
    closing.close(run, results, layout_of(ready, run), recipe.bundle, single=True)
    outcome = outcome_of(results, recipe, ready)
    counts = {**outcome.counts, "repaired": repaired}
    return replace(outcome, counts=counts, summary=(*outcome.summary, *said))


def _sort(recipe: ScoreRecipe, run: Run, ledger: Ledger, before: Sequence[SceneRef] = ()) -> Sorted:
    """Look at the ledger, then at the scenes, so that of two schedules the late one yields."""
    view = look(ledger)
    finals = list_finals(ledger)
    found = scenes_of(recipe, read_spec(recipe.bundle, run.storage), run.storage)
    settle = recipe.schedule.settle
    differ = changed(before, found.scenes)
    by = plan_pass(found.scenes, view, ledger, finals, settle=settle, changing=differ)
    return Sorted(ledger, found, by, view.now)


def _wave(
    crew: Crew, ledger: Ledger, some: Sequence[tuple[int, Task[SceneRef]]]
) -> list[SceneResult]:
    """Claim scenes, score them, and end each claim; one that has no end is given back."""
    with _claims(ledger, some) as claims:
        refs = [(number, task.seen) for number, task in some if number in claims.open]
        jobs, results = crew.survey(refs, claims.open)
        for one in results:
            claims.end(one)
        return [*results, *crew.score(jobs, claims.end)]


class _Claims:
    """The claims of a wave, and their signs of life."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._hearts: dict[int, Heartbeat] = {}
        self.open: dict[int, Claim] = {}

    def take(self, number: int, task: Task[SceneRef]) -> None:
        """Try to claim a scene."""
        claim = self._ledger.claim(task.key, task.history, task.looked)
        if claim is not None:
            self.open[number] = claim
            self._hearts[number] = Heartbeat(self._ledger, claim).__enter__()

    def end(self, result: SceneResult) -> None:
        """Note what became of a scene."""
        claim, heart = self.open[result.number], self._hearts.pop(result.number, None)
        if heart is not None:
            heart.__exit__(None, None, None)
        if result.status == "failed":
            reason = f"{result.stage}: {result.error}"
            self._ledger.fail(claim, reason, retryable=result.retryable)
        elif result.status == "skipped" and self._ledger.stands(claim):
            self._ledger.release(claim)

    def give_back(self) -> None:
        """Release what has not come to its end."""
        for number, heart in list(self._hearts.items()):
            heart.__exit__(None, None, None)
            del self._hearts[number]
            if self._ledger.stands(self.open[number]):
                self._ledger.release(self.open[number])


@contextmanager
def _claims(ledger: Ledger, some: Sequence[tuple[int, Task[SceneRef]]]) -> Iterator[_Claims]:
    claims = _Claims(ledger)
    try:
        for number, task in some:
            claims.take(number, task)
        yield claims
    finally:
        claims.give_back()


def _repair(run: Run, now: Sorted) -> int:
    """Publish again what is not as it was published."""
    if not now.by.repair:
        return 0
    with run.activity("repairing"):
        done = [publish(now.ledger, key) for key in now.by.repair]
    run.say(f"published {sum(done):,} scenes again: files were missing or changed")
    return sum(done)


def _clear(run: Run, now: datetime) -> None:
    """Remove what runs left long ago: pieces of scenes too, of those that were killed."""
    newest: dict[str, datetime] = {}
    for entry in run.storage.list(join(run.out, "state")):
        name = entry.key.partition("/")[0]
        newest[name] = max(entry.modified, newest.get(name, entry.modified))
    for name, modified in newest.items():
        if name != run.run_id and now - modified > OLD:
            run.storage.delete(join(run.out, "state", name))


def _lines(now: Sorted) -> list[str]:
    by = now.by
    parts = [
        f"{len(by.todo):,} to score",
        f"{len(by.done):,} done",
        f"{len(by.held):,} in work elsewhere",
        f"{len(by.growing):,} left for the next time",
        f"{len(by.failed):,} given up",
    ]
    told = ", ".join(part for part in parts if not part.startswith("0 ")) or "none yet"
    lines = [f"scenes: {told}"]
    lines += [f"  {scene}: {why}" for scene, why in list(by.growing.items())[:3]]
    given_up = dict(list(by.failed.items())[:3])
    reasons = now.ledger.reasons(given_up) if given_up else {}
    lines += [f"  {key.scene}: given up: {why}" for key, why in reasons.items()]
    none = now.found.failures
    lines += [f"  {one.scene}: no scene: {one.error}" for one in none[:3]]
    return lines
