"""Range test and check give the same on Ray and in the job's own process."""

import json
from pathlib import Path

import pytest
import torch
from by_hand import worked
from train.small_archive import generate, make_recipe, make_run

from satray.config.train import CheckRecipe, LandscapeRecipe
from satray.sessions import cores
from satray.train import check, range_test

pytestmark = pytest.mark.pipeline


@pytest.mark.parametrize(
    ("job", "recipe", "keys", "product"),
    [
        (range_test, LandscapeRecipe, {"landscape": {"steps": 20, "seeds": 1}}, "metrics.json"),
        (check, CheckRecipe, {"check": {"steps": 5}}, "check.json"),
    ],
)
def test_embedded_equals_ray(ray_session, tmp_path, request, job, recipe, keys, product):
    archive = generate(tmp_path / "archive", tiles=32)
    given = recipe.model_validate(make_recipe(archive, tmp_path).model_dump() | keys)
    found, threads = [], torch.get_num_threads()
    torch.set_num_threads(cores())  # as a worker's
    request.addfinalizer(lambda: torch.set_num_threads(threads))
    for ray in (True, False):
        run, said = make_run(tmp_path / str(ray), ray=ray)
        worked(job, given, run)
        assert any("fp32 on a CPU" in line or "bf16 autocast on a CPU" in line for line in said)
        found.append(json.loads(Path(run.uri(product)).read_text()))
    assert found[0] == found[1]
