"""What `tune` reads, refuses and plans, before Ray is up."""

import hashlib
import subprocess
import sys

import pytest
import torch
from by_hand import planned
from train.small_archive import SIDE, generate

from satray.config.cli import validate
from satray.config.tune import TuneRecipe
from satray.data.index import read_index
from satray.errors import InputError
from satray.models.backbones import build
from satray.storage import Storage
from satray.tune import job

RATE, NAME = "stages.0.learning_rate", "stages.0.schedule.name"


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return generate(tmp_path_factory.mktemp("archive"), tiles=32)


def make(archive, space, base=None, **keys) -> TuneRecipe:
    common = {"variant": "simple_cnn", "weights": "none", "input": {"size": SIDE}, "batch": 8}
    more = {"augment.views": 2, "stages.0.pseudo_epochs": 3}
    tree = {"index": archive.index, "base": common | more | (base or {}), "space": space, **keys}
    return validate(TuneRecipe, tree)


def said(archive, space, base=None, **keys) -> str:
    return "\n".join(planned(job, make(archive, space, base, **keys)))


def test_the_plan_says_what_would_be_done(archive) -> None:
    space = {RATE: [1e-3, 1e-2], "stages.0.trainable": ["head", "all"], "variant": ["simple_cnn"]}
    lines = said(archive, space)
    for part in (
        "4 trials by grid search, compared by mAP",
        "2 trials train heads, from the features of 1 frozen network",
        "2 trials train on workers of their own",
        "a trial sees 72 samples",
    ):
        assert part in lines
    space = {
        RATE: [1e-3, 1e-2],
        NAME: ["one_cycle", "triangular"],
        "stages.0.schedule.cycle": {"values": [2, 5], "when": {NAME: ["triangular"]}},
    }
    lines = said(archive, space, concurrent=2, refit=True, stop={"name": "asha"})
    for part in (
        f"space: stages.0.schedule.cycle: 2, 5 (where {NAME}: triangular)",
        "at once: a head a core, at most 2",
        "trained again",
        "early stopping: asha",
        "note: weights=none",
    ):
        assert part in lines
    assert "workers of their own" not in lines


def test_it_says_how_many_images_and_where_their_features_go(archive, tmp_path) -> None:
    lines = said(
        archive,
        {"seed": [0, 1], "pooling": ["avg", "max"]},
        features={"folder": str(tmp_path / "f")},
    )
    # of each of two networks, whatever is pooled: 24 train tiles in two views, and 8 of validation
    assert f"112 images to send through networks, less those that are in {tmp_path}/f" in lines
    assert "2 views of a train tile" in lines
    assert "features/ below out" in said(archive, {RATE: [1e-3]})


def test_rates_that_will_be_replaced_are_not_told(archive) -> None:
    lines = said(archive, {RATE: {"log_uniform": [1e-5, 1e-2]}, "batch": [4, 8]}, landscape=True)
    assert "1e-05" not in lines
    assert f"space: {RATE}: around what a range test of each variant finds" in lines


def test_networks_that_cannot_be_are_refused_by_the_plan(archive, tmp_path) -> None:
    with pytest.raises(InputError, match="layer9"):
        said(archive, {"stages.0.trainable": ["layer9"]})
    torch.save(build("resnet10t", 3).body.state_dict(), tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"w\.pth: does not fit simple_cnn: 15 of its 15 tensors"):
        said(archive, {RATE: [1e-3]}, {"weights": str(tmp_path / "w.pth")})


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"space": {"batch": [8, 100]}}, "batch=100"),
        ({"base": {RATE: "auto"}, "space": {"batch": [8]}}, "learning_rate=auto"),
        ({"space": {"variant": ["single3", "singel3"]}}, "single3"),
        ({"space": {"repeat": [2]}}, "repeat"),
    ],
)
def test_what_cannot_be_is_refused(archive, keys, named) -> None:
    with pytest.raises(InputError, match=named) as caught:
        job.read(make(archive, **keys), Storage())
    assert "\n" not in str(caught.value)


def test_inputs_are_the_index_and_weight_files(archive, tmp_path) -> None:
    file = tmp_path / "w.safetensors"
    file.write_bytes(b"weights")
    recipe = make(archive, {"weights": ["none", str(file)]})
    digest = hashlib.sha256(b"weights").hexdigest()
    found = job.read(recipe, Storage()).digests
    index = read_index(archive.index, Storage()).digest
    assert found == {"index": index, f"weights {file}": digest}


WITHOUT_RAY = """
import sys
sys.modules["ray"] = None  # an import of it raises
from satray.config.tune import TuneRecipe
from satray.storage import Storage
from satray.tune import job
recipe = TuneRecipe.model_validate_json(sys.stdin.read())
found = job.read(recipe, Storage())
assert found.digests.keys() == {"index"}
assert job.plan(recipe, found, Storage())
"""


def test_inputs_and_plan_do_without_ray(archive) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_RAY],
        input=make(archive, {"batch": [4, 8]}).model_dump_json(),
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("trainable", "keys", "wanted"),
    [
        (["head"], {}, False),
        (["head", "all"], {}, True),
        (["head"], {"search": "optuna", "trials": 3}, True),
    ],
)
def test_rays_dashboard_is_for_trials_with_workers_of_their_own(archive, trainable, keys, wanted):
    space = {RATE: [1e-3, 1e-2], "stages.0.trainable": trainable}
    recipe = make(archive, space, **keys)
    assert job.wants_dashboard(recipe, job.read(recipe, Storage())) is wanted
