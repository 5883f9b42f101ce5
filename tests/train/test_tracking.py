"""Where the history goes: a table, MLflow in one run over stops and restarts, TensorBoard."""

import math
from threading import Event

import pytest
from train.small_archive import make_run

from satray.config.train import TrainRecipe
from satray.errors import InputError, TrainingError
from satray.train import tracking

LOSSES = [(100, 1.0), (200, 0.5), (300, 1 / 3)]


def recipe(tracker="mlflow", **more):
    return TrainRecipe(index="/nowhere", weights="none", tracking=tracker, **more)


def row(pseudo_epoch):
    return {
        "pseudo_epoch": pseudo_epoch,
        "samples_seen": 100 * (pseudo_epoch + 1),
        "times_seen": 1.0 + pseudo_epoch,
        "train_loss": 1.0 / (pseudo_epoch + 1),
        "map": 0.5 + 0.1 * pseudo_epoch,
        "auc": math.nan,
        "ap_ship": 0.5,
    }


ROWS = [row(number) for number in range(3)]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A database of MLflow's; `server["log_batch"]` says what becomes of a batch."""
    pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    found = {"uri": f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'all.db'}"}
    found["take"] = found["log_batch"] = SqlAlchemyStore.log_batch
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SqlAlchemyStore, "log_batch", lambda *a, **k: found["log_batch"](*a, **k))
        yield found


@pytest.fixture
def client(server, monkeypatch):
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", server["uri"])
    return MlflowClient(server["uri"])


def mine(client, run):
    """The MLflow run of a training run."""
    experiment = client.get_experiment_by_name("satray")
    found = client.search_runs([experiment.experiment_id])
    (one,) = [each for each in found if each.data.tags["satray.out"] == run.out]
    return one


def logged(client, run, name="loss/train"):
    history = client.get_metric_history(mine(client, run).info.run_id, name)
    return [(m.step, m.value) for m in history]


def test_a_run_that_was_stopped_goes_on_in_the_same_mlflow_run(client, tmp_path):
    run, _ = make_run(tmp_path)

    def stopped():
        with tracking.follow(recipe(batch=16), run) as tracker:
            tracker.row(ROWS[0])
            raise TrainingError("stopped")

    with pytest.raises(TrainingError, match="stopped"):
        stopped()
    first = mine(client, run)
    assert first.info.status == "FAILED"
    assert logged(client, run) == LOSSES[:1]

    with tracking.follow(recipe(batch=16), run) as tracker:
        assert client.get_run(first.info.run_id).info.status == "RUNNING"
        for number in (1, 2):
            tracker.row(ROWS[number])
        tracker.publish(ROWS)
    found = mine(client, run)
    assert (found.info.run_id, found.info.status) == (first.info.run_id, "FINISHED")
    assert logged(client, run) == LOSSES
    assert logged(client, run, "ap/ship") == [(100, 0.5), (200, 0.5), (300, 0.5)]
    assert logged(client, run, "validation/auc") == []  # undefined
    assert found.data.params["batch"] == "16"
    assert found.data.params["stages.0.learning_rate"] == "0.001"
    assert not any(name.startswith(("storage", "resources", "out")) for name in found.data.params)

    other, _ = make_run(tmp_path / "other")  # another folder is another run
    with tracking.follow(recipe(), other):
        assert mine(client, other).info.run_id != found.info.run_id


def test_a_server_that_is_gone_costs_a_note_and_is_asked_again_when_the_run_goes_on(
    client, server, tmp_path, monkeypatch
):
    asked = []

    def fails(*args, **options):
        asked.append(args)
        raise OSError("gone\naway")

    run, said = make_run(tmp_path)
    with tracking.follow(recipe(), run) as tracker:
        tracker.row(ROWS[0])
    monkeypatch.setitem(server, "log_batch", fails)
    with tracking.follow(recipe(), run) as tracker:
        tracker.row(ROWS[1])
        tracker.row(ROWS[1])
    assert len(asked) == 1
    monkeypatch.setitem(server, "log_batch", server["take"])
    why = "(OSError: gone away); history.parquet has all"
    assert said == [f"note: MLflow lacks rows from 200 samples on {why}"]
    with tracking.follow(recipe(), run) as tracker:
        tracker.row(ROWS[2])
    assert logged(client, run) == [LOSSES[0], LOSSES[2]]


def test_a_server_that_hangs_does_not_hold_training_and_gets_all_rows(
    client, server, tmp_path, monkeypatch
):
    let_go, in_time = Event(), []

    def slow(*args, **options):
        in_time.append(let_go.wait(5))
        return server["take"](*args, **options)

    run, _ = make_run(tmp_path)
    with tracking.follow(recipe(), run) as tracker:
        monkeypatch.setitem(server, "log_batch", slow)
        for each in ROWS:
            tracker.row(each)
        let_go.set()
    assert in_time == [True] * 3
    assert logged(client, run) == LOSSES


def test_a_server_that_is_not_there_ends_before_training(client, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    run, _ = make_run(tmp_path)
    with (
        pytest.raises(InputError, match="MLFLOW_TRACKING_URI does not answer") as refused,
        tracking.follow(recipe(), run),
    ):
        pytest.fail("training started")
    assert "\n" not in str(refused.value)


def test_class_names_become_metric_names_that_mlflow_takes(client):
    """Told apart, and as the server gives them back."""
    classes = ("haze & fog", "été", "ètè", "..", "a/b", "a_b", "x" * 300, "été/../x", ".", "a:b")
    made = {tracking.metric_name(f"ap/{name}"): float(k) for k, name in enumerate(classes)}
    assert len(made) == len(classes)
    assert "ap/haze _26 fog" in made
    run = client.create_run(client.create_experiment("names")).info.run_id
    for name, value in made.items():
        client.log_metric(run, name, value)
    assert client.get_run(run).data.metrics == made


def events(folder):
    """What TensorBoard makes of a folder's files together."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder))
    found.Reload()
    return [(e.step, pytest.approx(e.value)) for e in found.Scalars("loss/train")]


def test_events_come_live_and_once_though_a_run_was_stopped(tmp_path):
    run, _ = make_run(tmp_path)
    live = f"{run.state}/tensorboard"
    with tracking.follow(recipe("tensorboard"), run) as tracker:
        tracker.row(ROWS[0])
        assert events(live) == LOSSES[:1]  # while training goes on
        tracker.row(ROWS[1])
    again, _ = make_run(tmp_path)
    with tracking.follow(recipe("tensorboard"), again) as tracker:
        tracker.row(ROWS[1])  # its checkpoint was lost
        tracker.row(ROWS[2])
        assert events(live) == LOSSES
        tracker.publish(ROWS)
    (product,) = again.products
    assert product.path.startswith("tensorboard/events")
    assert events(f"{again.out}/tensorboard") == LOSSES
