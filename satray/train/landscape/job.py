"""The job `landscape`: the learning-rate range test of one stage. No torch at import."""

import functools

from satray.config.train import LandscapeRecipe
from satray.errors import InputError
from satray.runs.run import Outcome, Run, to_json
from satray.storage import Storage
from satray.train.plan.description import about, counted, variant_name
from satray.train.plan.setup import Setup, unchanged
from satray.train.plan.setup import read as setup_of


def read(recipe: LandscapeRecipe, storage: Storage) -> Setup:
    """Index and weight files, and what the recipe makes of them.

    Raises:
        InputError: what `train` would refuse too, or no such stage.
    """
    setup = setup_of(recipe, storage)
    stages = len(setup.recipe.stages)
    if recipe.stage >= stages:
        raise InputError(
            f"stage={recipe.stage}: the recipe has {counted(stages, 'stage')}; "
            f"accepted: {'0' if stages == 1 else f'0 to {stages - 1}'}"
        )
    return setup


def plan(recipe: LandscapeRecipe, setup: Setup, storage: Storage) -> list[str]:
    """What would be done.

    Raises:
        InputError: the stage cannot be trained, or weights do not fit the network.
    """
    from satray.train.loop.stage_check import check_stages
    from satray.train.workers.initial import prepared

    wanted = recipe.landscape
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
        *unchanged(setup, storage),
    ]


def work(recipe: LandscapeRecipe, setup: Setup, run: Run) -> Outcome:
    """Sweep; publish `landscape.parquet`, `landscape.png` and `metrics.json`. Ray is up."""
    from satray.train import measure
    from satray.train.landscape import findings
    from satray.train.landscape.task import explore
    from satray.train.loop.stage_check import check_stages
    from satray.train.workers import initial

    with run.activity("preparing"):
        setup = measure.complete(setup, run)
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
