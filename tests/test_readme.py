"""The README's commands are commands: every one builds its job's recipe."""

import re
import shlex
from pathlib import Path

import pytest

from satray.config.base import Recipe
from satray.config.demo import DemoRecipe
from satray.config.evaluate import EvaluateRecipe
from satray.config.parse import build
from satray.config.prepare import PrepareRecipe
from satray.config.score import ScoreRecipe
from satray.config.train import TrainRecipe

ROOT = Path(__file__).resolve().parents[1]
RECIPES: dict[str, type[Recipe]] = {
    "prepare": PrepareRecipe,
    "train": TrainRecipe,
    "evaluate": EvaluateRecipe,
    "score": ScoreRecipe,
    "demo": DemoRecipe,
}


def commands() -> list[tuple[str, list[str]]]:
    """Every `python jobs/NAME.py ...` of the Markdown files, in one line each."""
    found = []
    for name in ("README.md", "bench/RESULTS.md"):
        blocks = re.findall(r"```sh\n(.*?)```", (ROOT / name).read_text(), re.DOTALL)
        for line in "\n".join(blocks).replace("\\\n", " ").splitlines():
            match = re.search(r"python jobs/(\w+)\.py\s*([^#]*)", line)
            if match:
                found.append((match[1], shlex.split(match[2].replace("$PWD", str(ROOT)))))
    return found


def test_there_are_commands() -> None:
    assert {job for job, _ in commands()} >= {"prepare", "train", "evaluate", "score"}


@pytest.mark.parametrize(("job", "arguments"), commands(), ids=lambda part: str(part)[:40])
def test_the_command_builds_its_recipe(job: str, arguments: list[str]) -> None:
    recipe = build(RECIPES[job], arguments, lambda path, options: (ROOT / path).read_bytes())
    assert isinstance(recipe, RECIPES[job])
