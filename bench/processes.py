"""Run a job as a user does: watch all of its processes (Linux), or judge how it ends."""

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
EVERY = 0.25
"""Seconds between looks."""


@dataclass
class Watched:
    """What a job took."""

    seconds: float = 0.0
    """From its start to its end, Python's and Ray's included."""
    said: str = ""
    """What it printed."""
    own: dict[int, float] = field(default_factory=dict)
    """Of each of its processes by id, GiB at most that are private or file-backed: without shared
    memory, which is Ray's object store and counts once a machine."""
    together: float = 0.0
    """GiB of all at once at most, shared memory too; what several have mapped counts once (the
    proportional set size)."""


def job(name: str, *keys: str, look: Callable[[], None] = lambda: None) -> Watched:
    """`python jobs/NAME.py KEYS`.

    Args:
        name: the job.
        keys: its arguments.
        look: called now and then while it runs.

    Raises:
        SystemExit: it does not end with status 0.
    """
    command = [sys.executable, f"jobs/{name}.py", *keys]
    print("$", " ".join(command[1:]), file=sys.stderr, flush=True)
    watched, begun = Watched(), time.perf_counter()
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip

    def listen() -> None:
        for text in process.stdout or ():
            watched.said += text

    listener = threading.Thread(target=listen)
    listener.start()
    while process.poll() is None:
        _look(process.pid, watched)
        look()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(EVERY)
    listener.join()
    watched.seconds = time.perf_counter() - begun
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}:\n{watched.said}")
    return watched


def _look(root: int, watched: Watched) -> None:
    together = 0.0
    for pid in (root, *below(root)):
        with contextlib.suppress(OSError, KeyError, ValueError):  # it ends while looked at
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            found = dict(text.split(":", 1) for text in lines)
            resident, shared = (int(found[k].split()[0]) / 2**20 for k in ("VmRSS", "RssShmem"))
            watched.own[pid] = max(watched.own.get(pid, 0.0), resident - shared)
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
            found = dict(text.split(":", 1) for text in lines)
            together += int(found["Pss"].split()[0]) / 2**20
    watched.together = max(watched.together, together)


def below(pid: int) -> dict[int, str]:
    """Processes that a process started, they and theirs, with their names."""
    parents: dict[int, tuple[int, str]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            name, _, rest = (folder / "stat").read_text().partition("(")[2].rpartition(")")
            parents[int(folder.name)] = (int(rest.split()[1]), name)
    found: dict[int, str] = {}
    waiting = [pid]
    while waiting:
        one = waiting.pop()
        children = {child: name for child, (parent, name) in parents.items() if parent == one}
        found |= children
        waiting += children
    return found


class WrongError(Exception):
    """What is not as it should be."""


def need(good: object, said: str) -> None:
    """Raise WrongError where something is not so."""
    if not good:
        raise WrongError(said)


def start(
    name: str, *keys: str, cwd: Path = ROOT, env: dict[str, str] | None = None
) -> "subprocess.Popen[str]":
    """Start a job; `env` adds to this process's variables."""
    return subprocess.Popen(
        [sys.executable, f"{ROOT}/jobs/{name}.py", *keys], cwd=cwd, env=os.environ | (env or {}),
        text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def finished(process: "subprocess.Popen[str]", status: int | None = 0) -> str:
    """Wait for a job; gives all that it printed, once that is as it should be."""
    text = process.communicate(timeout=600)[0].strip()
    need("Traceback" not in text, f"printed a traceback: {text[-400:]}")
    last = " / ".join(text.splitlines()[-3:])
    need(status in (None, process.returncode), f"status {process.returncode}: {last}")
    return text


def verdict(title: str, function: Callable[[], None]) -> bool:
    """Run one case and print a line: right, WRONG (why), or skipped; False where it is wrong."""
    begun = time.perf_counter()
    try:
        function()
        said = "right"
    except NotImplementedError as error:
        said = f"skipped ({error})"
    except WrongError as error:
        said = f"WRONG ({' '.join(str(error).split())})"
    except Exception as error:  # a product that is not there
        said = f"WRONG ({type(error).__name__}: {' '.join(str(error).split())})"
    name, _, about = title.partition(": ")
    print(f"{name} {said}: {about} [{time.perf_counter() - begun:.0f} s]", flush=True)
    return not said.startswith("WRONG")


def archive(folder: Path, tiles: int, *keys: str, **options: Any) -> None:
    """Generate `tiles/` with smooth ground and sensor noise, 17 labels, and `index/` of them.

    Args:
        folder: where to.
        tiles: how many: 256 x 256 px, blue, green, red and nir, uint16.
        keys: of `prepare`.
        options: of rasterio, for the files.
    """
    import rasterio

    (folder / "tiles").mkdir(parents=True)
    rng, ramp = np.random.default_rng(0), np.linspace(0, 6, 256)
    ground = np.sin(ramp[:, None] + 1.7 * np.sin(ramp[None, :]))
    rows = [",".join(["tile", *(f"c{number}" for number in range(17))])]
    for number in range(tiles):
        level = rng.uniform(300, 3000, (4, 1, 1)) * (1 + 0.3 * np.roll(ground, 7 * number))
        with rasterio.open(
            folder / f"tiles/{number:05d}.tif", "w", driver="GTiff", height=256, width=256, count=4,
            dtype="uint16", transform=rasterio.Affine(3, 0, 0, 0, -3, 0), **options,
        ) as image:  # fmt: skip
            image.write((level + rng.normal(0, 12, (4, 256, 256))).astype(np.uint16))
        rows.append(",".join([f"{number:05d}", *map(str, rng.integers(0, 2, 17))]))
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    job(
        "prepare", f"images={folder}/tiles", f"labels={folder}/labels.csv", f"out={folder}/index",
        "split.by=draw", "bands=[blue,green,red,nir]", *keys,
    )  # fmt: skip
