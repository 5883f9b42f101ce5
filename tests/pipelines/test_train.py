"""Training on a real Ray: bundle, workers, crashes, reruns."""

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from by_hand import planned, worked
from train.small_archive import SIDE, generate, make_recipe, make_run

from satray.errors import InputError, TrainingError
from satray.storage import Storage

pytestmark = pytest.mark.pipeline


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return generate(tmp_path_factory.mktemp("archive"))


@pytest.fixture(scope="module")
def job(ray_session):
    from satray.train import job

    return job


def rich_recipe(archive, folder, **changes):
    """What takes part in every sample: repeats, weights, resized crops, colours."""
    return make_recipe(
        archive,
        folder,
        repeat=0.9,
        loss={"positive_weight": "balanced"},
        augment={"crop": "resized", "brightness": 0.1, "contrast": 0.1},
        precision="fp32",  # batches of another shape round otherwise in bf16
        **changes,
    )


@pytest.fixture(scope="module")
def plain(job, archive, tmp_path_factory):
    """One worker, undisturbed."""
    folder = tmp_path_factory.mktemp("plain")
    run, said = make_run(folder / "out")
    outcome = worked(job, rich_recipe(archive, folder), run)
    return outcome, run, said


def validation(archive, bundle):
    """Logits of the validation split by a bundle of red, green and blue, and its labels."""
    import torch

    from satray.data.decode import read_pixels
    from satray.data.index import read_index

    val = read_index(archive.index, Storage()).part("val")
    pixels = np.stack(
        [
            read_pixels(Path(uri).read_bytes(), (2, 1, 0), SIDE, SIDE, "uint16")
            for uri in val.table.column("uri").to_pylist()
        ]
    )
    return bundle.logits(torch.from_numpy(pixels)).numpy(), val.labels


def history(run):
    table = pq.read_table(os.path.join(run.out, "history.parquet"))
    timing = [name for name in table.column_names if "second" in name]
    return table.drop_columns(timing).to_pydict()


def same(first, second):
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def test_one_worker_trains_and_leaves_a_bundle(plain):
    outcome, run, said = plain
    from satray.models.bundle import load_bundle

    bundle = load_bundle(run.out, Storage())
    assert bundle.spec.classes == ("bright", "left")
    assert bundle.spec.bands == ("red", "green", "blue")
    # 500 km west of its meridian UTM shows the ground 1.0027 times as long
    assert bundle.spec.resolution == pytest.approx(2.992, abs=1e-3)
    assert outcome.counts == {
        "train_tiles": 48,
        "val_tiles": 16,
        "classes": 2,
        "pseudo_epochs": 3,
        "samples": 144,
        "unreadable_tiles": 0,
    }
    rows = history(run)
    assert rows["samples_seen"] == [48, 96, 144]
    assert rows["train_loss"][-1] < rows["train_loss"][0]
    figures = json.loads((Path(run.out) / "metrics.json").read_text())
    assert figures["best"]["map"] == max(rows["map"])
    assert figures["best"]["ap"].keys() == {"bright", "left"}
    made = {product.path for product in run.products}
    assert {
        "bundle/model.json",
        "bundle/model.safetensors",
        "history.parquet",
        "metrics.json",
        "curves.png",
    } <= made
    assert any(path.startswith("tensorboard/events") for path in made)
    assert all((Path(run.out) / path).stat().st_size for path in made)
    assert sum("pseudo-epoch" in line for line in said) == 3
    assert sum("a pass has" in line for line in said) == 1
    assert figures["watch"].keys() == {"always", "never"}


def test_the_bundle_scores_as_validation_did(plain, archive):
    from satray.metrics.summary import compute_metrics
    from satray.models.bundle import load_bundle

    _, run, _ = plain
    bundle = load_bundle(run.out, Storage())
    logits, labels = validation(archive, bundle)
    found = compute_metrics(logits, labels, bundle.spec.classes, "multilabel")
    assert found["map"] == pytest.approx(max(history(run)["map"]), abs=1e-6)


def dying(folder, times):
    """Stand in for the worker function: SIGKILL in the midst of the second pseudo-epoch.

    Once the first is kept: Ray's controller writes a checkpoint down some time after its report.
    """

    def work(task):  # local, so that it is pickled by value: workers cannot import tests
        from satray.train.workers import checkpoints, launch

        read = launch.batches

        def kept():
            return checkpoints.find(task.storage, task.state).pseudo_epochs >= 1

        def deadly(*args, pseudo_epoch=None, **options):
            for number, batch in enumerate(read(*args, pseudo_epoch=pseudo_epoch, **options)):
                deaths = len(list(Path(folder).iterdir()))
                if pseudo_epoch == 1 and number == 3 and deaths < times:
                    until = time.monotonic() + 60
                    while not kept() and time.monotonic() < until:
                        time.sleep(0.05)
                    (Path(folder) / str(deaths)).touch()
                    os.kill(os.getpid(), signal.SIGKILL)
                yield batch

        launch.batches = deadly  # in this process only, which is the worker's own
        launch._work(task)

    return work


def test_two_workers_of_whom_one_is_killed_equal_one_at_the_same_global_batch(
    job, plain, archive, tmp_path, monkeypatch
):
    from satray.train.workers import launch

    killed = tmp_path / "killed"
    killed.mkdir()
    monkeypatch.setattr(launch, "_work", dying(str(killed), 1))
    run, said = make_run(tmp_path / "out")
    worked(job, rich_recipe(archive, tmp_path, resources={"workers": 2, "gpus": "no"}), run)
    assert len(list(killed.iterdir())) == 1
    assert "training on 2 CPU workers" in said
    assert any("started again" in line for line in said)
    one, two = history(plain[1]), history(run)
    for name in ("train_loss", "val_loss"):
        np.testing.assert_allclose(one[name], two[name], atol=1e-4, err_msg=name)
    assert one["samples_seen"] == two["samples_seen"]


def dying_at_the_end(folder):
    """Stand in for the worker function: SIGKILL when training is over, the first time."""

    def work(task):
        from satray.train.workers import checkpoints, combining, launch

        finish = combining.finish

        def deadly(*args):
            if not list(Path(folder).iterdir()):
                until = time.monotonic() + 60
                while checkpoints.find(task.storage, task.state).pseudo_epochs < 3:
                    if time.monotonic() > until:
                        break
                    time.sleep(0.05)
                (Path(folder) / "died").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            finish(*args)

        combining.finish = deadly
        launch._work(task)

    return work


def combined(found, best):
    """Stand in for the choice, which so few tiles leave open: the average."""
    return 0.0 if "step" in found else 1.0


@pytest.fixture(scope="module")
def interrupted(job, archive, tmp_path_factory):
    """The recipe of `plain`, with snapshots: its worker dies twice, and once at the very end."""
    from satray.train.workers import checkpoints, choice, launch, trainer

    folder = tmp_path_factory.mktemp("interrupted")
    recipe = rich_recipe(
        archive,
        folder,
        average={"snapshots": "swa", "start": 0.3},
        calibrate={"positives": 4},
    )
    # No failure is forgiven: the first is followed by another attempt, since a pseudo-epoch was
    # done before it; the second, in the same pseudo-epoch, stops the run for good.
    killed = folder / "killed"
    killed.mkdir()
    run, said = make_run(folder / "out")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "MAX_FAILURES", 0)
        patch.setattr(launch, "_work", dying(str(killed), 2))
        with pytest.raises(TrainingError, match="worker 0 failed") as caught:
            worked(job, recipe, run)
    assert "\n" not in str(caught.value)
    assert len(list(killed.iterdir())) == 2
    assert sum("1 of 3 pseudo-epochs are done: going on" in line for line in said) == 1
    assert checkpoints.find(run.storage, run.state).pseudo_epochs == 1
    assert not (Path(run.out) / "bundle").exists()

    # Its list of checkpoints torn as by a crash of the machine.
    snapshot = Path(run.state) / checkpoints.NAME / checkpoints.SNAPSHOT
    snapshot.write_text(snapshot.read_text()[:100])

    late = folder / "late"
    late.mkdir()
    again, said = make_run(folder / "out")
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "_work", dying_at_the_end(str(late)))
        patch.setattr(choice, "score", combined)
        outcome = job.train_with(recipe, job.read(recipe, again.storage), again, seen.append)
    assert (late / "died").exists()
    return recipe, again, said, seen, outcome


def test_an_interrupted_run_goes_on_and_a_finished_state_only_writes(
    job, plain, interrupted, monkeypatch
):
    from satray.train.workers import choice

    recipe, run, _, seen, _ = interrupted
    epochs = [message["row"]["pseudo_epoch"] for message in seen if message["kind"] == "epoch"]
    assert epochs == [1, 2]  # the end alone was done again when the worker died there
    same(history(plain[1]), history(run))

    # The driver dies before run.json: a rerun must not train.
    for product in ("bundle/model.json", "history.parquet"):
        (Path(run.out) / product).unlink()
    monkeypatch.setattr(choice, "score", combined)
    third, _ = make_run(Path(run.out))
    seen.clear()
    job.train_with(recipe, job.read(recipe, third.storage), third, seen.append)
    assert seen == []
    same(history(plain[1]), history(third))


def test_snapshots_become_an_average(interrupted, archive):
    from satray.metrics.summary import compute_metrics
    from satray.models.bundle import load_bundle

    _, run, said, _, outcome = interrupted
    assert any("the bundle is the average" in line for line in outcome.summary)
    figures = json.loads((Path(run.out) / "metrics.json").read_text())
    assert (figures["bundle"]["weights_of"], figures["bundle"]["snapshots"]) == ("swa", [6, 12, 18])
    assert any("3 snapshots combined: swa" in line for line in said)
    bundle = load_bundle(run.out, Storage())
    assert bundle.spec.provenance["weights_of"] == "swa"
    assert bundle.spec.temperature == figures["calibration"]["temperature"] != 1.0
    assert list(bundle.spec.thresholds) == list(figures["calibration"]["thresholds"].values())
    logits, labels = validation(archive, bundle)
    found = compute_metrics(logits, labels, bundle.spec.classes, "multilabel")
    assert found["log_loss"] == pytest.approx(figures["snapshots"]["validation"]["log_loss"], 1e-4)


def test_unreadable_tiles_are_listed_and_training_goes_on(job, tmp_path):
    archive = generate(tmp_path / "archive", tiles=32, spoil=(4, 5))
    run, _ = make_run(tmp_path / "out")
    stages = [{"learning_rate": "auto", "pseudo_epochs": 1}]
    search = {"lowest": 1e-5, "highest": 1.0, "steps": 24, "seeds": 1}
    recipe = make_recipe(
        archive, tmp_path, stages=stages, landscape=search, deterministic=False, error_budget=0.2
    )
    outcome = worked(job, recipe, run)
    assert outcome.counts["unreadable_tiles"] == 2
    table = pq.read_table(os.path.join(run.out, "unreadable.parquet")).to_pylist()
    assert [(row["tile_id"], row["split"]) for row in table] == [("t005", "train"), ("t004", "val")]
    assert all(row["error"] for row in table)

    # its learning rate was found first, on a worker of its own, and is written down
    figures = json.loads((Path(run.out) / "metrics.json").read_text())
    (found,) = figures["range_tests"]
    assert 1e-5 < found["learning_rate"] < 1.0
    assert max(history(run)["learning_rate"]) <= found["learning_rate"]
    bundled = json.loads((Path(run.out) / "bundle" / "model.json").read_text())
    assert bundled["provenance"]["learning_rates"] == [found["learning_rate"]]
    assert (Path(run.out) / "landscape.png").stat().st_size

    # The driver dies before run.json: what could not be read is known all the same, and the
    # seconds of the first attempt are not the second's.
    assert run.seconds["training"] > 0
    again, _ = make_run(tmp_path / "out")
    assert worked(job, recipe, again).counts["unreadable_tiles"] == 2
    assert pq.read_table(os.path.join(again.out, "unreadable.parquet")).to_pylist() == table
    assert again.seconds["training"] == 0


def test_a_loss_that_explodes_ends_in_one_line(job, archive, tmp_path):
    run, _ = make_run(tmp_path / "out")
    stages = [
        {"learning_rate": 1e30, "pseudo_epochs": 2, "schedule": {"name": "constant"}},
    ]
    recipe = make_recipe(archive, tmp_path, stages=stages, optimizer={"name": "sgd"})
    with pytest.raises(TrainingError, match="learning") as caught:
        worked(job, recipe, run)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"batch": 100}, "batch=100"),
        ({"variant": "simple_cm"}, "simple_cnn"),
        (
            {"variant": {"towers": [{"name": "a", "backbone": "simple_cnn", "bands": ["swir16"]}]}},
            "swir16",
        ),
        ({"input": {"size": SIDE, "normalize": "imagenet"}}, "uint8"),
        ({"batch": 9, "resources": {"workers": 2, "gpus": "no"}}, "workers"),
        ({"loss": {"name": "cross_entropy"}}, "loss.name=cross_entropy"),
    ],
)
def test_what_cannot_be_is_refused_without_ray(archive, tmp_path, changes, said):
    from satray.train import job

    with pytest.raises(InputError, match=said):
        job.read(make_recipe(archive, tmp_path, **changes), Storage())


def test_the_plan_says_what_would_be_done(archive, tmp_path):
    from satray.train import job

    lines = "\n".join(planned(job, make_recipe(archive, tmp_path)))
    for part in ("48 train", "18 steps of 8", "3 evaluations", "simple_cnn", "best by map"):
        assert part in lines
