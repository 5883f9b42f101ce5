"""The frame of a job: run ids, resuming, refusing, exit statuses. No Ray."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
from counting import Counter

import satray.cluster
from satray.errors import InputError, SatrayError
from satray.runs.job import Inputs, main
from satray.runs.run import RunRecord, find_run, read_run
from satray.storage import Storage

OTHER = "minimum=1"
"""Makes another run."""
AGAIN = "overwrite=true"


def run(counter: Counter, *arguments: str) -> int:
    return main(counter.job, ["text=a.txt", "out=o", *arguments])


def record() -> RunRecord:
    return read_run(Storage(), str(Path("o").absolute()))


def said(capfd) -> str:
    """What a person saw on both streams."""
    captured = capfd.readouterr()
    assert "Traceback" not in captured.out + captured.err
    return captured.out + captured.err


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("text", "commands", "calls"),
    [
        ("one two three",
         [("", 0, "count done (status 0)"), ("speed=9", 0, "was done already (status 0)")], 1),
        ("one two three",
         [("", 0, ""), (OTHER, 2, AGAIN), (f"{OTHER} {AGAIN}", 0, "3 words"), ("", 2, "")], 2),
        ("one two three",
         [("", 0, ""), ("--plan", 0, "found done"), (f"{OTHER} --plan", 0, f"refused ({AGAIN} re"),
          (f"{OTHER} {AGAIN} --plan", 0, "replaced by run")], 1),
        # a run that cannot start costs the old one nothing
        ("one two three",
         [("", 0, ""), (f"minimum=9 {AGAIN}", 2, "3 words"), ("", 0, "was done already"),
          (f"minimum=9 store=elsewhere {AGAIN}", 2, "3 words"), ("", 0, "was done already")], 3),
        # what was kept in its folder makes it the run's
        ("one two three", [("minimum=9 store=o/x", 2, ""), ("", 2, "holds run")], 1),
        ("one two three", [("store=o/x", 0, ""), ("", 0, "was done already")], 1),
        ("bad bad good", [("", 3, "2 of 3 inputs failed (error_budget=0.5)"), ("", 3, "")], 1),
        ("bad bad good", [("error_budget=0.5", 3, ""), ("error_budget=0.7", 0, "(status 0)"),
                          ("error_budget=0.1", 3, "was done already (status 3)")], 1),
    ],
)  # fmt: skip
def test_commands_one_after_another(counter: Counter, capfd, text, commands, calls) -> None:
    Path("a.txt").write_text(text)
    for arguments, status, words in commands:
        assert run(counter, *arguments.split()) == status, arguments
        assert words in said(capfd)
    assert counter.calls == calls


def test_an_unfinished_run_goes_on_and_drops_its_state(counter: Counter, capfd) -> None:
    counter.crash = True
    assert run(counter) == 1
    assert "RuntimeError: boom" in said(capfd)
    assert find_run(Storage(), str(Path("o").absolute())) is None
    with pytest.raises(InputError, match="unfinished"):
        record()
    (checkpoint,) = Path("o/state").glob("*/checkpoint")
    assert run(counter, OTHER) == 2
    for elsewhere in ("", " store=elsewhere"):  # another's command that cannot start costs nothing
        assert run(counter, *f"minimum=9 {AGAIN}{elsewhere}".split()) == 2
    counter.crash = False
    assert run(counter) == 0
    for _ in range(2):
        assert [path.name for path in checkpoint.parent.iterdir()] == ["job.log"]
        checkpoint.mkdir()  # as if it had been killed once the record was there
        (checkpoint / "weights").write_bytes(b"large")
        assert run(counter) == 0


@pytest.mark.parametrize("arguments", [["minimum=9"], ["text=b.txt"], ["minimum=9", "store=/tmp"]])
def test_wrong_input_leaves_nothing_behind(counter: Counter, arguments, tmp_path) -> None:
    arguments = [each.replace("/tmp", str(tmp_path.parent / "else")) for each in arguments]
    assert run(counter, *arguments) == 2
    assert files(Path()) == {"a.txt"}


def test_a_record_says_what_was_done_and_overwrite_spares_what_is_not_ours(
    counter: Counter, capfd
) -> None:
    Path("o").mkdir()
    Path("o/mine.txt").write_text("precious")
    assert run(counter, AGAIN) == 2  # no run's folder
    Path("o/mine.txt").unlink()
    assert run(counter) == 0
    assert record().counts == {"words": 3}
    assert [product.path for product in record().products] == ["count.json"]
    assert record().config["text"] == str(Path("a.txt").absolute())
    Path("o/mine.txt").write_text("keep")
    Path("a.txt").write_text("one two three four")  # another run
    assert run(counter) == 2
    assert run(counter, AGAIN) == 0
    assert "1 file that no run.json lists stay: mine.txt" in said(capfd)
    assert record().counts == {"words": 4}
    assert Path("o/mine.txt").read_text() == "keep"


@pytest.mark.parametrize("deleted", range(3))
def test_a_clearing_that_is_cut_short_is_gone_on_with(counter: Counter, monkeypatch, deleted):
    assert run(counter) == 0
    counter.product, left, delete = "other.json", iter(range(deleted)), Storage.delete

    def fail(storage: Storage, uri: str) -> None:
        if next(left, None) is None:
            raise SatrayError("the store is away")
        delete(storage, uri)

    with monkeypatch.context() as broken:
        broken.setattr(Storage, "delete", fail)
        assert run(counter, OTHER, AGAIN) == 1
    assert (
        Path("o/count.json").exists() >= Path("o/run.json").exists()
    )  # a record is of a whole run
    assert run(counter, OTHER, AGAIN) == 0
    assert not Path("o/count.json").exists()
    assert {path.name for path in Path("o/state").iterdir()} == {"claims", record().run_id}


def test_a_verdict_is_recorded_and_found_again(counter: Counter, capfd) -> None:
    counter.verdict = "3 words: not what they were"
    assert run(counter) == 1
    first = capfd.readouterr()
    assert "3 words\n" in first.out
    assert first.err == "count: 3 words: not what they were\ncount ended with status 1\n"
    assert (record().status, record().verdict) == (1, counter.verdict)
    assert [product.path for product in record().products] == ["count.json"]
    assert run(counter) == 1
    again = capfd.readouterr()
    assert "was done already (status 1)" in again.out
    assert (counter.calls, again.err) == (1, first.err)


def test_what_is_asked_for_alone_writes_nothing(counter: Counter, capfd) -> None:
    for argument, words in (
        ("--plan", "count "),
        ("--help", "fewest words to accept"),
        ("--print-config", "minimum: 0"),
    ):
        assert main(counter.job, ["text=a.txt", argument]) == 0
        assert words in said(capfd)
    assert (files(Path()), counter.calls) == ({"a.txt"}, 0)


@pytest.mark.parametrize(
    ("arguments", "cluster", "submitted", "words"),
    [
        ("text=in/a.txt out=in overwrite=true", False, False, "overlaps text="),
        ("text=o/store/a.txt out=o store=o/store", False, False, "overlaps text="),
        ("text=in/a.txt out=o more=o/w.pth", False, False, "overlaps base.weights="),
        ("text=in/a.txt out=q more=o/w.pth", True, False, "base.weights=o/w.pth: local, on a clu"),
        ("text=in/a.txt out=/tmp/x", False, True, "text=in/a.txt: relative"),
        ("text=HERE/in/a.txt out=/tmp/x more=w.pth", False, True, "base.weights=w.pth: relative"),
        ("text=HERE/in/a.txt", False, True, "out: required"),
    ],
)
def test_paths_that_a_job_may_not_have(
    counter: Counter, capfd, monkeypatch, arguments, cluster, submitted, words
) -> None:
    for folder in ("in", "o/store"):
        Path(folder).mkdir(parents=True)
        (Path(folder) / "a.txt").write_text("one")
    monkeypatch.setattr(satray.cluster, "spans_machines", lambda: cluster)
    if submitted:
        monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert main(counter.job, arguments.replace("HERE", str(Path.cwd())).split()) == 2
    assert words in said(capfd)
    assert Path("in/a.txt").read_text() == "one"


@pytest.mark.parametrize("torch", ["sys.modules['torch'] = sys", "pass"])
def test_a_job_leaves_with_its_status_and_all_that_it_said(torch) -> None:
    text = (
        f"import sys; {torch}\nfrom satray.runs.job import leave\nprint('said', end='')\nleave(3)"
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (3, "said")


@pytest.mark.parametrize(
    ("asked", "address", "wants", "status", "up"),
    [
        ("auto", "", lambda recipe, found: found.digests["text"] == "one two three", 0, [True]),
        ("auto", "", lambda recipe, found: recipe.minimum > 0, 0, [False]),
        ("auto", "10.0.0.1:6379", lambda recipe, found: False, 0, [True]),
        ("auto", "local", lambda recipe, found: False, 0, [False]),
        ("yes", "", lambda recipe, found: False, 0, [True]),
        ("no", "", lambda recipe, found: True, 0, [False]),
        ("no resources.workers=2", "", lambda recipe, found: True, 2, []),  # one process
        ("auto", "", False, 0, [False]),
        ("yes", "", False, 0, [False]),
        ("no", "", True, 2, []),
    ],
)
def test_a_job_says_by_what_it_read_whether_it_takes_ray(
    counter: Counter, monkeypatch, asked, address, wants, status, up
) -> None:
    if address:
        monkeypatch.setenv("RAY_ADDRESS", address)
    counter.job = dataclasses.replace(counter.job, ray=wants)
    assert run(counter, *f"resources.ray={asked}".split()) == status
    assert counter.ray == up


@pytest.mark.parametrize(("left", "up"), [("one", False), ("one two three four", True)])
def test_what_is_left_to_do_says_whether_a_job_takes_ray(counter: Counter, left, up) -> None:
    counter.job = dataclasses.replace(
        counter.job,
        ray=lambda recipe, found: len(found.digests["text"]) > 5,
        early=lambda recipe, found, run: Inputs({"text": left}),
    )
    assert run(counter) == 0
    assert counter.ray == [up]


def test_a_defect_before_the_work_is_one_line(counter: Counter, capfd) -> None:
    def broken(*_):
        raise ZeroDivisionError("by zero")

    counter.job = dataclasses.replace(counter.job, read=broken)
    assert run(counter) == 1
    assert "ZeroDivisionError: by zero" in said(capfd)
