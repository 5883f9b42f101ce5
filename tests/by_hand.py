"""Jobs as the frame does them, step by step: what is read is handed on."""

from types import ModuleType
from typing import Any

from satray.cluster import Readers, Workers
from satray.config.base import Recipe
from satray.runs.run import Outcome, Run
from satray.storage import Storage

WORKERS = Workers(count=1, gpu=False, cpus=1, readers=Readers(1))


def planned(job: ModuleType | Any, recipe: Recipe) -> list[str]:
    """What a job's module plans for a recipe."""
    lines: list[str] = job.plan(recipe, job.read(recipe, Storage()), Storage())
    return lines


def worked(job: ModuleType | Any, recipe: Recipe, run: Run) -> Outcome:
    """What a job's module does for a recipe."""
    outcome: Outcome = job.work(recipe, job.read(recipe, run.storage), run)
    return outcome
