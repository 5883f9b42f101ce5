"""Ledgers on any storage, and a program that does a whole pass as a job would."""

import json
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any

from scoring.ledger.memory_store import START

from satray.errors import SatrayError
from satray.runs.run import Product
from satray.scoring.ledger import (
    Claim,
    Ledger,
    Pass,
    config_of,
    list_finals,
    plan_pass,
    recover,
    unneeded,
)
from satray.storage import Storage

OUT = "s3://bucket/out"
CONFIG = config_of("model", "settings")
LONG_AGO = START.replace(year=2020)
NUMBERS = count()


@dataclass(frozen=True)
class Scene:
    """What `growing.Seen` asks for."""

    scene: str
    etag: str = "e1"
    size: int = 10
    modified: datetime = LONG_AGO


def make_ledger(storage: Any, out: str = OUT, **changes: Any) -> Ledger:
    """A ledger with a lease of 100 s, of a run of its own."""
    given = {
        "config": CONFIG,
        "run_id": f"run{next(NUMBERS)}",
        "model_id": "model",
        "finals": ("cam/{scene}.tif", "items/{scene}.json"),
        "lease": 100.0,
    }
    return Ledger(storage, out, **{**given, **changes})


def products(ledger: Ledger, claim: Claim) -> dict[str, bytes]:
    """What an attempt makes, by final name: bytes that tell whose they are."""
    return {
        final: json.dumps([final, claim.key.version, claim.attempt, ledger.run_id]).encode()
        for final in ledger.final_paths(claim.key.scene)
    }


def owner_of(data: bytes) -> tuple[str, int, str]:
    """Version, attempt and run of a product's bytes."""
    _, version, attempt, run = json.loads(data)
    return version, attempt, run


def deliver(ledger: Ledger, claim: Claim, made: dict[str, bytes] | None = None) -> bool:
    """Write products and commit, as an actor does; tells whether the scene is this attempt's."""
    given = products(ledger, claim) if made is None else made
    written = []
    for final, data in given.items():
        if not ledger.stands(claim):
            return False
        ledger.storage.write(f"{ledger.out}/{final}", data)
        written.append(Product(final, len(data), sha256(data).hexdigest()))
    digest = ledger.settle(claim, written)
    result = {"scene": claim.key.scene, "products": [asdict(one) for one in written]}
    return digest is not None and ledger.commit(claim, digest, result)


def plan(ledger: Ledger, scenes: list[Scene], **more: Any) -> Pass[Scene]:
    """Look, and sort."""
    return plan_pass(scenes, ledger.look(), ledger, list_finals(ledger), **{"settle": 0, **more})


def take(ledger: Ledger, scene: Scene) -> Claim | None:
    """Look, and claim, with a sign of life; None where there is nothing to claim."""
    todo = plan(ledger, [scene]).todo
    ledger.beat()
    return ledger.claim(todo[0].key, todo[0].history, todo[0].looked) if todo else None


def do_pass(
    ledger: Ledger,
    scenes: list[Scene] | Callable[[], list[Scene]],
    outcome: Callable[[Claim], str] = lambda claim: "done",
    claimed: Callable[[Claim], None] = lambda claim: None,
) -> list[Claim]:
    """Recover, claim, score, commit and record, as a job does; returns what it committed."""
    view = ledger.look()
    finals = list_finals(ledger)
    found = scenes if isinstance(scenes, list) else scenes()
    plan = plan_pass(found, view, ledger, finals, settle=0)
    if not (plan.todo or plan.doubtful or plan.untold):
        return []
    ledger.beat()
    try:
        recovered = recover(ledger, plan.doubtful)
        for run in unneeded(view):
            ledger.close(run)
        mine, rows = [], [result["scene"] for _, result in recovered.adopted]
        for task in [*plan.todo, *recovered.again]:
            claim = ledger.claim(task.key, task.history, task.looked)
            if claim is None:
                continue
            claimed(claim)
            end = outcome(claim)
            if end in ("failed", "final"):
                ledger.fail(claim, "bad weather", retryable=end == "failed")
            elif end == "released":
                ledger.release(claim)
            elif deliver(ledger, claim):
                mine.append(claim)
                rows.append(claim.key.scene)
        for seen, key in plan.untold:
            rows.append(seen.scene)
            ledger.fail(Claim(key, plan.failed[key].number, view.now), "", retryable=True)
        record = f"{ledger.out}/runs/{ledger.run_id}.json"
        ledger.storage.write(record, json.dumps(rows).encode())
        ledger.close()
    except SatrayError:
        with suppress(SatrayError):
            ledger.beat(b"")
        raise
    return mine


def pass_of_a_process(out: str, names: list[str], started: Any, results: Any) -> None:
    """One of several processes at the same scenes; tells what it committed."""
    try:
        started.wait(60)
        ledger = make_ledger(Storage(), out, run_id=f"p{os.getpid()}")
        claims = do_pass(ledger, [Scene(name) for name in names])
        results.put([claim.key.scene for claim in claims])
    except BaseException as error:
        results.put(repr(error))


def claim_and_die(out: str, name: str) -> None:
    """Claim, write half of the products, and be killed."""
    ledger = make_ledger(Storage(), out, run_id=f"p{os.getpid()}")

    def killed(claim: Claim) -> str:
        final, data = next(iter(products(ledger, claim).items()))
        ledger.storage.write(f"{out}/{final}", data)
        os.kill(os.getpid(), signal.SIGKILL)
        return "never"

    do_pass(ledger, [Scene(name)], outcome=killed)


def age(folder: Path, seconds: float) -> None:
    """Let the disk's clock have been earlier when the files below a folder were made."""
    for path in folder.rglob("*"):
        if path.is_file():
            before = path.stat().st_mtime - seconds
            os.utime(path, (before, before))
