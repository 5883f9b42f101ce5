"""A job within a job: recorded, resumed, refused and cleared as any other. No Ray."""

import json

import pytest

from satray.config.base import Recipe, key
from satray.demo.steps import step
from satray.errors import SatrayError
from satray.runs.frame import Job
from satray.runs.perform import Inputs
from satray.runs.record import find_run
from satray.runs.run import Outcome, Run
from satray.storage import Storage


class FakeRecipe(Recipe):
    """A job that writes what it is told."""

    text: str = key("a", "what to write")
    failed: int = key(0, "inputs that fail")
    verdict: str | None = key(None, "what there is to say against it")


def make_job(calls):
    def work(recipe, found, run):
        calls.append(recipe.text)
        run.progress("half way")
        run.publish("text.txt", recipe.text.encode())
        if recipe.text == "crash":
            raise SatrayError("no more")
        return Outcome(
            attempted=2,
            failed=recipe.failed,
            error_budget=0.0,
            summary=("wrote",),
            verdict=recipe.verdict,
        )

    return Job("fake", FakeRecipe, lambda *_: Inputs({"input": "digest"}), lambda *_: [], work)


@pytest.fixture
def outer(tmp_path):
    lines = []
    run = Run("demo", "0" * 12, str(tmp_path), Storage(), progress=lines.append)
    run.lines = lines
    return run


def recipe_in(tmp_path, **keys):
    return FakeRecipe(out=str(tmp_path / "fake"), **keys)


def test_a_step_leaves_a_finished_run(outer, tmp_path):
    record, ran = step(make_job([]), recipe_in(tmp_path), outer, "fake one")
    assert ran
    assert find_run(outer.storage, str(tmp_path / "fake")) == record
    assert [product.path for product in record.products] == ["text.txt"]
    assert record.versions["ray"]
    assert record.config["text"] == "a"
    assert outer.lines == ["fake one: half way"]


def test_a_finished_step_is_not_done_again(outer, tmp_path):
    calls = []
    first, _ = step(make_job(calls), recipe_in(tmp_path), outer, "fake")
    again, ran = step(make_job(calls), recipe_in(tmp_path), outer, "fake")
    assert (again, ran, calls) == (first, False, ["a"])


def test_another_configuration_replaces_it(outer, tmp_path):
    calls = []
    for text in ("a", "b"):
        record, ran = step(make_job(calls), recipe_in(tmp_path, text=text), outer, "fake")
        assert ran
    assert calls == ["a", "b"]
    assert json.loads((tmp_path / "fake" / "run.json").read_text())["run_id"] == record.run_id
    assert (tmp_path / "fake" / "text.txt").read_text() == "b"


def test_a_crash_leaves_no_record_and_the_next_attempt_goes_on(outer, tmp_path):
    calls = []
    with pytest.raises(SatrayError, match="no more"):
        step(make_job(calls), recipe_in(tmp_path, text="crash"), outer, "fake")
    assert find_run(outer.storage, str(tmp_path / "fake")) is None
    with pytest.raises(SatrayError, match="no more"):
        step(make_job(calls), recipe_in(tmp_path, text="crash"), outer, "fake")
    assert calls == ["crash", "crash"]


def test_a_step_over_its_error_budget_ends_the_demo(outer, tmp_path):
    with pytest.raises(SatrayError, match="fake: 1 of 2 inputs failed"):
        step(make_job([]), recipe_in(tmp_path, failed=1), outer, "fake")


def test_a_verdict_ends_the_demo(outer, tmp_path):
    with pytest.raises(SatrayError, match="fake: not so"):
        step(make_job([]), recipe_in(tmp_path, verdict="not so"), outer, "fake")
