"""Jobs as the frame does them, step by step: what is read is handed on."""

from importlib import import_module
from types import ModuleType
from typing import Any

from satray.cluster import Readers, Workers
from satray.config.base import Recipe
from satray.config.prepare import DemoRecipe, PrepareRecipe
from satray.config.score import EvaluateRecipe, ExportRecipe, ScoreRecipe
from satray.config.train import CheckRecipe, LandscapeRecipe, TrainRecipe
from satray.config.tune import TuneRecipe
from satray.runs.job import Job
from satray.runs.run import Outcome, Run
from satray.storage import Storage

JOBS: dict[str, tuple[str, type[Recipe], list[str]]] = {
    "prepare": ("satray.data.prepare", PrepareRecipe, ["images=x"]),
    "train": ("satray.train.job", TrainRecipe, ["index=x"]),
    "landscape": ("satray.train.range_test", LandscapeRecipe, ["index=x"]),
    "check": ("satray.train.check", CheckRecipe, ["index=x"]),
    "tune": ("satray.tune.job", TuneRecipe, ["index=x"]),
    "evaluate": ("satray.evaluate.job", EvaluateRecipe, ["bundle=b", "index=x"]),
    "score": ("satray.score.job", ScoreRecipe, ["bundle=b", "tiles=x"]),
    "export": ("satray.score.export", ExportRecipe, ["bundle=b"]),
    "demo": ("satray.demo.line", DemoRecipe, []),
}
"""Of each job its module, its recipe, and arguments that it cannot do without."""
WORKERS = Workers(count=1, gpu=False, cpus=1, readers=Readers(1))


def job_of(name: str, **more: Any) -> Job[Any, Any]:
    """A job as `jobs/NAME.py` makes it, on Ray unless `more` of `Job` says otherwise."""
    place, recipe, _ = JOBS[name]
    module = import_module(place)
    return Job(name, recipe, module.read, module.plan, module.work, **more)


def planned(job: ModuleType | Any, recipe: Recipe) -> list[str]:
    """What a job's module plans for a recipe."""
    lines: list[str] = job.plan(recipe, job.read(recipe, Storage()), Storage())
    return lines


def worked(job: ModuleType | Any, recipe: Recipe, run: Run) -> Outcome:
    """What a job's module does for a recipe."""
    outcome: Outcome = job.work(recipe, job.read(recipe, run.storage), run)
    return outcome
