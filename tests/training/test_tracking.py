"""Where the history goes: MLflow in one run over stops and restarts, TensorBoard, nowhere."""

import json
import math

import pytest
from training.small_archive import make_run

from satray.config.train import TrainRecipe
from satray.errors import InputError, TrainingError
from satray.training import tracking


def recipe(tracker="mlflow", **more):
    return TrainRecipe(index="/nowhere", tracking=tracker, **more)


def row(pseudo_epoch, **more):
    return {
        "pseudo_epoch": pseudo_epoch,
        "samples_seen": 100 * (pseudo_epoch + 1),
        "times_seen": 1.0 + pseudo_epoch,
        "train_loss": 1.0 / (pseudo_epoch + 1),
        "map": 0.5 + 0.1 * pseudo_epoch,
        "auc": math.nan,
        "ap_ship": 0.5,
        **more,
    }


def epoch(number):
    return {"kind": "epoch", "rank": 0, "row": row(number)}


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'all.db'}"


@pytest.fixture
def client(database, monkeypatch):
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv(tracking.URI, database)
    return MlflowClient(database)


def mine(client, run):
    experiment = client.get_experiment_by_name("satray")
    found = client.search_runs([experiment.experiment_id])
    return [each for each in found if each.data.tags["satray.out"] == run.out]


def logged(client, run_id, name):
    return [(m.step, m.value) for m in client.get_metric_history(run_id, name)]


def stop_after_one(run, heard):
    with tracking.follow(recipe(batch=16), run, heard.append) as listen:
        listen({"kind": "progress"})
        listen(epoch(0))
        listen({"kind": "epoch", "rank": 1, "row": None})
        raise TrainingError("stopped")


def test_a_run_that_was_stopped_goes_on_in_the_same_mlflow_run(client, tmp_path):
    run, _ = make_run(tmp_path)
    heard = []
    with pytest.raises(TrainingError, match="stopped"):
        stop_after_one(run, heard)
    assert len(heard) == 3  # all is handed on
    (first,) = mine(client, run)
    assert first.info.status == "FAILED"

    with tracking.follow(recipe(batch=16), run, None) as listen:
        assert client.get_run(first.info.run_id).info.status == "RUNNING"
        listen(epoch(1))
        # the second row came twice, and the third was never heard of
        tracking.publish(recipe(batch=16), run, [row(0), row(1), row(2)])
    (found,) = mine(client, run)
    assert found.info.run_id == first.info.run_id
    assert found.info.status == "FINISHED"
    assert logged(client, found.info.run_id, "loss/train") == [(100, 1.0), (200, 0.5), (300, 1 / 3)]
    assert logged(client, found.info.run_id, "ap/ship") == [(100, 0.5), (200, 0.5), (300, 0.5)]
    assert logged(client, found.info.run_id, "validation/auc") == []  # undefined
    assert found.data.params["batch"] == "16"
    assert found.data.params["stages.0.learning_rate"] == "0.001"
    assert not any(name.startswith(("storage", "resources", "out")) for name in found.data.params)
    assert found.data.tags["satray.out"] == run.out
    assert json.loads((tmp_path / "state" / run.run_id / "mlflow.json").read_text()) == {
        "run_id": found.info.run_id
    }


def test_another_folder_is_another_run(client, tmp_path):
    ids = []
    for name in ("a", "b"):
        run, _ = make_run(tmp_path / name)
        ids.append(tracking.MlflowRun(recipe(), run).run_id)
    assert len(set(ids)) == 2


def test_a_run_that_mlflow_lost_is_started_anew(client, tmp_path):
    run, said = make_run(tmp_path)
    run.storage.write(f"{run.state}/mlflow.json", b'{"run_id": "0123"}')
    assert tracking.MlflowRun(recipe(), run).run_id != "0123"
    assert said == ["note: MLflow has no run 0123 any more; starting another"]


def test_a_server_that_goes_away_costs_a_note(client, tmp_path, monkeypatch):
    run, said = make_run(tmp_path)
    with tracking.follow(recipe(), run, None) as listen:
        with monkeypatch.context() as away:
            away.setattr(
                "mlflow.tracking.MlflowClient.log_batch",
                lambda *a, **k: (_ for _ in ()).throw(OSError("gone\naway")),
            )
            listen(epoch(0))
            listen(epoch(1))
        listen(epoch(2))
        tracking.publish(recipe(), run, [row(0), row(1), row(2)])
    assert said == ["note: MLflow: gone; training goes on, rows follow later"]
    (found,) = mine(client, run)
    steps = logged(client, found.info.run_id, "loss/train")
    assert sorted(steps) == [(100, 1.0), (200, 0.5), (300, 1 / 3)]


def test_a_server_that_is_not_there_ends_before_training(client, tmp_path, monkeypatch):
    monkeypatch.setenv(tracking.URI, "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    run, said = make_run(tmp_path)
    with (
        pytest.raises(InputError, match="MLFLOW_TRACKING_URI does not answer"),
        tracking.follow(recipe(), run, None),
    ):
        pytest.fail("training started")
    tracking.publish(recipe(), run, [row(0)])  # at the end, it must not cost the products
    assert "does not answer" in said[0]


def test_mlflow_must_be_installed(monkeypatch):
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="not installed; accepted: tensorboard, none, or first"):
        tracking.check(recipe())
    tracking.check(recipe("tensorboard"))
    tracking.check(recipe("none"))


def test_mlflow_must_know_its_server(monkeypatch):
    monkeypatch.setattr(tracking, "find_spec", lambda name: object())
    monkeypatch.delenv(tracking.URI, raising=False)
    with pytest.raises(InputError, match="MLFLOW_TRACKING_URI is not set"):
        tracking.check(recipe())


def test_class_names_become_metric_names():
    given = [("ap/haze & fog", 1.0), ("ap/été", 2.0), ("ap/ètè", 3.0), ("ap/..", 4.0)]
    given += [("ap/a/b", 5.0), ("ap/a_b", 6.0), ("validation/map", 7.0), ("ap/" + "x" * 300, 8.0)]
    made = list(tracking.metric_names(iter(given)))
    assert [name for name, _ in made] == [
        *("ap/haze _ fog", "ap/_t_", "ap/_t__2", "ap/__", "ap/a_b", "ap/a_b_2"),
        *("validation/map", "ap/" + "x" * 200),
    ]
    assert [value for _, value in made] == [value for _, value in given]


def test_mlflow_takes_those_names(client):
    from mlflow.utils.validation import _validate_metric_name

    for name in ("été/../x", "..", ".", "", "a//b", " ", "x" * 300, "a:b", "\n"):
        ((made, _),) = tracking.metric_names(iter([(f"ap/{name}", 1.0)]))
        _validate_metric_name(made)


def test_events_only_where_they_are_asked_for(tmp_path):
    for tracker, files in (("tensorboard", 1), ("none", 0)):
        run, _ = make_run(tmp_path / tracker)
        with tracking.follow(recipe(tracker), run, print) as listen:
            assert listen is print
        tracking.publish(recipe(tracker), run, [row(0), row(1)])
        assert len(run.products) == files
