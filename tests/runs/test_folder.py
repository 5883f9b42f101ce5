"""One process at a time works in a run folder: who is refused, who takes over, who gives up."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from counting import Counter

from satray.errors import InputError, SatrayError
from satray.runs.folder import CLAIMS, take_folder
from satray.runs.job import main
from satray.runs.run import Run
from satray.storage import Storage, join
from satray.storage.temporary import machine

ELSEWHERE = f"{'0' * 12}-4711-99"
"""Tag of a process on another machine."""


@pytest.fixture(params=["disk", pytest.param("s3", marks=pytest.mark.s3)])
def out(request, tmp_path) -> str:
    if request.param == "disk":
        return str(tmp_path / "out")
    return join(request.getfixturevalue("s3").bucket(), "out")


@pytest.fixture(scope="module")
def dead() -> str:
    """Tag of a process that has ended."""
    program = "from satray.storage.temporary import process_tag; print(process_tag())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    return done.stdout.strip()


def run_in(out: str, run_id: str = "0123456789ab") -> Run:
    return Run("train", run_id, str(out), Storage())


def take(run: Run, *, overwrite: bool = False, lost=print, **how):
    return take_folder(run, overwrite=overwrite, lost=lost, **how)


def leave_claim(run: Run, maker: str, number: int = 1) -> None:
    """What a process that was killed leaves."""
    who = "process 4711 of ada on node7 since 2026-01-01T00:00:00+00:00"
    left = {"number": number, "run_id": run.run_id, "who": who, "maker": maker}
    run.storage.write(join(run.out, CLAIMS, f"{number:04d}.json"), json.dumps(left).encode())


def refused(run: Run, words: str, error: type[SatrayError] = SatrayError, **how) -> str:
    with pytest.raises(error, match=words) as caught, take(run, **how):
        raise AssertionError("two have it")
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, InputError) is (error is InputError)
    return str(caught.value)


def test_of_two_that_take_a_folder_one_has_it(out):
    run, other = run_in(out), run_in(out, "ba9876543210")
    with take(run) as done:
        assert done is None
        for overwrite in (False, True):
            line = refused(run_in(out), "held by", overwrite=overwrite)
            for word in (out, str(os.getpid()), socket.gethostname(), "this very run", "wait for"):
                assert word in line
        refused(other, "holds run 0123456789ab", InputError)
        refused(other, "does run 0123456789ab", overwrite=True)
    with take(run) as done:
        assert done is None  # given back, not done


@pytest.mark.parametrize("error", [ZeroDivisionError, InputError, KeyboardInterrupt])
def test_what_ends_the_work_gives_the_folder_back(out, error):
    with pytest.raises(error), take(run_in(out)):
        raise error
    assert (run_in(out).storage.list(out) == []) is (error is InputError)
    with take(run_in(out)):
        pass


def test_who_was_killed_here_is_followed_at_once_who_is_elsewhere_after_its_lease(out, dead):
    for number, maker in ((7, dead), (9, f"{machine()}-{os.getpid()}-1")):  # another's pid now
        leave_claim(run_in(out), maker, number)
        with take(run_in(out)):
            refused(run_in(out), "held by")
    leave_claim(run_in(out), ELSEWHERE, 11)
    line = refused(run_in(out), "process 4711 of ada on node7", lease=60)
    assert "60 s after its last sign of life" in line
    time.sleep(2.1)  # stores tell whole seconds
    with take(run_in(out), lease=1):
        pass


@pytest.mark.parametrize("content", [b"", b'{"number": 7, "ru', b'{"number": 7, "token": "x"}'])
def test_a_claim_that_cannot_be_read_is_somebodys_until_its_lease_is_over(tmp_path, content):
    run = run_in(tmp_path)
    run.storage.write(f"{tmp_path}/{CLAIMS}/0007.json", content)
    line = refused(run, "held by another process", lease=60)
    assert "60 s after its last sign of life" in line
    with take(run, lease=-1):
        refused(run_in(tmp_path), "held by process")
    assert (tmp_path / CLAIMS / "0008.json").exists()


@pytest.mark.parametrize("how", ["taken over", "removed"])
def test_signs_of_life_are_given_and_who_was_taken_for_dead_gives_up(tmp_path, how):
    run, reasons, heard = run_in(tmp_path), [], threading.Event()
    with take(run, lost=lambda reason: (reasons.append(reason), heard.set()), beat=0.05):
        mark = tmp_path / CLAIMS / "0001.json"
        first, until = mark.stat().st_mtime_ns, time.monotonic() + 10
        while mark.stat().st_mtime_ns == first and time.monotonic() < until:
            time.sleep(0.02)
        assert mark.stat().st_mtime_ns > first
        if how == "removed":
            run.storage.delete(join(run.out, "state"))
        else:
            leave_claim(run, ELSEWHERE, 2)
        assert heard.wait(10)
    assert run.out in reasons[0]
    left = [entry.key for entry in run.storage.list(join(run.out, CLAIMS))]
    assert left == ([] if how == "removed" else ["0001.json", "0002.json"])


def test_of_many_that_begin_at_once_one_works(tmp_path, dead):
    leave_claim(run_in(tmp_path), dead)
    entered, barrier, done = [], threading.Barrier(8), threading.Event()

    def try_it() -> None:
        barrier.wait()
        try:
            with take(run_in(tmp_path)):
                entered.append(1)
                done.wait(10)
        except SatrayError:
            pass

    threads = [threading.Thread(target=try_it) for _ in range(8)]
    for thread in threads:
        thread.start()
    while sum(thread.is_alive() for thread in threads) > 1:
        time.sleep(0.01)
    done.set()
    for thread in threads:
        thread.join()
    assert len(entered) == 1


@pytest.mark.parametrize(("more", "status"), [([], 1), (["schedule=true"], 0)])
def test_equal_commands_at_once_do_the_work_once_but_on_a_schedule(counter: Counter, more, status):
    command, inner = ["text=a.txt", "out=o", *more], []

    def second() -> None:  # while the first is at work
        counter.within = None
        inner.extend(main(counter.job, [*command, *how]) for how in ([], ["overwrite=true"]))

    counter.within = second
    assert main(counter.job, command) == 0
    assert inner == [status, status]
    assert counter.calls == 3 - 2 * status
    assert Path("o/schedule.json").exists() is (status == 0)
