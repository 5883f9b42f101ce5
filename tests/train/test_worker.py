"""A training in the job's own process: who takes it, going on, what is refused."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from by_hand import WORKERS
from train.small_archive import generate, make_recipe, make_run

from satray.errors import InputError
from satray.train import initial, worker
from satray.train.ray_train import fit as fit_on_ray
from satray.train.setup import read


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return generate(tmp_path_factory.mktemp("archive"), tiles=32, spoil=(5, 8))


def prepared(archive, folder, **changes):
    run, said = make_run(folder, ray=False)
    recipe = make_recipe(archive, folder.parent, error_budget=0.2, **changes)
    setup = read(recipe, run.storage)
    return setup, run, initial.prepare(setup, run), said


@pytest.mark.parametrize(
    ("resources", "gpu_there", "expected"),
    [
        ({}, False, False),
        ({}, True, True),
        ({"gpus": "no"}, True, False),
        ({"gpus": "yes"}, False, True),
        ({"workers": 2, "gpus": "no"}, False, True),
    ],
)
def test_small_work_without_a_gpu_is_done_here(
    archive, tmp_path, monkeypatch, resources, gpu_there, expected
):
    monkeypatch.setattr(worker, "NVIDIA", str(tmp_path if gpu_there else tmp_path / "none"))
    recipe = make_recipe(archive, tmp_path, resources={"workers": 1, "gpus": "auto", **resources})
    assert worker.wants_ray(recipe, None) is expected


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_this_machine_has_not_is_refused(archive, tmp_path):
    setup, run, weights, _ = prepared(archive, tmp_path / "out", resources={"gpus": "yes"})
    with pytest.raises(InputError, match="this machine has no GPU"):
        worker.fit(setup, run, weights, print)


def test_two_ranks_on_one_gpu_are_refused(archive, tmp_path):
    """NCCL would, later and at length."""
    setup, run, weights, _ = prepared(archive, tmp_path / "out")
    two = replace(WORKERS, count=2, gpu=True, gpu_share=0.5)
    with pytest.raises(InputError, match="several workers of a training cannot share a GPU"):
        fit_on_ray(setup, run, weights, print, workers=two)
    assert not Path(run.state, "rounds").exists()
