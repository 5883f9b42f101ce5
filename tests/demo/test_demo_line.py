"""The steps of the demo as runs of their own, and the whole of it on real Ray, made small."""

import json

import pytest

import satray.demo.archive
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


def test_a_step_is_a_run_of_its_own(tmp_path):
    """It shows its progress as the demo's, and ends the demo where it fails."""
    lines, out = [], str(tmp_path / "text")
    outer = Run("demo", "0" * 12, str(tmp_path), Storage(), progress=lines.append)

    def do(**keys):
        return step(TEXT, TextRecipe(out=out, **keys), outer, "text one")

    record = do()
    assert lines == ["text one: half way"]
    assert find_run(Storage(), out) == record
    assert (tmp_path / "text/text.txt").read_text() == "a"
    for keys, why in (
        ({"text": "crash"}, "no more"),
        ({"failed": 1}, "text: 1 of 2 inputs failed"),
        ({"verdict": "not so"}, "text: not so"),
    ):
        with pytest.raises(SatrayError, match=why):
            do(**keys)


def test_plan_writes_nothing(tmp_path, capfd):
    assert main(JOB, [f"out={tmp_path}/run", "--plan"]) == 0
    assert "600 tiles of 64 px" in capfd.readouterr().out
    assert not list(tmp_path.iterdir())


def cut(*_):
    raise SatrayError("cut short")


@pytest.mark.pipeline
def test_demo_runs_is_measured_and_is_found_done(ray_session, tmp_path, capfd, monkeypatch):
    networks = {"double4_small": NETWORKS["double4_small"]}
    monkeypatch.setattr(line, "NETWORKS", networks)
    monkeypatch.setattr(line, "SCENE", 384)
    out = tmp_path / "run"
    arguments = [f"out={out}", "tiles=100", "size=48", "pseudo_epochs=2"]
    # cut short: it begins anew, whatever lies in its folders
    with monkeypatch.context() as patch:
        patch.setattr(satray.demo.archive, "write_scene", cut)
        assert main(JOB, arguments) == 1
    (out / "archive" / "tiles" / "left.tif").write_text("by the first")
    assert main(JOB, arguments) == 0
    assert not list(out.rglob("left*"))
    said = capfd.readouterr().out
    assert "map's peak on a ship" in said
    assert "evaluate-double4_small/report.html" in said

    results = {one["name"]: one for one in json.loads((out / "demo.json").read_text())}
    assert results.keys() == networks.keys()
    for one in results.values():
        assert one["tiles"] == 20
        assert one["metrics"]["map"] > one["metrics"]["baseline_map"]
        assert 0 <= one["pointing"]["hits"] <= one["pointing"]["tiles"]
        assert 0 < one["scene"]["ships"] >= one["scene"]["hits"]
    for name in (
        "prepare",
        *(f"{job}-{n}" for job in ("train", "evaluate", "score", "scene") for n in networks),
    ):
        assert read_run(Storage(), str(out / name)).status == 0
    assert [p.path for p in read_run(Storage(), str(out)).products] == ["demo.json"]
    assert main(JOB, arguments) == 0
    assert "was done already" in capfd.readouterr().out
