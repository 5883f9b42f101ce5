"""The job `landscape`: the learning-rate range test of one stage. No torch at import."""

import functools

from satray.config.landscape import LandscapeRecipe
from satray.errors import InputError
from satray.runs.jsonable import to_json
from satray.runs.run import Outcome, Run
from satray.storage import Storage
from satray.training.plan.description import about, counted, variant_name
from satray.training.plan.setup import Setup, digests, set_up, unchanged


def inputs(recipe: LandscapeRecipe, storage: Storage) -> dict[str, str]:
    """Digests of the index and of weight files.

    Raises:
        InputError: what `train` would refuse too, or no such stage.
    """
    found = digests(recipe, storage)
    stages = len(set_up(recipe, storage).recipe.stages)
    if recipe.stage >= stages:
        raise InputError(
            f"stage={recipe.stage}: the recipe has {counted(stages, 'stage')}; "
            f"accepted: {'0' if stages == 1 else f'0 to {stages - 1}'}"
        )
    return found


def plan(recipe: LandscapeRecipe, storage: Storage) -> list[str]:
    """What would be done.

    Raises:
        InputError: the stage cannot be trained, or weights do not fit the network.
    """
    from satray.training.loop.stage_check import check_stages
    from satray.training.workers.initial import prepared

    setup, wanted = set_up(recipe, storage), recipe.landscape
    check = functools.partial(check_stages, stages=(recipe.stage,))
    _, loaded = prepared(setup, storage, check)
    samples = wanted.seeds * wanted.steps * recipe.batch
    return [
        *about(setup),
        *loaded,
        f"range test of stages[{recipe.stage}] ({setup.recipe.stages[recipe.stage].trainable}): "
        f"{counted(wanted.seeds, 'sweep')} of {wanted.steps} batches of {recipe.batch}, learning "
        f"rate "
        f"{wanted.lowest:g} to {wanted.highest:g}; up to {samples:,} samples, "
        f"{samples / setup.train_tiles:.1f} times the train split",
        *unchanged(recipe, storage),
    ]


def work(recipe: LandscapeRecipe, run: Run) -> Outcome:
    """Sweep; publish `landscape.parquet`, `landscape.png` and `metrics.json`. Ray is up."""
    from satray.training import measure
    from satray.training.landscape import findings
    from satray.training.landscape.task import explore
    from satray.training.loop.stage_check import check_stages
    from satray.training.workers import initial

    with run.activity("preparing"):
        setup = measure.complete(set_up(recipe, run.storage), run)
        check = functools.partial(check_stages, stages=(recipe.stage,))
        weights = initial.stage(setup, run, check)
    (finding,) = explore(setup, run, weights, (recipe.stage,))
    data, rows = findings.parquet(finding)
    run.publish("landscape.parquet", data, rows=rows)
    run.publish("landscape.png", findings.picture((finding,), _title(setup, run)))
    figures = finding.figures()
    run.publish("metrics.json", to_json(figures))
    names = (*findings.NAMES, "learning_rate")
    return Outcome(
        counts={
            "train_tiles": setup.train_tiles,
            "sweeps": len(finding.curves),
            "batches": rows,
            "samples": rows * recipe.batch,
        },
        metrics={name: figures[name] for name in names},
        summary=(
            finding.line(),
            f"use stages.{recipe.stage}.learning_rate={finding.learning_rate:.2g}, or cycle "
            f"between a quarter of it and it: landscape.png, landscape.parquet",
        ),
    )


def _title(setup: Setup, run: Run) -> str:
    return f"{run.run_id}: learning-rate landscape of {variant_name(setup)}"
