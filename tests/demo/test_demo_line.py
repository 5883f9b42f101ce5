"""The whole demo on real Ray, made small."""

import json

import pytest

from satray.config.demo import DemoRecipe
from satray.demo import line
from satray.demo.line import plan, read, work
from satray.demo.plans import NETWORKS
from satray.runs.frame import Job, main
from satray.runs.record import read_run
from satray.storage import Storage

JOB = Job("demo", DemoRecipe, read, plan, work)


def test_plan_writes_nothing(tmp_path, capsys):
    assert main(JOB, [f"out={tmp_path}/run", "--plan"]) == 0
    assert "600 tiles of 64 px" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_the_report_is_pointed_at():
    assert any("evaluate-" in said and "report.html" in said for said in line._look_at("out"))


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
