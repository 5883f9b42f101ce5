"""Faults: a job is killed, cut off or starved at a bad moment, and what comes out must be right.

`python -m bench faults [--only driver cut ...]`: a line each, right or wrong; the status is 1 where
one is wrong. Scenes are scored on a schedule and compared, logit by logit, with a run that nothing
happened to. The S3 server and the proxy before it are those of the tests.
"""

import argparse
import contextlib
import functools
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.field import SIMPLE
from bench.processes import ROOT, WrongError, below, finished, need, start, verdict
from bench.score import write_coast
from satray.config.base import StorageOptions
from satray.storage import Storage

SCENES, SIDE = 6, 64
LEASE = 6.0
"""Seconds after which a run that was killed counts as dead."""
ALONE = ("resources.workers=1", "resources.gpus=no", "drift=off", "resources.ray=yes")
KILLS = 20
STAGES = ("ray::_Actor", "ray::open", "ray::write")
"""What names of processes begin with that do a scene's stages."""
SPAN = 6.0
"""Seconds from the first claim in which a process is killed."""
GONE = 90.0
"""Seconds in which all processes of a killed run end: Ray's agents take a minute to miss theirs."""
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
        tiles = sorted(write_coast(self.root / "tiles", 24, SIDE).iterdir())
        write_coast(self.root / "scenes", SCENES, 4 * SIDE)
        rows = [f"{path.stem},{n % 2},{1 - n % 2}" for n, path in enumerate(tiles)]
        (self.root / "labels.csv").write_text("\n".join(["tile,bright,dark", *rows]) + "\n")
        line(str(self.root), str(self.root / "right"))

    def keys(self, out: Path) -> list[str]:
        """Of a run of a schedule into `out`."""
        bundle = f"bundle={self.root / 'right' / 'model'}"
        settings = (f"schedule.lease={LEASE:g}", "schedule.settle=0", "only_new=true", *ALONE)
        return [bundle, f"scenes={self.root / 'scenes'}", f"out={out}", *settings]

    def score(self, out: Path) -> "subprocess.Popen[str]":
        """Start a run of the schedule."""
        return start("score", *self.keys(out))

    def finish(self, out: Path, *keys: str) -> None:
        """Run the schedule until nothing is left; each run ends with status 0, and all is right."""
        for _ in range(4):
            time.sleep(LEASE + 1)
            if "nothing to score" in finished(start("score", *self.keys(out), *keys)):
                return self.check(str(out))
        raise WrongError("there is still something to score after four runs")

    def check(self, out: str, endpoint: str | None = None) -> None:
        """Each scene is in the tables of the recorded runs once, with the right scores."""
        right, found = rows(str(self.root / "right" / "maps")), rows(out, endpoint)
        need(len(right) == SCENES * 16, f"undisturbed: {len(right)} tiles")
        twice = [place for place, scores in found.items() if len(scores) > 1]
        need(not twice, f"{len(twice)} rows are there twice")
        need(right.keys() == found.keys(), f"{len(found)} of {len(right)} tiles are in the tables")
        off = [place for place, scores in found.items() if scores != right[place]]
        need(not off, f"{len(off)} tiles have other scores")


def line(base: str, out: str, env: dict[str, str] | None = None) -> None:
    """Prepare, train, score tiles and scenes; each ends with status 0."""
    bundle = f"bundle={out}/model"
    schedule = (*ALONE, "only_new=true", "schedule.settle=0")
    for name, keys in (
        ("prepare", (f"images={base}/tiles", f"labels={base}/labels.csv", f"out={out}/index")),
        ("train", (f"index={out}/index", f"out={out}/model", *TRAINING)),
        ("score", (bundle, f"tiles={base}/tiles", f"out={out}/scores", *ALONE[:2])),
        ("score", (bundle, f"scenes={base}/scenes", f"out={out}/maps", *schedule)),
    ):
        finished(start(name, *keys, env=env))


def rows(out: str, endpoint: str | None = None) -> dict[tuple[Any, ...], list[Any]]:
    """Scores by scene and place, of the predictions of all recorded runs."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    found: dict[tuple[Any, ...], list[Any]] = {}
    storage = Storage(StorageOptions(endpoint=endpoint))
    keys = {entry.key for entry in storage.list(out)}
    for key in (key for key in sorted(keys) if key.startswith("runs/") and ".json" in key):
        record = json.loads(storage.read(f"{out}/{key}"))
        paths = [one["path"] for one in record.get("products", ())]  # a Collection has none
        lost = [path for path in paths if path not in keys]
        need(not lost, f"recorded, and not there: {lost[:2]}")
        for table in (path for path in paths if path.startswith("predictions/")):
            data = pa.BufferReader(storage.read(f"{out}/{table}"))
            for row in pq.read_table(data).to_pylist():
                scores = [v for name, v in row.items() if name.startswith("logit_")]
                found.setdefault((row["scene"], row["row"], row["col"]), []).append(scores)
    items = sum(key.startswith("items/") for key in keys)
    need(items == SCENES, f"{items} Items")
    return found


def first_scene(out: Path) -> None:
    """Wait until a scene is scored."""
    end = time.monotonic() + 120
    while not list(out.glob("ledger/*/*/done")):
        need(time.monotonic() < end, "the moment for the fault never came")
        time.sleep(0.05)


def driver(at: Bench) -> None:
    """The driver is killed after its first scene; the next runs finish, each scene told once."""
    out = at.root / "driver"
    run = at.score(out)
    first_scene(out)
    started = below(run.pid)
    run.kill()
    run.communicate()
    at.finish(out)
    end = time.monotonic() + GONE
    while left := [pid for pid in started if Path(f"/proc/{pid}/cmdline").exists()]:
        if time.monotonic() > end:
            break
        time.sleep(1)
    need(not left, f"{len(left)} of its processes are still there")


def moments(at: Bench) -> None:
    """Driver, actor, reader or writer is killed at a random moment, twenty times."""
    rng, kills = np.random.default_rng(at.seed), dict.fromkeys(("driver", *STAGES), 0)
    for turn in itertools.count():
        out, kind = at.root / "moments" / str(turn), list(kills)[turn % len(kills)]
        run = at.score(out)
        while run.poll() is None and not list(out.glob("ledger/*/*/0001")):
            time.sleep(0.05)
        time.sleep(rng.uniform(0, SPAN))
        alive = {run.pid: "driver", **below(run.pid)} if run.poll() is None else {}
        victims = [pid for pid, name in alive.items() if name.startswith(kind)]
        if victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(rng.choice(victims)), signal.SIGKILL)
                kills[kind] += 1
        text = run.communicate(timeout=300)[0]
        right = (-signal.SIGKILL,) if victims and kind == "driver" else (0,)
        need(run.returncode in right, f"{kind} killed: status {run.returncode}: {text[-300:]}")
        at.finish(out, "resources.ray=no")
        if sum(kills.values()) == KILLS:
            break
    print(f"killed: {', '.join(f'{name} {count}' for name, count in kills.items())}")


def raylet(at: Bench) -> None:
    """The raylet is killed: a line says so, the status is 1, and the next runs finish."""
    out = at.root / "raylet"
    run = at.score(out)
    first_scene(out)
    for pid in [pid for pid, name in below(run.pid).items() if name == "raylet"]:
        os.kill(pid, signal.SIGKILL)
    text = finished(run, 1)
    need("score ended with status 1" in text, f"no line at the end: {text[-200:]}")
    at.finish(out)


def cut(at: Bench) -> None:
    """A fifth of all requests to S3 fails: the whole line ends well, with the same numbers."""
    import boto3
    import pyarrow.parquet as pq

    sys.path.append(str(ROOT / "tests"))
    from fault_proxy import FaultProxy
    from s3_server import ACCESS_KEY, REGION, SECRET_KEY, S3Server

    (at.root / "cut").mkdir()
    os.environ |= {
        "AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY, "AWS_REGION": REGION,
        "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1",
    }  # fmt: skip
    with S3Server(at.root / "cut") as server:
        storage = Storage(StorageOptions(endpoint=server.endpoint))
        boto3.client("s3", endpoint_url=server.endpoint).create_bucket(Bucket="faults")
        for name in ("tiles", "scenes", "labels.csv"):
            for entry in storage.list(at.root / name) or [storage.head(at.root / name)]:
                storage.upload(entry.uri, f"s3://faults/{Path(entry.uri).relative_to(at.root)}")
        with FaultProxy(server.endpoint, 0.2, at.seed) as proxy:
            line("s3://faults", "s3://faults/out", {"AWS_ENDPOINT_URL": proxy.endpoint})
        at.check("s3://faults/out/maps", server.endpoint)
        for entry in storage.list("s3://faults/out"):
            storage.write(f"{at.root}/cut/out/{entry.key}", storage.read(entry.uri))
    need(proxy.faults > 50, f"only {proxy.faults} requests failed")
    weights, tables = set(), []
    for out in (at.root / "right", at.root / "cut" / "out"):
        weights.add((out / "model/bundle/model.safetensors").read_bytes())
        table = pq.read_table(out / "scores" / "predictions")
        logits = [name for name in table.column_names if name.startswith("logit_")]
        tables.append(table.select(["tile_id", *logits]).sort_by("tile_id"))
    need(len(weights) == 1, "other weights were trained")
    need(tables[0].equals(tables[1]), "tiles have other scores")


CASES: dict[str, Callable[[Bench], None]] = {
    one.__name__: one for one in (driver, raylet, cut, moments)
}


def main(arguments: list[str]) -> int:
    """Inject the faults; 0 where all is right."""
    parser = argparse.ArgumentParser(prog="python -m bench faults", description=__doc__)
    parser.add_argument("--only", nargs="*", help=f"some of {', '.join(CASES)}")
    parser.add_argument("--seed", type=int, default=0, help="of the failing requests")
    parser.add_argument("--keep", type=Path, help="work here, and leave all there")
    given = parser.parse_args(arguments)
    root = (given.keep or Path(tempfile.mkdtemp(prefix="faults-"))).absolute()
    root.mkdir(parents=True, exist_ok=True)
    at = Bench(root, given.seed)
    if not (root / "right" / "maps").exists():
        at.make()
    good = True
    for name, case in CASES.items():
        if not given.only or name in given.only:
            shutil.rmtree(root / name, ignore_errors=True)
            good &= verdict(f"{name}: {case.__doc__}", functools.partial(case, at))
    if given.keep is None:
        shutil.rmtree(root)
    return int(not good)
