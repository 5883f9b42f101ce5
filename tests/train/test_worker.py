"""A training in the job's own process: who takes it, going on, what is refused."""

import pytest
import torch
from train.small_archive import generate, make_recipe, make_run

from satray.errors import InputError, TrainingError
from satray.train import initial, worker
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


CALM = {"learning_rate": 1e-3, "pseudo_epochs": 1}
WILD = {"learning_rate": 1e30, "schedule": {"name": "constant"}}


@pytest.mark.parametrize("stages", [[WILD], [CALM, WILD]])
def test_a_training_that_ends_early_says_which_checkpoint_there_is(archive, tmp_path, stages):
    setup, run, weights, _ = prepared(archive, tmp_path / "out", stages=stages)
    with pytest.raises(TrainingError, match=r"not finite.*rate may help") as error:
        worker.fit(setup, run, weights, lambda _: None)
    kept = f"; the checkpoint of pseudo-epoch 1 stays in {run.state}"
    assert (kept in str(error.value)) == (len(stages) == 2)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_this_machine_has_not_is_refused(archive, tmp_path):
    setup, run, weights, _ = prepared(archive, tmp_path / "out", resources={"gpus": "yes"})
    with pytest.raises(InputError, match="this machine has no GPU"):
        worker.fit(setup, run, weights, print)
