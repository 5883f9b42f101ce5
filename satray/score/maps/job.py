"""The job `score scenes=`: all scenes of a place, once."""

from collections.abc import Sequence

from satray.config.score import ScoreRecipe
from satray.models.spec import WEIGHTS, find_bundle
from satray.runs.run import Outcome, Run
from satray.score.ledger import Ledger
from satray.score.maps import closing
from satray.score.maps.jobs import SceneItem, SceneResult
from satray.score.maps.layout import mode_of
from satray.score.maps.look import Prepared, Scenes, prepare, px_of
from satray.score.maps.scene_stages import SceneStages
from satray.score.over_tiles import towers_with_shares
from satray.score.predictions import Layout
from satray.score.products import names
from satray.score.products.stac import model_item, to_bytes
from satray.score.scheduler import Tally, run_stages
from satray.storage import join


def work(recipe: ScoreRecipe, scenes: Scenes, run: Run) -> Outcome:
    """Score the scenes; what an earlier attempt of the run did is not done again."""
    with run.activity("preparing"):
        ready = prepare(recipe, run.storage)
    found = scenes.found
    results = {one.number: one for one in _finished(run)}
    if results:
        run.say(f"going on: {len(results):,} of {len(found.scenes):,} scenes are done already")
    todo = [SceneItem(n, ref) for n, ref in enumerate(found.scenes) if n not in results]
    for one in score_scenes(run, recipe, ready, todo):
        results[one.number] = one
    first = len(found.scenes)
    for number, failure in enumerate(found.failures, first):
        results[number] = SceneResult(
            number, failure.scene, failure.uri, "failed", "find", failure.error
        )
    every = [results[number] for number in sorted(results)]
    closing.close(run, every, layout_of(ready, run), recipe.bundle, single=False)
    return outcome_of(every, recipe, ready)


def score_scenes(
    run: Run,
    recipe: ScoreRecipe,
    ready: Prepared,
    items: Sequence[SceneItem],
    ledger: Ledger | None = None,
) -> list[SceneResult]:
    """Score scenes and publish their products; none of those that other runs turn out to have.

    Raises:
        SatrayError: what ended a process for good, in one line.
    """
    workers = None
    if run.ray and items:
        from satray import cluster

        workers = cluster.allot(recipe.resources, run.say)
    run.begin_writing()  # tasks write products
    bundle, settings = ready.bundle, ready.settings
    folder = find_bundle(recipe.bundle, run.storage)
    weights = join(folder, WEIGHTS)
    model = model_item(bundle.spec, bundle.model_id, weights, bundle.digests[WEIGHTS])
    run.publish(names.model_name(bundle.model_id), to_bytes(model))  # scenes' Items link to it
    if not items:
        return []
    from satray.score.engines import engine_for

    linear = bundle.spec.variant.head == "linear"
    bias = bundle.network.get_parameter("head.bias").float().tolist() if linear else []
    px = px_of(recipe, bundle.spec, [item.ref for item in items])
    stages = SceneStages(
        recipe.bundle,
        bundle.spec,
        tuple(bias),
        run.storage,
        run.out,
        run.state,
        layout_of(ready, run),
        settings,
        ready.geometries,
        engine_for(recipe.engine, px, workers),
        recipe.precision,
        ledger,
    )
    tally, results = Tally(run, len(items), "scenes"), []
    with run.activity("scoring"):
        for result in run_stages(stages, items, recipe.resources, tally, workers):
            if result is not None:  # else another run has it
                results.append(result)
                tally.count()
    tally.end()
    return results


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
