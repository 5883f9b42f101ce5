"""The steps of the demo as runs of their own, and the whole of it on real Ray, made small."""

import json

import pytest

from satray.config.base import Recipe, key
from satray.config.prepare import DemoRecipe
from satray.demo import line
from satray.demo.line import NETWORKS, plan, read, step, work
from satray.errors import SatrayError
from satray.runs.job import Inputs, Job, main
from satray.runs.run import Outcome, Run, find_run, read_run
from satray.storage import Storage

JOB = Job("demo", DemoRecipe, read, plan, work)


class TextRecipe(Recipe):
    """A job that writes its text."""

    text: str = key("a", "what to write")
    failed: int = key(0, "inputs that fail")
    verdict: str | None = key(None, "what there is to say against it")


def write_text(recipe, found, run):
    run.progress("half way")
    run.publish("text.txt", recipe.text.encode())
    if recipe.text == "crash":
        raise SatrayError("no more")
    return Outcome(
        attempted=2, failed=recipe.failed, error_budget=0.0, verdict=recipe.verdict
    )  # fmt: skip


TEXT = Job("text", TextRecipe, lambda *_: Inputs({"input": "digest"}), lambda *_: [], write_text)


@pytest.fixture
def do(tmp_path):
    """Does the step with these keys; gives its record, whether it ran, and progress lines."""
    lines = []
    outer = Run("demo", "0" * 12, str(tmp_path), Storage(), progress=lines.append)

    def do(**keys):
        lines.clear()
        recipe = TextRecipe(out=str(tmp_path / "text"), **keys)
        return (*step(TEXT, recipe, outer, "text one"), list(lines))

    return do


def test_a_step_leaves_a_finished_run_and_is_not_done_again(do, tmp_path):
    record, ran, lines = do()
    assert (ran, lines) == (True, ["text one: half way"])
    assert find_run(Storage(), str(tmp_path / "text")) == record
    assert [product.path for product in record.products] == ["text.txt"]
    assert record.versions["ray"]
    assert record.config["text"] == "a"
    assert do() == (record, False, [])


def test_another_configuration_replaces_it(do, tmp_path):
    do()
    record, ran, _ = do(text="b")
    assert ran
    assert json.loads((tmp_path / "text/run.json").read_text())["run_id"] == record.run_id
    assert (tmp_path / "text/text.txt").read_text() == "b"


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ({"text": "crash"}, "no more"),
        ({"failed": 1}, "text: 1 of 2 inputs failed"),
        ({"verdict": "not so"}, "text: not so"),
    ],
)
def test_a_step_that_does_not_end_well_ends_the_demo(do, tmp_path, keys, why):
    with pytest.raises(SatrayError, match=why):
        do(**keys)
    if "text" in keys:  # no record, and the next attempt goes on
        assert find_run(Storage(), str(tmp_path / "text")) is None
        with pytest.raises(SatrayError, match=why):
            do(**keys)


def test_plan_writes_nothing(tmp_path, capfd):
    assert main(JOB, [f"out={tmp_path}/run", "--plan"]) == 0
    assert "600 tiles of 64 px" in capfd.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.mark.pipeline
def test_demo_runs_is_measured_and_is_found_done(ray_session, tmp_path, capfd, monkeypatch):
    # `make demo` has two and a larger scene; the seconds are better spent elsewhere.
    networks = {"double4_small": NETWORKS["double4_small"]}
    monkeypatch.setattr(line, "NETWORKS", networks)
    monkeypatch.setattr(line, "SCENE", 384)
    out = tmp_path / "run"
    arguments = [f"out={out}", "tiles=100", "size=48", "pseudo_epochs=2"]
    assert main(JOB, arguments) == 0
    said = capfd.readouterr().out
    assert "map's peak on a ship" in said
    assert "evaluate-double4_small/report.html" in said

    results = {one["name"]: one for one in json.loads((out / "demo.json").read_text())}
    assert results.keys() == networks.keys()
    for one in results.values():
        assert one["tiles"] == 20
        assert one["map"] > one["prevalence"]
        assert 0 <= one["pointing"]["hits"] <= one["pointing"]["tiles"]
        assert 0 < one["scene"]["ships"] >= one["scene"]["hits"]
    for name in (
        "prepare",
        *(f"{job}-{n}" for job in ("train", "evaluate", "score", "scene") for n in networks),
    ):
        assert read_run(Storage(), str(out / name)).status == 0
    assert (out / "maps.png").stat().st_size > 10_000
    record = read_run(Storage(), str(out))
    assert {"demo.json", "maps.png", "archive/labels.csv"} <= {p.path for p in record.products}

    # Half of it lost: only what is missing is done again.
    (out / "run.json").unlink()
    (out / "prepare" / "run.json").unlink()
    assert main(JOB, arguments) == 0
    again = capfd.readouterr().out
    assert "prepare: done already" not in again
    for name in ("train", "evaluate", "score"):
        assert f"{name} double4_small: done already" in again
    assert {one["name"]: one for one in json.loads((out / "demo.json").read_text())} == results
    assert main(JOB, arguments) == 0
    assert "was done already" in capfd.readouterr().out
