"""Where the history goes: MLflow in one run over stops and restarts, TensorBoard, nowhere."""

import json
import math
import threading
import time

import pytest
from train.small_archive import make_run

from satray.config.train import TrainRecipe
from satray.errors import InputError, TrainingError
from satray.train.tracking import mlflow_run, sinks


def recipe(tracker="mlflow", **more):
    return TrainRecipe(index="/nowhere", weights="none", tracking=tracker, **more)


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

    monkeypatch.setenv(mlflow_run.URI, database)
    return MlflowClient(database)


def mine(client, run):
    experiment = client.get_experiment_by_name("satray")
    found = client.search_runs([experiment.experiment_id])
    return [each for each in found if each.data.tags["satray.out"] == run.out]


def logged(client, run_id, name):
    return [(m.step, m.value) for m in client.get_metric_history(run_id, name)]


def stop_after_one(run, heard):
    with sinks.follow(recipe(batch=16), run, heard.append) as listen:
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

    with sinks.follow(recipe(batch=16), run, None) as listen:
        assert client.get_run(first.info.run_id).info.status == "RUNNING"
        listen(epoch(1))
        # the second row came twice, and the third was never heard of
        listen.publish([row(0), row(1), row(2)])
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
        ids.append(mlflow_run.MlflowRun(recipe(), run).run_id)
    assert len(set(ids)) == 2


def test_a_run_that_mlflow_lost_is_started_anew(client, tmp_path):
    run, said = make_run(tmp_path)
    run.storage.write(f"{run.state}/mlflow.json", b'{"run_id": "0123"}')
    assert mlflow_run.MlflowRun(recipe(), run).run_id != "0123"
    assert said == ["note: MLflow has no run 0123 any more; starting another"]


def test_a_server_that_goes_away_costs_a_note(client, tmp_path, monkeypatch):
    run, said = make_run(tmp_path)
    with sinks.follow(recipe(), run, None) as listen:
        with monkeypatch.context() as away:
            away.setattr(
                "mlflow.tracking.MlflowClient.log_batch",
                lambda *a, **k: (_ for _ in ()).throw(OSError("gone\naway")),
            )
            listen(epoch(0))
            listen(epoch(1))
            listen.tracker.settle()
        listen(epoch(2))
        listen.publish([row(0), row(1), row(2)])
    assert said == ["note: MLflow: gone; training goes on, rows follow later"]
    (found,) = mine(client, run)
    steps = logged(client, found.info.run_id, "loss/train")
    assert sorted(steps) == [(100, 1.0), (200, 0.5), (300, 1 / 3)]


def test_a_server_that_is_not_there_ends_before_training(client, tmp_path, monkeypatch):
    monkeypatch.setenv(mlflow_run.URI, "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    run, _ = make_run(tmp_path)
    with (
        pytest.raises(InputError, match="MLFLOW_TRACKING_URI does not answer"),
        sinks.follow(recipe(), run, None),
    ):
        pytest.fail("training started")


def away(*args, **options):
    raise OSError("gone")


def test_a_server_that_is_gone_at_the_end_costs_no_product(client, tmp_path, monkeypatch):
    run, said = make_run(tmp_path)
    with sinks.follow(recipe(), run, None) as listen:
        monkeypatch.setattr("mlflow.tracking.MlflowClient.log_batch", away)
        listen.publish([row(0), row(1)])
    assert said[1] == "note: MLflow lacks 2 of 2 rows; history.parquet has all"


def test_a_slow_server_keeps_nobody_waiting_and_knows_each_row_once(client, tmp_path, monkeypatch):
    run, _ = make_run(tmp_path)
    heard, freed = [], threading.Event()
    log = client.__class__.log_batch

    def slow(*args, **options):
        assert freed.wait(10)
        log(*args, **options)

    with sinks.follow(recipe(), run, heard.append) as listen:
        monkeypatch.setattr("mlflow.tracking.MlflowClient.log_batch", slow)
        for number in range(3):
            listen(epoch(number))
        assert len(heard) == 3  # though not one is logged yet
        (found,) = mine(client, run)
        assert logged(client, found.info.run_id, "loss/train") == []
        freed.set()
        listen.publish([row(0), row(1), row(2)])
    (found,) = mine(client, run)
    assert found.info.status == "FINISHED"
    for name in ("loss/train", mlflow_run.ALWAYS):
        assert [step for step, _ in logged(client, found.info.run_id, name)] == [100, 200, 300]


def test_an_answer_that_came_too_late_is_not_logged_twice(client, tmp_path, monkeypatch):
    run, _ = make_run(tmp_path)
    log = client.__class__.log_batch

    def late(*args, **options):
        log(*args, **options)
        raise TimeoutError("20 s")

    with sinks.follow(recipe(), run, None) as listen:
        with monkeypatch.context() as patch:
            patch.setattr("mlflow.tracking.MlflowClient.log_batch", late)
            listen(epoch(0))
            listen.tracker.settle()
        time.sleep(0.002)  # another millisecond would be another entry
        listen.publish([row(0), row(1)])
    (found,) = mine(client, run)
    assert [step for step, _ in logged(client, found.info.run_id, "loss/train")] == [100, 200]


def test_mlflow_must_be_installed(monkeypatch):
    monkeypatch.setattr(mlflow_run, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="not installed; accepted: tensorboard, none, or first"):
        sinks.check(recipe())
    sinks.check(recipe("tensorboard"))
    sinks.check(recipe("none"))


def test_mlflow_must_know_its_server(monkeypatch):
    monkeypatch.setattr(mlflow_run, "find_spec", lambda name: object())
    monkeypatch.delenv(mlflow_run.URI, raising=False)
    with pytest.raises(InputError, match="MLFLOW_TRACKING_URI is not set"):
        sinks.check(recipe())


def test_class_names_become_metric_names():
    given = [("ap/haze & fog", 1.0), ("ap/été", 2.0), ("ap/ètè", 3.0), ("ap/..", 4.0)]
    given += [("ap/a/b", 5.0), ("ap/a_b", 6.0), ("validation/map", 7.0), ("ap/" + "x" * 300, 8.0)]
    made = list(mlflow_run.metric_names(iter(given)))
    assert [name for name, _ in made] == [
        *("ap/haze _ fog", "ap/_t_", "ap/_t__2", "ap/__", "ap/a_b", "ap/a_b_2"),
        *("validation/map", "ap/" + "x" * 200),
    ]
    assert [value for _, value in made] == [value for _, value in given]


def test_mlflow_takes_those_names(client):
    """Names that the server refuses as they are come back from it as they were made."""
    from mlflow.exceptions import MlflowException

    run = client.create_run(client.create_experiment("names")).info.run_id
    with pytest.raises(MlflowException):
        client.log_metric(run, "ap/été/../x", 1.0)
    names = ("été/../x", "..", ".", "", "a//b", " ", "x" * 300, "a:b", "\n")
    made = list(mlflow_run.metric_names((f"ap/{name}", float(k)) for k, name in enumerate(names)))
    for name, value in made:
        client.log_metric(run, name, value)
    assert client.get_run(run).data.metrics == dict(made)
    assert len(dict(made)) == len(names)


def test_events_only_where_they_are_asked_for(tmp_path):
    for tracker, files in (("tensorboard", 1), ("none", 0)):
        run, _ = make_run(tmp_path / tracker)
        heard = []
        with sinks.follow(recipe(tracker), run, heard.append) as listen:
            listen(epoch(0))
            listen.publish([row(0), row(1)])
        assert heard == [epoch(0)]
        assert len(run.products) == files


def events(folder, tag="loss/train"):
    """What TensorBoard makes of a folder's files together."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder))
    found.Reload()
    return [(e.step, pytest.approx(e.value)) for e in found.Scalars(tag)]


def test_events_come_live_and_once_though_a_run_was_stopped(tmp_path):
    run, _ = make_run(tmp_path)
    live = f"{run.state}/tensorboard"
    with sinks.follow(recipe("tensorboard"), run, None) as listen:
        listen(epoch(0))
        assert events(live) == [(100, 1.0)]  # while training goes on
        listen(epoch(1))
    again, _ = make_run(tmp_path)
    with sinks.follow(recipe("tensorboard"), again, None) as listen:
        listen(epoch(1))  # its checkpoint was lost
        listen(epoch(2))
        assert events(live) == [(100, 1.0), (200, 0.5), (300, 1 / 3)]
        listen.publish([row(0), row(1), row(2)])
    (product,) = again.products
    assert product.path.startswith("tensorboard/events")
    assert events(f"{again.out}/tensorboard") == [(100, 1.0), (200, 0.5), (300, 1 / 3)]


def test_on_an_object_store_events_come_at_the_end(tmp_path, monkeypatch):
    run, _ = make_run(tmp_path)
    monkeypatch.setattr("satray.train.tracking.events.is_remote", lambda uri: True)
    with sinks.follow(recipe("tensorboard"), run, None) as listen:
        listen(epoch(0))
        assert run.storage.list(run.out) == []
        listen.publish([row(0)])
    assert [product.path.split("/")[0] for product in run.products] == ["tensorboard"]
