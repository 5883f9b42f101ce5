"""`only_new=true`: of the scenes of a place, those that no run has scored into this `out`.

Each run has an id of its own, and its record is `runs/RUNID.json`, beside its page, its table of
scenes and its failures. They name the scenes that it scored, and those that a run before it
finished and was cut short before it could write its own. A run that finds nothing to do leaves
nothing behind. A scene is claimed when its scoring begins.
"""

import json
from dataclasses import replace
from datetime import datetime

from satray.config.score import ScoreRecipe
from satray.errors import InputError
from satray.runs.run import Outcome, Run
from satray.score.ledger import OLD, Ledger, Pass, plan_pass, signs_of_life
from satray.score.maps import closing
from satray.score.maps.job import layout_of, outcome_of, score_scenes
from satray.score.maps.jobs import SceneItem, SceneResult, failed
from satray.score.maps.look import Prepared, Scenes, ledger_of, prepare
from satray.score.products import names
from satray.storage import join


def early(recipe: ScoreRecipe, scenes: Scenes, run: Run) -> Outcome | Scenes:
    """Look what is to be done, before Ray: where there is nothing to score or to tell, all of it.

    The ledger is listed once a pass, here.
    """
    with run.activity("looking"):
        ledger = ledger_of(recipe, scenes, run)
        settle = recipe.schedule.settle
        by = plan_pass(scenes.found.scenes, ledger.look(), ledger, settle=settle)
        _clear(run, ledger, by)
        lines = _lines(by, ledger, scenes)
    if by.todo or by.orphans:
        for line in lines:
            run.say(line)
        return replace(scenes, by=by)
    ledger.close()
    idle = Outcome({"scenes": 0, "failed": 0}, summary=(*lines, "nothing to score"), idle=True)
    return _judged(by, idle, recipe.error_budget)


def work(recipe: ScoreRecipe, scenes: Scenes, run: Run) -> Outcome:
    """Score the new scenes.

    Raises:
        InputError: the bundle was replaced since it was looked at.
    """
    ledger = ledger_of(recipe, scenes, run)
    with signs_of_life(ledger):
        with run.activity("preparing"):
            ready = prepare(recipe, run.storage)
        if ready.bundle.model_id != ledger.model_id:
            raise InputError(f"bundle={recipe.bundle}: changed while the job was running; rerun")
        outcome = _score(recipe, scenes, run, ready, ledger)
    if outcome.idle:
        ledger.close()
    run.after_record = ledger.close
    return outcome


def _score(
    recipe: ScoreRecipe, scenes: Scenes, run: Run, ready: Prepared, ledger: Ledger
) -> Outcome:
    """Score what is to be scored, take in what cut runs came to, and write the tables."""
    by = scenes.by
    assert by is not None
    items = [SceneItem(number, task.seen, task) for number, task in enumerate(by.todo)]
    results = score_scenes(run, recipe, ready, items, ledger)
    elsewhere = len(by.todo) - len(results)
    said = (f"{elsewhere:,} scenes are in work elsewhere",) if elsewhere else ()
    with run.activity("recovering"):
        adopted = _adopted(by, ledger)
    finished = sum(one.status == "done" for one in adopted)
    if finished:
        run.say(f"{finished:,} scenes were finished by runs that were cut short")
    results += adopted
    if not results:
        idle = Outcome({"scenes": 0, "failed": 0}, summary=(*said, "nothing to score"), idle=True)
        return _judged(by, idle, recipe.error_budget)
    closing.close(run, results, layout_of(ready, run), recipe.bundle, single=True)
    outcome = outcome_of(results, recipe, ready)
    counts = {**outcome.counts, "adopted": finished}
    outcome = replace(outcome, counts=counts, summary=(*outcome.summary, *said))
    return _judged(by, outcome, recipe.error_budget)


def _adopted(by: Pass, ledger: Ledger) -> list[SceneResult]:
    """What scenes came to that are in no run's tables, and from now on are in this one's."""
    results = []
    for number, (seen, key, last) in enumerate(by.orphans, len(by.todo)):
        content = ledger.adopt(key, last)
        if content is None:
            continue
        if last.kind == "done":
            data, place = json.dumps(content.get("result")).encode(), join(ledger.root, key.path)
            results.append(replace(SceneResult.from_json(data, place), number=number))
        else:
            results.append(failed(number, seen, "score", f"given up: {content.get('reason')}"))
    return results


def _lines(by: Pass, ledger: Ledger, scenes: Scenes) -> list[str]:
    """What is to be done, for the person."""
    parts = [
        f"{len(by.todo):,} to score",
        f"{len(by.done):,} done",
        f"{len(by.held):,} in work elsewhere",
        f"{len(by.growing):,} left for the next time",
        f"{len(by.failed):,} given up",
    ]
    counts = ", ".join(part for part in parts if not part.startswith("0 ")) or "none yet"
    lines = [f"scenes: {counts}"]
    lines += [f"  {scene}: {why}" for scene, why in list(by.growing.items())[:3]]
    for key, last in list(by.failed.items())[:3]:
        lines.append(f"  {key.scene}: given up: {ledger.verdict(key, last).get('reason')}")
    if by.failed:
        lines.append(f"  what is given up is tried again without {ledger.root}/SCENE")
    return lines + [f"  {one.scene}: no scene: {one.error}" for one in scenes.found.failures[:3]]


def _judged(by: Pass, outcome: Outcome, budget: float) -> Outcome:
    """An outcome whose status knows of what is given up, if that is the larger share."""
    groups = (by.todo, by.done, by.held, by.failed, by.growing)
    every, given_up = sum(len(group) for group in groups), len(by.failed)
    if given_up * max(1, outcome.attempted) <= outcome.failed * max(1, every):
        return outcome
    return replace(outcome, attempted=every, failed=given_up, error_budget=budget)


def _clear(run: Run, ledger: Ledger, by: Pass) -> None:
    """Remove what runs left: at once tables without a record, later what they were at."""
    for name in by.view.cut:
        tables = [f"runs/{name}.{kind}.parquet" for kind in ("scenes", "failures")]
        for path in (names.page_name(name), *tables):
            run.storage.delete(run.uri(path))
    for name in by.view.over:
        ledger.close(name)
    newest: dict[str, datetime] = {}
    for entry in run.storage.list(join(run.out, "state")):
        name = entry.key.partition("/")[0]
        newest[name] = max(entry.modified, newest.get(name, entry.modified))
    for name, modified in newest.items():
        if name != run.run_id and by.view.now - modified > OLD:
            run.storage.delete(join(run.out, "state", name))
