"""Averages on a real Ray: snapshots and their average, after a crash too."""

import json
from pathlib import Path

import numpy as np
import pytest
from training.small_archive import SIDE, generate, make_recipe, make_run

from satray.storage import Storage
from satray.training.plan.snapshots import RECORD, STATE, combined_uri

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


def test_snapshots_become_an_average(ray_session, tmp_path, monkeypatch):
    from satray.metrics.summary import compute_metrics
    from satray.models.bundle import load_bundle
    from satray.training import job
    from satray.training.workers import choice

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
    first = {
        name: (Path(run.out) / "bundle" / name).read_bytes() for name in ("model.safetensors",)
    }

    # Training was over when the workers died: only the end is done again, and comes out the same.
    Path(combined_uri(run.state, RECORD)).unlink()
    Path(combined_uri(run.state, STATE)).unlink()
    run, said = make_run(tmp_path / "out")
    job.work(make_recipe(archive, tmp_path, **changes), run)
    assert not any(line.strip().startswith("pseudo-epoch") for line in said)
    for name, data in first.items():
        assert (Path(run.out) / "bundle" / name).read_bytes() == data
