"""`only_new=true`: of the scenes of a place, those that no run has scored into this `out`.

Each run has an id of its own, and its record is `runs/RUNID.json`, beside its page, its table of
scenes and its failures; `predictions/RUNID.parquet` holds the tiles of the scenes that it scored,
and of those that a run before it finished and was cut short before it could write its own tables.
A run that finds nothing to do leaves nothing behind. A scene is claimed when its scoring begins.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from satray.config.score import ScoreRecipe
from satray.runs.run import Outcome, Run
from satray.scoring.ledger import (
    Claim,
    Heartbeat,
    Ledger,
    Pass,
    Task,
    View,
    changed,
    list_finals,
    plan_pass,
    recover,
    unneeded,
)
from satray.scoring.maps import closing
from satray.scoring.maps.crew import Crew
from satray.scoring.maps.job import layout_of, outcome_of
from satray.scoring.maps.jobs import SceneResult, failed
from satray.scoring.maps.look import Prepared, Scenes, ledger_of, prepare, scenes_of
from satray.scoring.products import names
from satray.scoring.scenes.find import Found
from satray.scoring.scenes.scene import SceneRef
from satray.storage import join

if TYPE_CHECKING:  # it imports torch
    from satray.models.spec import BundleSpec

OLD = timedelta(days=7)
"""Age from which on what another run left in `state/`, its log included, is removed."""


@dataclass(frozen=True)
class Sorted:
    """Scenes by what is to be done."""

    ledger: Ledger
    """The ledger."""
    view: View
    """It, as it was when the scenes were looked at."""
    found: Found
    """The scenes."""
    by: Pass[SceneRef]
    """What is to be done with each."""

    def lines(self) -> list[str]:
        """What is to be done, for the person."""
        by = self.by
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
        reasons = self.ledger.reasons(dict(list(by.failed.items())[:3]))
        lines += [f"  {key.scene}: given up: {why}" for key, why in reasons.items()]
        if by.failed:
            lines.append(f"  what is given up is tried again without {self.ledger.root}/SCENE")
        none = self.found.failures
        return lines + [f"  {one.scene}: no scene: {one.error}" for one in none[:3]]

    def judged(self, outcome: Outcome, budget: float) -> Outcome:
        """An outcome whose status knows of what is given up, if that is the larger share."""
        by = self.by
        groups = (by.todo, by.done, by.held, by.failed, by.growing)
        every, given_up = sum(len(group) for group in groups), len(by.failed)
        if given_up * max(1, outcome.attempted) <= outcome.failed * max(1, every):
            return outcome
        return replace(outcome, attempted=every, failed=given_up, error_budget=budget)


def early(recipe: ScoreRecipe, scenes: Scenes, run: Run) -> Outcome | None:
    """What comes before Ray: where there is nothing to score or to tell, the whole run."""
    with run.activity("looking"):
        spec, model_id = scenes.spec, scenes.digests["bundle"][:12]
        ledger = ledger_of(recipe, spec, model_id, run.run_id, run.out, run.storage)
        now = _sort(recipe, run, spec, ledger)
    if now.by.todo or now.by.doubtful or now.by.untold:
        return None
    for name in unneeded(now.view):
        ledger.close(name)
    return _idle(now, recipe, [*now.lines(), "nothing to score"])


def work(recipe: ScoreRecipe, scenes: Scenes, run: Run) -> Outcome:
    """Score the new scenes."""
    with run.activity("preparing"):
        ready = prepare(recipe, run.storage)
    with run.activity("looking"):
        model_id = ready.bundle.model_id
        spec = scenes.spec
        ledger = ledger_of(recipe, spec, model_id, run.run_id, run.out, run.storage)
        now = _sort(recipe, run, spec, ledger, scenes.found.scenes)
    for line in now.lines():
        run.say(line)
    heart = Heartbeat(ledger)
    heart.begin()
    try:
        outcome = _score(recipe, run, ready, now)
        heart.check()
    except BaseException:
        heart.give_up()
        raise
    if outcome.idle:
        heart.close()
    run.after_record = heart.close
    return outcome


def _score(recipe: ScoreRecipe, run: Run, ready: Prepared, now: Sorted) -> Outcome:
    """Recover what runs before left half done, score what is to be scored, write the tables."""
    ledger, by = now.ledger, now.by
    with run.activity("recovering"):
        found = recover(ledger, by.doubtful)
        _clear(run, now)
    if found.again:
        run.say(f"{len(found.again):,} scenes are scored again: files are missing or changed")
    if found.adopted:
        run.say(f"{len(found.adopted):,} scenes were finished by runs that were cut short")
    tasks = [*by.todo, *found.again]
    crew = Crew(run, recipe, ready, ledger)
    jobs, bad = crew.survey([(number, task.seen) for number, task in enumerate(tasks)])
    results = [one for one in bad if _failed(ledger, tasks[one.number], one)]
    results += crew.score([replace(job, task=tasks[job.number]) for job in jobs])
    taken = len(tasks) - len(results)
    said = [f"{taken:,} scenes are in work elsewhere"] if taken else []
    number = len(tasks)
    for _, tree in found.adopted:
        results.append(replace(SceneResult.from_tree(tree), number=(number := number + 1)))
    for seen, why in [*found.broken, *_given_up(now)]:
        results.append(failed(number := number + 1, seen, "score", why))
    if not results:
        return _idle(now, recipe, [*said, "nothing to score"])
    closing.close(run, results, layout_of(ready, run), recipe.bundle, single=True)
    outcome = outcome_of(results, recipe, ready)
    counts = {**outcome.counts, "again": len(found.again), "adopted": len(found.adopted)}
    outcome = replace(outcome, counts=counts, summary=(*outcome.summary, *said))
    return now.judged(outcome, recipe.error_budget)


def _failed(ledger: Ledger, task: Task[SceneRef], result: SceneResult) -> bool:
    """Record that a scene cannot even be opened; tells whether it was this run's to say so."""
    claim = ledger.claim(task.key, task.history, task.looked)
    if claim is not None:
        reason = f"{result.stage}: {result.error}"
        ledger.fail(claim, reason, retryable=result.retryable)
    return claim is not None


def _given_up(now: Sorted) -> list[tuple[SceneRef, str]]:
    """Scenes that were given up and are in no run's tables yet, and why; from now on they are."""
    ledger, ends = now.ledger, {key: now.by.failed[key] for _, key in now.by.untold}
    reasons = ledger.reasons(ends)
    for key, why in reasons.items():
        ledger.fail(Claim(key, ends[key].number, now.view.now), why, retryable=True)
    return [(seen, f"given up: {reasons[key]}") for seen, key in now.by.untold]


def _idle(now: Sorted, recipe: ScoreRecipe, said: Sequence[str]) -> Outcome:
    counts = {"scenes": 0, "failed": 0}
    return now.judged(Outcome(counts, summary=tuple(said), idle=True), recipe.error_budget)


def _sort(
    recipe: ScoreRecipe,
    run: Run,
    spec: "BundleSpec",
    ledger: Ledger,
    before: Sequence[SceneRef] = (),
) -> Sorted:
    """Look at the ledger, then at the scenes, so that of two schedules the late one yields."""
    view = ledger.look()
    finals = list_finals(ledger)
    found = scenes_of(recipe, spec, run.storage)
    settle = recipe.schedule.settle
    differ = changed(before, found.scenes)
    by = plan_pass(found.scenes, view, ledger, finals, settle=settle, changing=differ)
    return Sorted(ledger, view, found, by)


def _clear(run: Run, now: Sorted) -> None:
    """Remove what runs left: at once tables without a record, later what they were at."""
    for name in now.view.cut:
        tables = [f"runs/{name}.{kind}.parquet" for kind in ("scenes", "failures")]
        for path in (names.predictions_name(name), names.page_name(name), *tables):
            run.storage.delete(run.uri(path))
    for name in unneeded(now.view):
        now.ledger.close(name)
    newest: dict[str, datetime] = {}
    for entry in run.storage.list(join(run.out, "state")):
        name = entry.key.partition("/")[0]
        newest[name] = max(entry.modified, newest.get(name, entry.modified))
    for name, modified in newest.items():
        if name != run.run_id and now.view.now - modified > OLD:
            run.storage.delete(join(run.out, "state", name))
