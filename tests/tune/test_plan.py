"""What `tune --plan` says."""

import pytest
import torch
from by_hand import planned
from train.small_archive import SIDE, generate

from satray.config.cli import validate
from satray.config.tune import TuneRecipe
from satray.errors import InputError
from satray.models.backbones import build
from satray.tune import job
from satray.tune import plan as module

RATE = "stages.0.learning_rate"


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return generate(tmp_path_factory.mktemp("archive"), tiles=32)


def said(archive, space, base=None, **keys):
    common = {"variant": "simple_cnn", "input": {"size": SIDE}, "batch": 8, "augment.views": 2}
    tree = {"index": archive.index, "base": common | (base or {}), "space": space, **keys}
    return "\n".join(planned(job, validate(TuneRecipe, tree)))


def test_it_says_what_is_tried_when_and_how_many_at_once(archive) -> None:
    name = "stages.0.schedule.name"
    space = {
        RATE: [1e-3, 1e-2],
        name: ["one_cycle", "triangular"],
        "stages.0.schedule.cycle": {"values": [2, 5], "when": {name: ["triangular"]}},
    }
    told = said(archive, space, concurrent=2, refit=True, stop="asha")
    assert f"space: stages.0.schedule.cycle: 2, 5 (where {name}: triangular)" in told
    assert "at once: a head a core, at most 2" in told
    assert "trained again" in told
    assert "early stopping: asha" in told
    assert "note: weights=none" in told
    assert "workers of their own" not in told


def test_it_says_how_many_images_and_where_their_features_go(
    archive, tmp_path, monkeypatch
) -> None:
    folder = {"folder": str(tmp_path / "f")}
    told = said(archive, {"pooling": ["avg", "max"]}, features=folder)
    # of each of two networks: 24 train tiles in two views, and 8 of validation
    assert "112 images to send through networks, 2 views of a train tile" in told
    assert f"kept in {tmp_path}/f, where those of 0 of 2 are" in told
    assert "features/ below out" in said(archive, {RATE: [1e-3]})
    monkeypatch.setattr(module, "extracted", lambda *_: True)
    told = said(archive, {"pooling": ["avg", "max"]}, features=folder)
    assert "0 images" in told
    assert "those of 2 of 2 are" in told


def test_rates_that_will_be_replaced_are_not_told(archive) -> None:
    told = said(archive, {RATE: {"log_uniform": [1e-5, 1e-2]}, "batch": [4, 8]}, landscape=True)
    assert "1e-05" not in told
    assert f"space: {RATE}: around what a range test of each variant finds" in told


def test_weights_of_another_architecture_are_refused(archive, tmp_path) -> None:
    torch.save(build("resnet10t", 3).body.state_dict(), tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"w\.pth: does not fit simple_cnn: 15 of its 15 tensors"):
        said(archive, {RATE: [1e-3]}, {"weights": str(tmp_path / "w.pth")})
