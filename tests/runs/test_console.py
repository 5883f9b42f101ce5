"""Whatever ends a job, a line says so, and its log is in the run folder. Real processes, no Ray."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from satray.storage import Storage, join

PROGRAM = """
    import os, signal, sys
    from satray.config.base import Recipe, key
    from satray.errors import SatrayError, InputError
    from satray.runs.job import Job, main
    from satray.runs.job import Inputs
    from satray.runs.run import Outcome
    from satray.storage.temporary import scratch

    class StopRecipe(Recipe):
        "Stop."
        note: str = key("", "told", identity=False)

    def work(recipe, found, run):
        print("worker output")
        with scratch("scene") as folder:
            (folder / "raster.tif").write_bytes(b"x")
            {work}
        return Outcome(summary=("worked",))

    job = Job("stop", StopRecipe, lambda *_: Inputs(), lambda *_: [], work, ray=False)
    sys.exit(main(job, sys.argv[1:]))
"""


def run(
    work: str,
    out: str,
    screen: int = subprocess.PIPE,
    **environment: str,
):
    """Run a job whose work is this code, and return how it ended."""
    text = textwrap.dedent(PROGRAM).format(work=work)
    return subprocess.run(
        [sys.executable, "-c", text, f"out={out}"],
        stdout=screen,
        stderr=subprocess.PIPE,
        text=True,
        timeout=100,
        env=os.environ | environment,
    )


def log_of(out: Path) -> str:
    (log,) = out.glob("state/*/job.log")
    return log.read_text()


@pytest.mark.parametrize(
    ("work", "status", "words"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, "killed or crashed"),
        ("os.kill(os.getpid(), signal.SIGTERM)", 1, "told to end (SIGTERM)"),
        ("os.kill(os.getpid(), signal.SIGINT)", 1, "interrupted"),
        ("raise MemoryError", 1, "MemoryError"),
    ],
)
def test_whatever_ends_a_job_a_line_says_so(tmp_path, work, status, words):
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    done = run(work, str(tmp_path / "out"), TMPDIR=str(temporary))
    assert done.returncode == status
    lines = done.stderr.splitlines()
    assert lines[0].startswith("stop: ")
    assert words in lines[0]
    assert lines[1:] == ([] if "crashed" in words else [f"stop ended with status {status}"])
    assert "worker output" in log_of(tmp_path / "out")
    assert ("same command" in lines[0]) or (str(tmp_path / "out") in lines[0])
    if "crashed" in words:
        again = run("pass", str(tmp_path / "out"), TMPDIR=str(temporary))
        assert (again.returncode, again.stderr) == (0, "")  # nobody holds the folder
    assert not list(temporary.rglob("raster.tif"))


def test_a_reader_that_has_gone_ends_no_work(tmp_path):
    work = "run.say('x'); run.say('y'); run.publish('z', b'z')"
    reader, screen = os.pipe()
    os.close(reader)
    done = run(work, str(tmp_path / "out"), screen=screen)
    os.close(screen)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "out" / "z").exists()


def test_progress_without_a_terminal_is_shown_first_and_last(tmp_path):
    work = "for n in range(5): run.progress(f'{n} of 4')"
    lines = run(work, str(tmp_path / "out")).stdout.splitlines()
    assert [line for line in lines if " of 4" in line] == ["  0 of 4", "  4 of 4"]


@pytest.mark.s3
def test_the_log_of_a_run_in_a_store_is_brought_there_or_named_where_it_is(s3, tmp_path):
    out = join(s3.bucket(), "out")
    done = run("os.kill(os.getpid(), signal.SIGKILL)", out, TMPDIR=str(tmp_path))
    log = Path(done.stderr.splitlines()[0].split("log: ")[-1].rstrip(")"))
    assert "worker output" in log.read_text()
    log.unlink()
    done = run("raise MemoryError", out, TMPDIR=str(tmp_path))
    place = done.stderr.splitlines()[0].split(" in ")[-1].rstrip(")")
    assert place.startswith(out)
    assert "worker output" in Storage().read(place).decode()
    assert "MemoryError" in Storage().read(place).decode()
    assert not list(tmp_path.rglob("*.log"))
