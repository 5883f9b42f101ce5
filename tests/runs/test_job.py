"""The frame of a job: run ids, resuming, refusing, exit statuses. No Ray."""

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import satray.cluster
from satray.config.base import ReadPath, Recipe, Resources, key
from satray.errors import InputError
from satray.runs.job import Inputs, Job, main
from satray.runs.run import Outcome, Run, find_run, read_run, run_id
from satray.storage import Storage


class CountRecipe(Recipe):
    """Count the words of a text."""

    text: ReadPath = key(..., "file to read")
    minimum: int = key(0, "fewest words to accept", ge=0)
    speed: int = key(1, "how fast", identity=False)
    error_budget: float = key(0.5, "share of bad words to accept", identity=False)


class Counter:
    """A job that counts its own calls."""

    def __init__(self) -> None:
        self.calls = 0
        self.crash = False
        self.verdict: str | None = None
        self.job = Job("count", CountRecipe, self.read, self.plan, self.work)

    def read(self, recipe: CountRecipe, storage: Storage) -> Inputs:
        if not storage.exists(recipe.text):
            raise InputError(f"text={recipe.text}: no such file")
        return Inputs({"text": storage.read(recipe.text).decode()})

    def plan(self, recipe: CountRecipe, found: Inputs, storage: Storage) -> list[str]:
        return [f"count {recipe.text}"]

    def work(self, recipe: CountRecipe, found: Inputs, run: Run) -> Outcome:
        self.calls += 1
        words = run.storage.read(recipe.text).decode().split()
        if len(words) < recipe.minimum:
            raise InputError(f"text={recipe.text}: {len(words)} words")
        run.publish("count.json", json.dumps(len(words)).encode(), rows=1)
        if self.crash:
            raise RuntimeError("boom")
        failed = words.count("bad")
        return Outcome(
            counts={"words": len(words)},
            summary=(f"{len(words)} words",),
            attempted=len(words),
            failed=failed,
            error_budget=recipe.error_budget,
            verdict=self.verdict,
        )


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Counter:
    @contextlib.contextmanager
    def no_ray(*_args: object, **_named: object) -> Iterator[None]:
        yield

    monkeypatch.setattr(satray.cluster, "start", no_ray)
    monkeypatch.setattr(satray.cluster, "spans_machines", lambda: False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("one two three")
    return Counter()


def said(capfd: pytest.CaptureFixture[str]) -> str:
    """What a person saw on both streams."""
    captured = capfd.readouterr()
    return captured.out + captured.err


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_finished_run_is_found_done(counter: Counter, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(counter.job, ["text=a.txt", "out=o"]) == 0
    assert main(counter.job, ["text=a.txt", "out=o", "speed=9"]) == 0
    assert counter.calls == 1
    assert "was done already" in said(capfd)
    record = read_run(Storage(), str(Path("o").absolute()))
    assert record.counts == {"words": 3}
    assert [product.path for product in record.products] == ["count.json"]
    assert record.config["text"] == str(Path("a.txt").absolute())


def test_another_configuration_on_the_same_out_is_refused(
    counter: Counter, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(counter.job, ["text=a.txt", "out=o"]) == 0
    assert main(counter.job, ["text=a.txt", "out=o", "minimum=1"]) == 2
    assert "overwrite=true" in said(capfd)
    assert main(counter.job, ["text=a.txt", "out=o", "minimum=1", "overwrite=true"]) == 0
    assert counter.calls == 2


def test_changed_input_is_another_run(counter: Counter) -> None:
    assert main(counter.job, ["text=a.txt", "out=o"]) == 0
    Path("a.txt").write_text("one two three four")
    assert main(counter.job, ["text=a.txt", "out=o"]) == 2


def test_an_unfinished_run_goes_on(counter: Counter, capfd: pytest.CaptureFixture[str]) -> None:
    counter.crash = True
    assert main(counter.job, ["text=a.txt", "out=o"]) == 1
    printed = said(capfd)
    assert "RuntimeError: boom" in printed
    assert "Traceback" not in printed
    assert find_run(Storage(), str(Path("o").absolute())) is None
    with pytest.raises(InputError, match="unfinished"):
        read_run(Storage(), str(Path("o").absolute()))
    assert main(counter.job, ["text=a.txt", "out=o", "minimum=1"]) == 2
    counter.crash = False
    assert main(counter.job, ["text=a.txt", "out=o"]) == 0


def test_wrong_input_leaves_nothing_behind(counter: Counter) -> None:
    assert main(counter.job, ["text=a.txt", "out=o", "minimum=9"]) == 2
    assert files(Path()) == {"a.txt"}
    assert main(counter.job, ["text=b.txt", "out=o"]) == 2
    assert files(Path()) == {"a.txt"}


def test_overwrite_spares_what_is_not_ours(counter: Counter) -> None:
    assert main(counter.job, ["text=a.txt", "out=o"]) == 0
    Path("o/mine.txt").write_text("keep")
    assert main(counter.job, ["text=a.txt", "out=o", "minimum=1", "overwrite=true"]) == 0
    assert Path("o/mine.txt").read_text() == "keep"


def test_a_foreign_folder_is_refused(counter: Counter) -> None:
    Path("o").mkdir()
    Path("o/thesis.doc").write_text("precious")
    assert main(counter.job, ["text=a.txt", "out=o", "overwrite=true"]) == 2
    assert Path("o/thesis.doc").exists()


def test_the_error_budget_gives_status_three(counter: Counter) -> None:
    Path("a.txt").write_text("bad bad good")
    assert main(counter.job, ["text=a.txt", "out=o"]) == 3
    assert main(counter.job, ["text=a.txt", "out=o"]) == 3
    assert counter.calls == 1


def test_a_finished_run_is_judged_by_the_budget_of_the_command(
    counter: Counter, capfd: pytest.CaptureFixture[str]
) -> None:
    Path("a.txt").write_text("bad bad good")
    command = ["text=a.txt", "out=o"]
    assert [main(counter.job, [*command, f"error_budget={b}"]) for b in (0.5, 0.7, 0.1)] == [
        3,
        0,
        3,
    ]
    assert counter.calls == 1
    assert "was done already (status 0)" in said(capfd)


def test_a_verdict_is_recorded_and_found_again(
    counter: Counter, capfd: pytest.CaptureFixture[str]
) -> None:
    counter.verdict = "3 words: not what they were"
    assert main(counter.job, ["text=a.txt", "out=o"]) == 1
    first = capfd.readouterr()
    assert "3 words\n" in first.out
    assert first.err == "count: 3 words: not what they were\ncount ended with status 1\n"
    record = read_run(Storage(), str(Path("o").absolute()))
    assert (record.status, record.verdict) == (1, counter.verdict)
    assert [product.path for product in record.products] == ["count.json"]
    assert main(counter.job, ["text=a.txt", "out=o"]) == 1
    again = capfd.readouterr()
    assert counter.calls == 1
    assert "was done already (status 1; overwrite=true does it again)" in again.out
    assert again.err == first.err


def test_overwrite_does_what_ended_with_a_verdict_again(counter: Counter) -> None:
    counter.verdict = "no"
    assert main(counter.job, ["text=a.txt", "out=o"]) == 1
    counter.crash, counter.verdict = True, None
    assert main(counter.job, ["text=a.txt", "out=o", "overwrite=true"]) == 1
    assert find_run(Storage(), str(Path("o").absolute())) is None  # not the old one's verdict
    counter.crash = False
    assert main(counter.job, ["text=a.txt", "out=o"]) == 0
    assert read_run(Storage(), str(Path("o").absolute())).verdict is None
    assert counter.calls == 3
    assert main(counter.job, ["text=a.txt", "out=o", "overwrite=true"]) == 0
    assert counter.calls == 3


def test_a_record_from_before_verdicts_is_read(counter: Counter) -> None:
    assert main(counter.job, ["text=a.txt", "out=o"]) == 0
    plain = json.loads(Path("o/run.json").read_text())
    del plain["verdict"]
    Path("o/run.json").write_text(json.dumps(plain))
    assert main(counter.job, ["text=a.txt", "out=o"]) == 0
    assert counter.calls == 1


def test_plan_writes_nothing(counter: Counter, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(counter.job, ["text=a.txt", "--plan"]) == 0
    assert "count " in said(capfd)
    assert files(Path()) == {"a.txt"}
    assert counter.calls == 0


def test_help_and_print_config(counter: Counter, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(counter.job, ["--help"]) == 0
    assert "fewest words to accept" in said(capfd)
    assert main(counter.job, ["text=a.txt", "--print-config"]) == 0
    assert "minimum: 0" in said(capfd)


def test_relative_paths_are_refused_under_a_submitted_job(
    counter: Counter, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert main(counter.job, ["text=a.txt", "out=/tmp/x"]) == 2
    assert "text=a.txt: relative" in said(capfd)
    assert main(counter.job, [f"text={Path('a.txt').absolute()}"]) == 2
    assert "out: required" in said(capfd)


def test_run_id_ignores_where_and_how_fast() -> None:
    base = CountRecipe(text="/a")
    same = CountRecipe(text="/a", out="/o", speed=4, resources={"workers": 7})
    other = CountRecipe(text="/a", minimum=1)
    inputs = {"text": "1"}
    assert run_id("count", base, inputs) == run_id("count", same, inputs)
    assert run_id("count", base, inputs) != run_id("count", other, inputs)
    assert run_id("count", base, inputs) != run_id("count", base, {"text": "2"})
    assert run_id("count", base, inputs) != run_id("other", base, inputs)


def test_overwrite_costs_the_old_run_nothing_until_there_is_a_new_one(counter: Counter) -> None:
    assert main(counter.job, ["text=a.txt", "out=o"]) == 0
    before = files(Path("o"))
    assert main(counter.job, ["text=a.txt", "out=o", "minimum=9", "overwrite=true"]) == 2
    assert files(Path("o")) == before
    assert main(counter.job, ["text=a.txt", "out=o"]) == 0
    assert counter.calls == 2


def test_out_may_not_hold_an_input(counter: Counter, capfd: pytest.CaptureFixture[str]) -> None:
    Path("in").mkdir()
    Path("in/a.txt").write_text("one")
    assert main(counter.job, ["text=in/a.txt", "out=in", "overwrite=true"]) == 2
    assert "overlaps text=" in said(capfd)
    assert Path("in/a.txt").read_text() == "one"


def test_state_goes_when_the_run_is_done(counter: Counter) -> None:
    counter.crash = True
    assert main(counter.job, ["text=a.txt", "out=o"]) == 1
    state = next(Path("o/state").iterdir())
    (state / "checkpoint").mkdir()
    (state / "checkpoint" / "weights").write_text("large")
    counter.crash = False
    assert main(counter.job, ["text=a.txt", "out=o"]) == 0
    assert {path.name for path in state.iterdir()} == {"started.json", "job.log"}


def test_plan_says_what_becomes_of_the_folder(
    counter: Counter, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(counter.job, ["text=a.txt", "out=o"]) == 0
    assert main(counter.job, ["text=a.txt", "out=o", "--plan"]) == 0
    assert "found done" in said(capfd)
    assert main(counter.job, ["text=a.txt", "out=o", "minimum=1", "--plan"]) == 0
    assert "refused (overwrite=true replaces it)" in said(capfd)


def test_workers_are_asked_for_only_where_the_job_takes_them(
    counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    @contextlib.contextmanager
    def start(resources: Resources, *, dashboard: bool, **_named: object) -> Iterator[None]:
        assert dashboard is (resources.workers == 1)
        asked.append((resources.workers, resources.read_tasks))
        yield

    monkeypatch.setattr(satray.cluster, "start", start)
    wanted = ["text=a.txt", "resources.workers=9", "resources.read_tasks=3"]
    alone = dataclasses.replace(counter.job, workers=False, dashboard=True)
    assert main(counter.job, [*wanted, "out=many"]) == main(alone, [*wanted, "out=one"]) == 0
    assert asked == [(9, 3), (1, 3)]


@pytest.mark.parametrize(
    ("asked", "address", "wants", "status", "up"),
    [
        ("auto", "", lambda recipe, found: found.digests["text"] == "one two three", 0, True),
        ("auto", "", lambda recipe, found: recipe.minimum > 0, 0, False),
        ("auto", "10.0.0.1:6379", lambda recipe, found: False, 0, True),
        ("yes", "", lambda recipe, found: False, 0, True),
        ("no", "", lambda recipe, found: True, 0, False),
        ("auto", "", False, 0, False),
        ("yes", "", False, 0, False),
        ("no", "", True, 2, None),
    ],
)
def test_a_job_says_by_what_it_read_whether_it_takes_ray(
    counter: Counter,
    monkeypatch: pytest.MonkeyPatch,
    asked: str,
    address: str,
    wants: Any,
    status: int,
    up: bool | None,
) -> None:
    if address:
        monkeypatch.setenv("RAY_ADDRESS", address)
    told = []

    def work(recipe: CountRecipe, found: Inputs, run: Run) -> Outcome:
        told.append(run.ray)
        return counter.work(recipe, found, run)

    job = dataclasses.replace(counter.job, work=work, ray=wants)
    assert main(job, ["text=a.txt", "out=o", f"resources.ray={asked}"]) == status
    assert told == ([] if up is None else [up])


def test_a_defect_before_the_work_is_one_line(
    counter: Counter, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(recipe: CountRecipe, storage: Storage) -> Inputs:
        raise ZeroDivisionError("by zero")

    job = Job("count", CountRecipe, broken, counter.plan, counter.work)
    assert main(job, ["text=a.txt"]) == 1
    printed = said(capfd)
    assert "ZeroDivisionError: by zero" in printed
    assert "Traceback" not in printed
