"""From snapshots on storage to the weights of the bundle."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from train.small_archive import SIDE as TILE
from train.small_archive import generate, make_recipe, make_run
from train.tiny_training import (
    CLASSES,
    PREPROCESS,
    ROWS,
    SIZE,
    VAL_ROWS,
    batches,
    recipe,
    run,
    stage,
    tiles,
    tiny_net,
)

from satray.config.train import AverageOptions
from satray.data.augment import Augment
from satray.errors import InputError
from satray.storage import Storage, join
from satray.train.loop.evaluation import Predictions
from satray.train.loop.state import TrainState
from satray.train.loop.step import AugmentedTiles
from satray.train.loop.train import LoopSettings
from satray.train.plan import plan_training
from satray.train.setup import set_up
from satray.train.workers import checkpoints, combining, snapshots
from satray.train.workers.choice import WORST, choice_lines, choose, score


def test_more_is_better_and_no_number_is_worst():
    assert score({"val_loss": 0.3, "map": 0.5}, "map") == 0.5
    assert score({"val_loss": 0.3, "map": 0.5}, "loss") == -0.3
    assert score({"val_loss": 0.3, "map": math.nan}, "map") == WORST


class Story:
    """A finished run of the tiny network, its checkpoints and snapshots on disk."""

    def __init__(self, folder, kind):
        self.run, _ = make_run(folder)
        self.storage, self.state, self.told = Storage(), self.run.state, []
        options = AverageOptions(ema=0, snapshots=kind, start=0.4)
        given = recipe(stage(3, 0.05, "constant"), average=options)
        self.settings = LoopSettings("multilabel", CLASSES, given.optimizer, average=options)
        keep = combining.keeper(self.storage, self.state, 0)
        self.reports, states, _ = run(given, tiny_net(), settings=self.settings, keep=keep)
        self.best_state = join(self.state, "best", checkpoints.STATE)
        self.storage.write(self.best_state, states[-1])
        self.best = self.reports[-1].row()
        self.checkpoint = TrainState.from_bytes(states[-1])
        self.storage.write(
            join(self.state, "best", checkpoints.PREDICTIONS),
            self.reports[-1].predictions.to_bytes(),
        )
        self.setup = SimpleNamespace(
            recipe=given,
            best="map",
            plan=plan_training(given, ROWS, 1),
            preprocess=lambda: PREPROCESS,
        )

    def finish(self, rank=0):
        task = SimpleNamespace(
            storage=self.storage,
            state=self.state,
            setup=self.setup,
            channel=SimpleNamespace(send=self.told.append),
        )
        pixels, labels = tiles(VAL_ROWS, 2)
        combining.finish(
            task,
            rank,
            tiny_net(),
            lambda epoch: pytest.fail("no batch norm, and tiles were asked for"),
            lambda: batches(pixels, labels, np.arange(VAL_ROWS), 2),
            self.settings,
            AugmentedTiles(PREPROCESS, Augment(SIZE)),
            "cpu",
        )

    def record(self, **validation):
        """Write over what was measured."""
        uri = snapshots.combined_uri(self.state, snapshots.RECORD)
        record = json.loads(self.storage.read(uri))
        measured = record["validation"] | validation if validation else None
        self.storage.write(uri, json.dumps(record | {"validation": measured}).encode())

    def choice(self):
        return choose(self.setup, self.run, self.best_state, self.best)


@pytest.mark.parametrize("kind", ["swa", "ensemble"])
def test_the_better_one_becomes_the_bundle(tmp_path, kind):
    story = Story(tmp_path, kind)
    story.finish()
    assert story.told[0]["record"]["steps"] == [6, 9]
    story.record(map=2.0)
    chosen = story.choice()
    assert (chosen.kind, chosen.validation["map"]) == (kind, 2.0)
    assert chosen.origin() == {"weights_of": kind, "snapshots": [6, 9]}
    kept = [
        combining.read_state(story.storage, snapshots.snapshot_uri(story.state, step))
        for step in (6, 9)
    ]
    if kind == "ensemble":
        for found, state in zip(chosen.states, kept, strict=True):
            assert torch.equal(found["head.weight"], state["head.weight"])
    else:
        mean = (kept[0]["head.weight"] + kept[1]["head.weight"]) / 2
        torch.testing.assert_close(chosen.states[0]["head.weight"], mean)
    assert not np.array_equal(chosen.predictions.logits_NK, story.reports[-1].predictions.logits_NK)
    assert chosen.mark(story.best) is None  # no single evaluation made it
    (line,) = choice_lines(chosen, "map", story.best)
    assert "of 2 snapshots: map 2.0000" in line

    story.record(map=story.best["map"] - 0.1)
    chosen = story.choice()
    assert chosen.kind == "checkpoint"
    assert chosen.mark(story.best) == story.best["samples_seen"]
    assert chosen.origin() == {"weights_of": "checkpoint"}
    assert torch.equal(chosen.states[0]["head.weight"], story.checkpoint.model["head.weight"])
    assert np.array_equal(chosen.predictions.logits_NK, story.reports[-1].predictions.logits_NK)
    assert "the bundle is the best checkpoint" in choice_lines(chosen, "map", story.best)[0]

    story.record()  # not finite
    assert story.choice().kind == "checkpoint"
    assert "map not finite" in choice_lines(story.choice(), "map", story.best)[0]


def test_by_loss_less_is_better(tmp_path):
    story = Story(tmp_path, "swa")
    story.finish()
    story.setup.best = "loss"
    story.record(val_loss=story.best["val_loss"] / 2)
    assert story.choice().kind == "swa"
    story.record(val_loss=story.best["val_loss"] * 2)
    assert story.choice().kind == "checkpoint"


def test_what_was_combined_is_not_combined_again(tmp_path):
    story = Story(tmp_path, "swa")
    options = story.settings.average
    assert snapshots.pending(story.storage, story.state, story.setup.plan, options) == (6, 9)
    story.finish(rank=1)
    assert snapshots.pending(story.storage, story.state, story.setup.plan, options) == (6, 9)
    story.finish()
    assert snapshots.pending(story.storage, story.state, story.setup.plan, options) == ()
    story.finish()
    assert len(story.told) == 1


def test_without_snapshots_the_best_checkpoint_is_the_bundle(tmp_path):
    story = Story(tmp_path, "none")
    story.finish()
    assert story.told == []
    chosen = story.choice()
    assert (chosen.kind, chosen.combined) == ("checkpoint", None)
    assert choice_lines(chosen, "map", story.best) == ()
    assert isinstance(chosen.predictions, Predictions)


def test_an_ensemble_of_dense_heads_is_refused_before_anything_runs(tmp_path):
    archive = generate(tmp_path / "archive", tiles=16)
    wanted = make_recipe(
        archive,
        tmp_path,
        variant="simple_cnn_dense",
        average={"snapshots": "ensemble"},
        input={"size": TILE},
    )
    with pytest.raises(InputError, match=r"average\.snapshots=ensemble: needs a linear head"):
        set_up(wanted, Storage())
