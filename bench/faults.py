"""Faults: a job is killed, cut off or starved at a bad moment, and what comes out must be right.

`python -m bench faults [--only driver cut ...]`: a line each, right or wrong; the status is 1 where
one is wrong. Scenes are scored on a schedule and compared, logit by logit, with a run that nothing
happened to. The S3 server and the proxy before it are those of the tests.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.field import JOBS, SIMPLE, WrongError, need

ROOT = JOBS.parent
CASES: dict[str, Callable[["Bench"], None]] = {}
SCENES = 6
SIDE = 64
LEASE = 6.0
"""Seconds after which a run that was killed counts as dead."""
ALONE = ("resources.workers=1", "resources.gpus=no", "drift=off")
TRAINING = (
    SIMPLE, "weights=none", "stages.0.pseudo_epochs=2", "batch=8", "resources.gpus=no"
)  # fmt: skip


@dataclass
class Bench:
    """What all cases share: an archive, scenes, a bundle, and what scores are right."""

    root: Path
    seed: int

    def make(self) -> None:
        """Write archive and scenes, train, and score undisturbed."""
        import rasterio

        rng = np.random.default_rng(0)
        labels = ["tile,bright,dark"]
        for folder, count, side in (("tiles", 24, SIDE), ("scenes", SCENES, 4 * SIDE)):
            (self.root / folder).mkdir(exist_ok=True)
            for number in range(count):
                level, wave = 60 + 120 * (number % 2), np.arange(side) % 40
                pixels = (rng.integers(0, 20, (3, side, side)) + level + wave).astype(np.uint8)
                shape = {"count": 3, "height": side, "width": side, "dtype": "uint8"}
                grid = rasterio.Affine(10, 0, 448000, 0, -10, 5411000 + 9000 * number)
                place = self.root / folder / f"t{number:02d}.tif"
                with rasterio.open(place, "w", crs="EPSG:32631", transform=grid, **shape) as file:
                    file.write(pixels)
                if folder == "tiles":
                    labels.append(f"t{number:02d},{number % 2},{1 - number % 2}")
        (self.root / "labels.csv").write_text("\n".join(labels) + "\n")
        self.line(str(self.root), str(self.root / "right"))

    def line(self, base: str, out: str, env: dict[str, str] | None = None) -> None:
        """Prepare, train, score tiles and scenes; each ends with status 0."""
        labels = f"labels={base}/labels.csv"
        self.job("prepare", f"images={base}/tiles", labels, f"out={out}/index", env=env)
        self.job("train", f"index={out}/index", f"out={out}/model", *TRAINING, env=env)
        bundle = f"bundle={out}/model"
        self.job("score", bundle, f"tiles={base}/tiles", f"out={out}/scores", *ALONE[:2], env=env)
        keys = (bundle, f"scenes={base}/scenes", *ALONE, "only_new=true", "schedule.settle=0")
        self.job("score", *keys, f"out={out}/maps", env=env)

    def job(
        self, name: str, *keys: str, status: int | None = 0, env: dict[str, str] | None = None
    ) -> str:
        """Run a job; gives all that it printed."""
        process = self.start([str(JOBS / f"{name}.py"), *keys], env)
        text = process.communicate(timeout=300)[0].strip()
        last = " / ".join(text.splitlines()[-3:])
        need("Traceback" not in text, f"{name} printed a traceback: {text[-300:]}")
        need(status in (None, process.returncode), f"{name}: status {process.returncode}: {last}")
        return text

    def start(
        self, command: list[str], env: dict[str, str] | None = None
    ) -> "subprocess.Popen[str]":
        """Start a Python program in the repository."""
        return subprocess.Popen(
            [sys.executable, *command], cwd=ROOT, env={**os.environ, **(env or {})}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def keys(self, out: Path) -> list[str]:
        """Of a run of a schedule into `out`."""
        bundle = f"bundle={self.root / 'right' / 'model'}"
        settings = (f"schedule.lease={LEASE:g}", "schedule.settle=0", "only_new=true", *ALONE)
        return [bundle, f"scenes={self.root / 'scenes'}", f"out={out}", *settings]

    def finish(self, out: Path) -> None:
        """Run the schedule until nothing is left; each run ends with status 0, and all is right."""
        for _ in range(4):
            time.sleep(LEASE + 1)
            if "nothing to score" in self.job("score", *self.keys(out)):
                return self.check(str(out))
        raise WrongError("there is still something to score after four runs")

    def check(self, out: str, env: dict[str, str] | None = None) -> None:
        """Each scene is in the tables of the recorded runs once, with the right scores."""
        right, found = self.rows(str(self.root / "right" / "maps")), self.rows(out, env)
        need(len(right) == SCENES * 16, f"undisturbed: {len(right)} tiles")
        twice = [place for place, rows in found.items() if len(rows) > 1]
        need(not twice, f"{len(twice)} rows are there twice")
        need(right.keys() == found.keys(), f"{len(found)} of {len(right)} tiles are in the tables")
        off = [place for place, rows in found.items() if rows != right[place]]
        need(not off, f"{len(off)} tiles have other scores")

    def rows(self, out: str, env: dict[str, str] | None = None) -> dict[tuple[Any, ...], list[Any]]:
        """Scores by scene and place, of the predictions of all recorded runs."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        with environment(env or {}) as storage:
            found: dict[tuple[Any, ...], list[Any]] = {}
            keys = {entry.key for entry in storage.list(out)}
            products: dict[str, tuple[int, str]] = {}
            for key in sorted(key for key in keys if key.startswith("runs/") and ".json" in key):
                record = json.loads(storage.read(f"{out}/{key}"))
                products |= {p["path"]: p["sha256"] for p in record["products"]}
                table = f"predictions/{record['run_id']}.parquet"
                if table in keys:
                    data = pa.BufferReader(storage.read(f"{out}/{table}"))
                    for row in pq.read_table(data).to_pylist():
                        place = (row["scene"], row["row"], row["col"])
                        scores = [v for name, v in row.items() if name.startswith("logit_")]
                        found.setdefault(place, []).append(scores)
            lost = [path for path in products if path not in keys]
            need(not lost, f"recorded, and not there: {lost[:2]}")
            items = [json.loads(storage.read(f"{out}/{k}")) for k in keys if k.startswith("items/")]
            need(len(items) == SCENES, f"{len(items)} Items")
        return found


@contextlib.contextmanager
def environment(changes: dict[str, str]) -> Iterator[Any]:
    """This process's variables, for a while, and storage by them."""
    from satray.storage import Storage, forget_connections

    before = dict(os.environ)
    os.environ.update(changes)
    forget_connections()
    try:
        yield Storage()
    finally:
        os.environ.clear()
        os.environ.update(before)
        forget_connections()


def fault(function: Callable[[Bench], None]) -> Callable[[Bench], None]:
    """Register a case by its name."""
    CASES[function.__name__.removeprefix("fault_")] = function
    return function


def await_(what: Callable[[], object], seconds: float = 120) -> Any:
    """Wait until something is there."""
    end = time.monotonic() + seconds
    while not (found := what()):
        need(time.monotonic() < end, "the moment for the fault never came")
        time.sleep(0.05)
    return found


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


@fault
def fault_driver(at: Bench) -> None:
    """The driver is killed after its first scene; the next runs finish, each scene told once."""
    out = at.root / "driver"
    run = at.start([str(JOBS / "score.py"), *at.keys(out)])
    await_(lambda: list(out.glob("ledger/*/*/done")))
    started = below(run.pid)
    run.kill()
    run.communicate()
    at.finish(out)
    left = [pid for pid in started if Path(f"/proc/{pid}/cmdline").exists()]
    need(not left, f"{len(left)} of its processes are still there")


def actor_dies(at: Bench, moment: str) -> None:
    """An actor is killed at a moment; the same run ends well."""
    out, mark = at.root / moment, at.root / f"{moment}.mark"
    mark.unlink(missing_ok=True)
    command = ["-m", "bench.faults", "--actor", moment, "--mark", str(mark), "--", *at.keys(out)]
    run = at.start(command)
    text = run.communicate(timeout=300)[0]
    need(mark.exists(), f"no actor was killed: {text[-200:]}")
    need(run.returncode == 0, f"status {run.returncode}: {text.strip().splitlines()[-1]}")
    at.finish(out)


@fault
def fault_claimed(at: Bench) -> None:
    """An actor is killed when it has claimed a scene; another scores it in the same run."""
    actor_dies(at, "claimed")


@fault
def fault_written(at: Bench) -> None:
    """An actor is killed between a scene's products and its commit."""
    actor_dies(at, "written")


@fault
def fault_committed(at: Bench) -> None:
    """An actor is killed between a scene's commit and its report."""
    actor_dies(at, "committed")


@fault
def fault_raylet(at: Bench) -> None:
    """The raylet is killed: a line says so, the status is 1, and the next runs finish."""
    out = at.root / "raylet"
    run = at.start([str(JOBS / "score.py"), *at.keys(out)])
    await_(lambda: list(out.glob("ledger/*/*/done")))
    for pid in [pid for pid, name in below(run.pid).items() if name == "raylet"]:
        os.kill(pid, signal.SIGKILL)
    text = run.communicate(timeout=200)[0]
    need(run.returncode == 1, f"status {run.returncode}")
    need("score ended with status 1" in text, f"no line at the end: {text[-200:]}")
    at.finish(out)


@fault
def fault_two(at: Bench) -> None:
    """Two schedules at once: each scene is scored by one of them."""
    out = at.root / "two"
    runs = [at.start([str(JOBS / "score.py"), *at.keys(out)]) for _ in range(2)]
    for run in runs:
        text = run.communicate(timeout=300)[0]
        need(run.returncode == 0, f"status {run.returncode}: {text[-200:]}")
    at.finish(out)
    commits = list(out.glob("ledger/*/*/done"))
    need(len(commits) == SCENES, f"{len(commits)} commits of {SCENES} scenes")


@fault
def fault_disk(at: Bench) -> None:
    """The disk is full: that is the line, nothing is given up, and with room all is done."""
    out = at.root / "disk"
    out.mkdir()
    small = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(out)]
    if os.geteuid() or subprocess.run(small, capture_output=True, check=False).returncode:
        raise NotImplementedError("needs the right to mount a small disk")
    try:
        for _ in range(4):
            text = at.job("score", *at.keys(out), status=1)
            need("No space left" in text, f"another cause: {text.splitlines()[-2:]}")
        subprocess.run(["mount", "-o", "remount,size=64m", str(out)], check=True)
        at.finish(out)
    finally:
        subprocess.run(["umount", "-l", str(out)], check=False)


@fault
def fault_cut(at: Bench) -> None:
    """A fifth of all requests to S3 fails: the whole line ends well, with the same numbers."""
    import pyarrow.parquet as pq

    sys.path.append(str(ROOT / "tests"))
    from fault_proxy import FaultProxy
    from s3_server import ACCESS_KEY, REGION, SECRET_KEY, S3Server

    (at.root / "cut").mkdir()
    with S3Server(at.root / "cut") as server:
        env = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
        env |= {"AWS_REGION": REGION, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
        direct = env | {"AWS_ENDPOINT_URL": server.endpoint}
        with environment(direct) as storage:
            import boto3

            boto3.client("s3").create_bucket(Bucket="faults")
            for name in ("tiles", "scenes", "labels.csv"):
                for entry in storage.list(at.root / name) or [storage.head(at.root / name)]:
                    storage.upload(entry.uri, f"s3://faults/{Path(entry.uri).relative_to(at.root)}")
        with FaultProxy(server.endpoint, 0.2, at.seed) as proxy:
            failing = env | {"AWS_ENDPOINT_URL": proxy.endpoint}
            at.line("s3://faults", "s3://faults/out", failing)
        at.check("s3://faults/out/maps", direct)
        with environment(direct) as storage:
            for entry in storage.list("s3://faults/out"):
                storage.download(entry.uri, at.root / "cut" / "out" / entry.key)
    need(proxy.faults > 50, f"only {proxy.faults} requests failed")
    weights, tables = set(), []
    for out in (at.root / "right", at.root / "cut" / "out"):
        weights.add((out / "model/bundle/model.safetensors").read_bytes())
        table = pq.read_table(out / "scores" / "predictions")
        logits = [name for name in table.column_names if name.startswith("logit_")]
        tables.append(table.select(["tile_id", *logits]).sort_by("tile_id"))
    need(len(weights) == 1, "other weights were trained")
    need(tables[0].equals(tables[1]), "tiles have other scores")


def with_deadly_actor(moment: str, mark: Path, keys: list[str]) -> int:
    """Score with an actor that kills itself at a moment, the first time."""
    from satray.scoring.maps import crew

    def make(task: Any, gpu: bool) -> Any:  # local, so that it travels by value
        from satray.scoring.maps import actor

        def once() -> None:
            with contextlib.suppress(FileExistsError):
                mark.touch(exist_ok=False)
                os.kill(os.getpid(), signal.SIGKILL)

        holder, name = {
            "claimed": (actor.Work, "_unit"),
            "written": (actor.Delivery, "commit"),
            "committed": (actor.Delivery, "commit"),
        }[moment]
        real = getattr(holder, name)

        def deadly(*given: Any) -> Any:
            if moment != "committed":
                once()
            found = real(*given)
            once()
            return found

        setattr(holder, name, deadly)
        return actor.Work(task, gpu)

    crew.Work = make  # type: ignore[assignment,misc]
    sys.path.append(str(JOBS))
    import score

    from satray.runs.frame import main as run

    return run(score.JOB, keys)


def main(arguments: list[str]) -> int:
    """Inject the faults; 0 where all is right."""
    parser = argparse.ArgumentParser(prog="python -m bench faults", description=__doc__)
    parser.add_argument("--only", nargs="*", help=f"some of {', '.join(CASES)}")
    parser.add_argument("--seed", type=int, default=0, help="of the failing requests")
    parser.add_argument("--keep", type=Path, help="work here, and leave all there")
    parser.add_argument("--actor", help=argparse.SUPPRESS)
    parser.add_argument("--mark", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("keys", nargs="*", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.actor:
        return with_deadly_actor(given.actor, given.mark, given.keys)
    root = (given.keep or Path(tempfile.mkdtemp(prefix="faults-"))).absolute()
    root.mkdir(parents=True, exist_ok=True)
    at = Bench(root, given.seed)
    if not (root / "right" / "maps").exists():
        at.make()
    wrong = False
    for name, function in CASES.items():
        if given.only and name not in given.only:
            continue
        shutil.rmtree(root / name, ignore_errors=True)
        start = time.perf_counter()
        try:
            function(at)
            verdict, why = "right", ""
        except NotImplementedError as error:
            verdict, why = "skipped", f" ({error})"
        except Exception as error:
            verdict, why = "WRONG", f" ({' '.join(str(error).split()) or type(error).__name__})"
            wrong = True
        title = " ".join((function.__doc__ or "").split())
        print(f"{name} {verdict}{why}: {title} [{time.perf_counter() - start:.0f} s]", flush=True)
    if given.keep is None:
        shutil.rmtree(root)
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
