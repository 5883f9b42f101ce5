"""Which paths a job may be given, and whose its folder is when its input was wrong. No Ray."""

import contextlib
from pathlib import Path

import pytest

import satray.cluster
from satray.config.base import ReadPath, Recipe, WrittenPath, key
from satray.errors import InputError
from satray.runs.job import Inputs, Job, main
from satray.runs.run import Outcome
from satray.storage import join


class KeepRecipe(Recipe):
    """Keep something."""

    source: ReadPath | None = key(None, "what is read")
    store: WrittenPath | None = key(None, "what is kept", identity=False)
    more: str | None = key(None, "what its inner jobs read")
    wrong: bool = key(False, "find the input wrong", identity=False)

    def paths(self, *, written=True):
        more = [("base.weights", self.more)] if self.more else []
        return more + super().paths(written=written)


def work(recipe, found, run):
    run.storage.write(join(recipe.store or run.uri("store"), "part"), b"x")
    if recipe.wrong:
        raise InputError("source: wrong")
    return Outcome(summary=("kept",))


def keep() -> Job:
    return Job("keep", KeepRecipe, lambda *_: Inputs(), lambda *_: [], work)


@pytest.fixture(autouse=True)
def no_ray(monkeypatch, tmp_path):
    monkeypatch.setattr(satray.cluster, "start", lambda *_, **__: contextlib.nullcontext())
    monkeypatch.setattr(satray.cluster, "spans_machines", lambda: False)
    monkeypatch.chdir(tmp_path)


def said(capfd) -> str:
    captured = capfd.readouterr()
    return captured.out + captured.err


def test_what_is_written_may_lie_in_out_and_what_is_read_may_not(capfd) -> None:
    assert main(keep(), ["out=o", "store=o/store"]) == 0
    assert Path("o/store/part").exists()
    assert main(keep(), ["out=p", "source=p/x"]) == 2
    assert "overlaps source=" in said(capfd)


def test_a_folder_in_which_something_was_kept_stays_the_runs(capfd) -> None:
    assert main(keep(), ["out=o", "wrong=true"]) == 2
    assert main(keep(), ["out=o"]) == 0
    assert main(keep(), ["out=o"]) == 0
    assert "was done already" in said(capfd)


def test_a_run_that_failed_to_replace_another_leaves_it_the_folder(capfd) -> None:
    assert main(keep(), ["out=o"]) == 0
    other = ["out=o", "source=/else/s", "overwrite=true"]
    assert main(keep(), [*other, "wrong=true", "store=elsewhere"]) == 2
    assert main(keep(), ["out=o"]) == 0
    assert "was done already" in said(capfd)
    assert len(list(Path("o/state").iterdir())) == 1


def test_an_input_that_was_wrong_at_once_frees_the_folder() -> None:
    assert main(keep(), ["out=o", "wrong=true", "store=elsewhere"]) == 2
    assert [path for path in Path("o").rglob("*") if path.is_file()] == []


def test_paths_that_are_no_keys_are_checked_too(capfd, monkeypatch) -> None:
    job, more = keep(), "more=o/w.pth"
    assert main(job, ["out=o", more]) == 2
    assert "overlaps base.weights=" in said(capfd)
    monkeypatch.setattr(satray.cluster, "spans_machines", lambda: True)
    assert main(job, ["out=q", more]) == 2
    told = said(capfd)
    assert "base.weights=" in told
    assert "on a cluster of several nodes" in told
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert main(job, ["out=/tmp/o", more]) == 2
    assert "base.weights=o/w.pth: relative" in said(capfd)


def test_the_job_tune_checks_them(capfd, monkeypatch) -> None:
    import runpy
    import sys

    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    script = Path(__file__).parents[2] / "jobs" / "tune.py"
    arguments = ["index=/i", "out=/o", "base.weights=w.pth"]
    monkeypatch.setattr(sys, "argv", [str(script), *arguments])
    with pytest.raises(SystemExit, match="2"):
        runpy.run_path(str(script), run_name="__main__")
    assert "base.weights=w.pth: relative" in said(capfd)
