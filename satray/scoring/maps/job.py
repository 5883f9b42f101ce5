"""The job `score scenes=`: all scenes of a place, once."""

from collections.abc import Sequence

from satray.config.score import ScoreRecipe
from satray.runs.run import Outcome, Run
from satray.scoring.maps import closing
from satray.scoring.maps.crew import Crew
from satray.scoring.maps.jobs import SceneResult
from satray.scoring.maps.look import Prepared, Scenes, prepare
from satray.scoring.maps.plan import mode_of
from satray.scoring.over_tiles import towers_with_shares
from satray.scoring.predictions import Layout
from satray.storage import join


def work(recipe: ScoreRecipe, scenes: Scenes, run: Run) -> Outcome:
    """Score the scenes; what an earlier attempt of the run did is not done again."""
    with run.activity("preparing"):
        ready = prepare(recipe, run.storage)
    found = scenes.found
    results = {one.number: one for one in _finished(run)}
    if results:
        run.say(f"going on: {len(results):,} of {len(found.scenes):,} scenes are done already")
    refs = [(n, ref) for n, ref in enumerate(found.scenes) if n not in results]
    crew = Crew(run, recipe, ready)
    jobs, bad = crew.survey(refs)
    if jobs:
        run.begin_writing()  # the actors write products
    for one in [*bad, *crew.score(jobs)]:
        results[one.number] = one
    first = len(found.scenes)
    for number, failure in enumerate(found.failures, first):
        results[number] = SceneResult(
            number, failure.scene, failure.uri, "failed", "find", failure.error
        )
    every = [results[number] for number in sorted(results)]
    closing.close(run, every, layout_of(ready, run), recipe.bundle, single=False)
    return outcome_of(every, recipe, ready)


def layout_of(ready: Prepared, run: Run) -> Layout:
    """Columns of the run's tables."""
    spec, model_id = ready.bundle.spec, ready.bundle.model_id
    return Layout(spec.classes, towers_with_shares(spec), model_id, run.run_id)


def outcome_of(results: Sequence[SceneResult], recipe: ScoreRecipe, ready: Prepared) -> Outcome:
    """What the run tells of its scenes."""
    classes = ready.bundle.spec.classes
    done = [one for one in results if one.status == "done"]
    failed = sum(one.status == "failed" for one in results)
    mode, why = mode_of(ready.settings, ready.geometries)
    return Outcome(
        counts={
            "scenes": len(results),
            "failed": failed,
            "tiles": sum(one.tiles for one in done),
            "detections": sum(one.detections for one in done),
            "px": sum(one.px for one in done),
            "classes": len(classes),
        },
        metrics={
            "mode": mode,
            "predicted": closing.totals(done, classes),
        },
        summary=(*closing.lines(results, classes), f"mode: {why}"),
        attempted=len(results),
        failed=failed,
        error_budget=recipe.error_budget,
    )


def _finished(run: Run) -> list[SceneResult]:
    """Scenes that an earlier attempt of the run brought to their end."""
    folder = join(run.state, "results")
    places = [entry.uri for entry in run.storage.list(folder)]
    found = []
    for position, data in run.storage.read_many(places):
        if isinstance(data, Exception):
            raise data
        found.append(SceneResult.from_json(data, places[position]))
    return found
