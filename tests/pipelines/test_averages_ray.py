"""Averages on a real Ray: snapshots and their average, through a crash at the very end."""

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from training.small_archive import SIDE, generate, make_recipe, make_run

from satray.storage import Storage

pytestmark = pytest.mark.pipeline

TOWER = {"name": "all", "backbone": "resnet18", "bands": ["red", "green", "nir"]}


def validation(archive, bundle):
    """Logits of the validation split by the bundle, and its labels."""
    import torch

    from satray.tiles.decode import read_pixels
    from satray.tiles.index import read_index

    val = read_index(archive.index, Storage()).part("val")
    places = [("blue", "green", "red", "nir").index(band) for band in bundle.spec.bands]
    pixels = np.stack(
        [
            read_pixels(Path(uri).read_bytes(), tuple(places), SIDE, SIDE, "uint16")
            for uri in val.table.column("uri").to_pylist()
        ]
    )
    return bundle.logits(torch.from_numpy(pixels)).numpy(), val.labels


def dying_at_the_end(folder):
    """Stand in for the worker function: SIGKILL when training is over, the first time.

    And kept: Ray's controller writes down a checkpoint some time after it was reported.
    """

    def work(task):  # local, so that it is pickled by value: workers cannot import tests
        from satray.training.workers import checkpoints, combining, launch

        finish = combining.finish

        def deadly(*args):
            if not list(Path(folder).iterdir()):
                until = time.monotonic() + 60
                while time.monotonic() < until:
                    if checkpoints.find(task.storage, task.state).pseudo_epochs == 3:
                        break
                    time.sleep(0.1)
                (Path(folder) / "died").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            finish(*args)

        combining.finish = deadly  # in this process only, which is the worker's own
        launch._work(task)

    return work


def test_snapshots_become_an_average(ray_session, tmp_path, monkeypatch):
    from satray.metrics.summary import compute_metrics
    from satray.models.bundle import load_bundle
    from satray.training import job
    from satray.training.workers import choice, launch

    killed = tmp_path / "killed"
    killed.mkdir()
    monkeypatch.setattr(launch, "_work", dying_at_the_end(str(killed)))
    # With so few tiles either may be the better one: the bundle shall be the combination.
    monkeypatch.setattr(choice, "score", lambda found, best: 0.0 if "step" in found else 1.0)
    archive = generate(tmp_path / "archive")
    changes = {
        "variant": {"towers": [TOWER]},
        "stages": [{"learning_rate": 1e-3, "pseudo_epochs": 3, "schedule": {"name": "constant"}}],
        "average": {"ema": 0.9, "snapshots": "swa", "start": 0.3},
        "calibrate": {"positives": 4},
    }
    run, said = make_run(tmp_path / "out")
    outcome = job.work(make_recipe(archive, tmp_path, **changes), run)
    # Only the end was done again when the worker died.
    assert (killed / "died").exists()
    assert sum(line.strip().startswith("pseudo-epoch") for line in said) == 3
    figures = json.loads((Path(run.out) / "metrics.json").read_text())
    assert (figures["bundle"]["weights_of"], figures["bundle"]["snapshots"]) == ("swa", [6, 12, 18])
    assert any("3 snapshots combined: swa" in line for line in said)
    assert any("the bundle is the average" in line for line in outcome.summary)
    bundle = load_bundle(run.out, Storage())
    assert bundle.spec.provenance["weights_of"] == "swa"
    assert bundle.spec.temperature == figures["calibration"]["temperature"] != 1.0
    assert list(bundle.spec.thresholds) == list(figures["calibration"]["thresholds"].values())
    logits, labels = validation(archive, bundle)
    found = compute_metrics(logits, labels, bundle.spec.classes, "multilabel")
    assert found["log_loss"] == pytest.approx(figures["snapshots"]["validation"]["log_loss"], 1e-4)
