"""One job within another: a run folder of its own, resumed and recorded as any job's."""

from typing import TypeVar

from satray.config.base import Recipe
from satray.errors import SatrayError
from satray.runs.inputs import run_id
from satray.runs.perform import Job, P, perform, take_folder
from satray.runs.record import RunRecord
from satray.runs.run import Run

R = TypeVar("R", bound=Recipe)


def step(job: Job[R, P], recipe: R, outer: Run, title: str) -> tuple[RunRecord, bool]:
    """Do a job as part of `outer`, whose Ray session it shares.

    A finished run of the same configuration and inputs is found done; an unfinished one goes on;
    another run's folder, left by an earlier demo in the same place, is cleared.

    Args:
        job: the job.
        recipe: its recipe; `out` is set.
        outer: the run that it is part of; shows its progress.
        title: what the progress lines call it.

    Returns:
        The record, and whether the job ran now (False: it was done already).

    Raises:
        SatrayError: the job failed, or ended with a status other than 0.
    """
    if recipe.out is None:
        raise ValueError(f"{job.name} has no out")
    prepared = job.read(recipe, outer.storage)
    run = Run(
        job.name,
        run_id(job.name, recipe, prepared.digests),
        recipe.out,
        outer.storage,
        progress=lambda line: outer.progress(f"{title}: {line}"),
        ray=outer.ray,
    )
    done = take_folder(run, overwrite=True)
    if done is not None:
        return done, False
    outcome, record = perform(job, recipe, prepared, run)
    if record.status:
        failed = f"{outcome.failed} of {outcome.attempted} inputs failed"
        raise SatrayError(f"{job.name}: {record.verdict or failed} ({run.out})")
    return record, True
