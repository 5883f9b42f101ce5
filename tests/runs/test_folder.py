"""One process at a time works on a run folder: who is refused, who takes over, who gives up."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import satray.cluster
from satray.config.base import Recipe, key
from satray.errors import InputError, SatrayError
from satray.runs.folder import FOLDER, hold, take_folder
from satray.runs.job import Inputs, Job, main
from satray.runs.run import Outcome, Run
from satray.storage import Storage, join
from satray.storage.temporary import machine

OTHERS_MACHINE = "0" * 12


@pytest.fixture(params=["disk", pytest.param("swift", marks=pytest.mark.s3)])
def out(request, tmp_path) -> str:
    if request.param == "disk":
        return str(tmp_path / "out")
    return join(request.getfixturevalue("swift").bucket(), "out")


def run_in(out: str, run_id: str = "0123456789ab") -> Run:
    return Run("train", run_id, out, Storage())


def dead_tag() -> str:
    """Tag of a process that has ended."""
    program = "from satray.storage.temporary import process_tag; print(process_tag())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    return done.stdout.strip()


def leave_mark(run: Run, maker: str, number: int = 1) -> None:
    """What a holder that was killed leaves."""
    told = {
        "run_id": run.run_id,
        "host": "node7",
        "pid": 4711,
        "user": "ada",
        "since": "2026-01-01T00:00:00+00:00",
        "maker": maker,
        "token": "another",
    }
    run.storage.write(join(run.out, FOLDER, f"{number:04d}.json"), json.dumps(told).encode())


def never(reason: str) -> None:
    raise AssertionError(reason)


def test_the_second_of_two_is_told_who_holds_the_folder(out):
    run = run_in(out)
    with hold(run, never), pytest.raises(SatrayError) as caught, hold(run_in(out), never):
        pass
    line = str(caught.value)
    assert not isinstance(caught.value, InputError)
    for word in (out, str(os.getpid()), socket.gethostname(), "this very run", "since", "wait for"):
        assert word in line
    assert "\n" not in line
    assert run.storage.list(out) == []
    with hold(run, never):
        pass


def test_another_configuration_is_kept_out_too(out):
    other = hold(run_in(out, "ba9876543210"), never)
    with hold(run_in(out), never), pytest.raises(SatrayError, match="does run 0123456789ab"), other:
        pass


def test_a_failure_gives_the_folder_back(out):
    with pytest.raises(ZeroDivisionError), hold(run_in(out), never):
        raise ZeroDivisionError
    with hold(run_in(out), never):
        pass


@pytest.mark.parametrize("number", [1, 7])
def test_a_holder_that_was_killed_here_is_followed_at_once(out, number):
    leave_mark(run_in(out), dead_tag(), number)
    with hold(run_in(out), never), pytest.raises(SatrayError), hold(run_in(out), never):
        pass
    assert run_in(out).storage.list(out) == []


def test_a_pid_that_another_process_has_now_is_not_the_holder(tmp_path):
    run = run_in(str(tmp_path))
    leave_mark(run, f"{machine()}-{os.getpid()}-1")
    with hold(run, never), pytest.raises(SatrayError), hold(run_in(str(tmp_path)), never):
        pass  # the first holds it, so the second is refused


def test_a_holder_elsewhere_is_waited_for_until_its_lease_is_over(out):
    run = run_in(out)
    leave_mark(run, f"{OTHERS_MACHINE}-4711-99")
    with pytest.raises(SatrayError) as caught, hold(run, never, lease=60):
        pass
    assert "process 4711 of ada on node7" in str(caught.value)
    assert "60 s after its last sign of life" in str(caught.value)
    time.sleep(2.1)  # stores tell whole seconds
    with hold(run, never, lease=1):
        pass


def test_signs_of_life_keep_a_folder_beyond_the_lease(tmp_path):
    run = run_in(str(tmp_path))
    with hold(run, never, beat=0.1, lease=1):
        time.sleep(1.5)
        mark = tmp_path / FOLDER / "0001.json"
        assert time.time() - mark.stat().st_mtime < 1


@pytest.mark.parametrize("how", ["taken over", "removed"])
def test_a_holder_that_was_taken_for_dead_gives_up(tmp_path, how):
    run, told, heard = run_in(str(tmp_path)), [], threading.Event()

    def lost(reason: str) -> None:
        told.append(reason)
        heard.set()

    with hold(run, lost, beat=0.05):
        if how == "removed":
            run.storage.delete(join(run.out, "state"))
        else:
            leave_mark(run, f"{OTHERS_MACHINE}-4711-99", 2)
        assert heard.wait(10)
    assert run.out in told[0]
    marks = [entry.key for entry in run.storage.list(join(run.out, FOLDER))]
    assert marks == ([] if how == "removed" else ["0001.json", "0002.json"])


def test_of_two_that_take_a_folder_one_has_it(out):
    first, other = run_in(out), run_in(out, "ba9876543210")
    with take_folder(first, overwrite=False) as done:
        assert done is None
        for second in (run_in(out), other):
            for overwrite in (False, True):
                with (
                    pytest.raises(SatrayError, match=r"held by|holds run"),
                    take_folder(second, overwrite=overwrite),
                ):
                    raise AssertionError("two have it")
    with take_folder(first, overwrite=False) as done:
        assert done is None  # given back, not done


def test_of_many_that_begin_at_once_one_works(tmp_path):
    leave_mark(run_in(str(tmp_path)), dead_tag())
    entered, barrier = [], threading.Barrier(8)

    def try_it() -> None:
        barrier.wait()
        with contextlib.suppress(SatrayError), hold(run_in(str(tmp_path)), never):
            entered.append(1)
            done.wait(10)

    done = threading.Event()
    threads = [threading.Thread(target=try_it) for _ in range(8)]
    for thread in threads:
        thread.start()
    while sum(thread.is_alive() for thread in threads) > 1:
        time.sleep(0.01)
    done.set()
    for thread in threads:
        thread.join()
    assert len(entered) == 1


class IdleRecipe(Recipe):
    """Do nothing."""

    schedule: bool = key(False, "share `out`")

    @property
    def shares_out(self) -> bool:
        return self.schedule


@pytest.fixture
def no_ray(monkeypatch, tmp_path) -> None:
    @contextlib.contextmanager
    def start(*_args: object, **_named: object) -> Iterator[None]:
        yield

    monkeypatch.setattr(satray.cluster, "start", start)
    monkeypatch.setattr(satray.cluster, "spans_machines", lambda: False)
    monkeypatch.chdir(tmp_path)


def test_equal_commands_at_once_do_the_work_once(no_ray, capfd):
    def work(recipe: IdleRecipe, found: Inputs, run: Run) -> Outcome:
        assert main(job, ["out=o"]) == 1  # the second, while the first is at work
        assert main(job, ["out=o", "overwrite=true"]) == 1
        run.publish("made", b"x")
        return Outcome()

    job = Job("idle", IdleRecipe, lambda *_: Inputs(), lambda *_: [], work)
    assert main(job, ["out=o"]) == 0
    assert capfd.readouterr().err.count("does this very run since") == 2
    assert main(job, ["out=o"]) == 0
    assert "was done already" in capfd.readouterr().out
    assert not Path("o/state/holder").exists()


def test_the_runs_of_a_schedule_may_overlap(no_ray):
    deep = []

    def work(recipe: IdleRecipe, found: Inputs, run: Run) -> Outcome:
        deep.append(1)
        if len(deep) == 1:
            assert main(job, ["out=o", "schedule=true"]) == 0
        return Outcome()

    job = Job("idle", IdleRecipe, lambda *_: Inputs(), lambda *_: [], work)
    assert main(job, ["out=o", "schedule=true"]) == 0
    assert len(deep) == 2
