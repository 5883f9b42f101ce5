"""Ledgers on any storage, and a program that does a whole pass as a job would."""

import json
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from scoring.ledger.memory_store import START

from satray.scoring.ledger import (
    Claim,
    Ledger,
    commit,
    config_of,
    discard,
    list_finals,
    look,
    plan_pass,
    publish,
    stage,
)
from satray.storage import Storage

OUT = "s3://bucket/out"
CONFIG = config_of("model", "settings")
LONG_AGO = START.replace(year=2020)


@dataclass(frozen=True)
class Scene:
    """What `growing.Seen` asks for."""

    scene: str
    etag: str = "e1"
    size: int = 10
    modified: datetime = LONG_AGO


def make_ledger(storage: Any, out: str = OUT, **changes: Any) -> Ledger:
    """A ledger with a lease of 100 s."""
    given = {
        "config": CONFIG,
        "run_id": "run",
        "model_id": "model",
        "finals": ("cam/{scene}.tif", "items/{scene}.json"),
        "lease": 100.0,
    }
    return Ledger(storage, out, **{**given, **changes})


def products(ledger: Ledger, claim: Claim) -> dict[str, bytes]:
    """What an attempt makes, by final name: bytes that tell whose they are."""
    return {
        final: json.dumps([final, claim.key.version, claim.attempt, claim.token]).encode()
        for final in ledger.final_paths(claim.key.scene)
    }


def owner_of(data: bytes) -> tuple[str, int, str]:
    """Version, attempt and token of a product's bytes."""
    _, version, attempt, token = json.loads(data)
    return version, attempt, token


def do_pass(
    ledger: Ledger,
    scenes: list[Scene] | Callable[[], list[Scene]],
    outcome: Callable[[Claim], str] = lambda claim: "done",
    claimed: Callable[[Claim], None] = lambda claim: None,
) -> list[Claim]:
    """Repair, then claim, score, commit and publish, as a job does; returns what it committed."""
    view = look(ledger)
    finals = list_finals(ledger)
    found = scenes if isinstance(scenes, list) else scenes()
    plan = plan_pass(found, view, ledger, finals, settle=0)
    for key in plan.repair:
        publish(ledger, key)
    mine = []
    for task in plan.todo:
        claim = ledger.claim(task.key, task.history, task.looked)
        if claim is None:
            continue
        claimed(claim)
        end = outcome(claim)
        if end in ("failed", "final"):
            ledger.fail(claim, "bad weather", retryable=end == "failed")
            continue
        if end == "released":
            ledger.release(claim)
            continue
        staged = [
            stage(ledger, claim, data, final) for final, data in products(ledger, claim).items()
        ]
        ledger.renew(claim, 1)
        if commit(ledger, claim, staged):
            publish(ledger, claim.key, claim)
            mine.append(claim)
        else:
            discard(ledger, claim)
    return mine


def pass_of_a_process(out: str, names: list[str], started: Any, results: Any) -> None:
    """One of several processes at the same scenes; tells what it committed."""
    try:
        started.wait(60)
        claims = do_pass(make_ledger(Storage(), out), [Scene(name) for name in names])
        results.put([claim.key.scene for claim in claims])
    except BaseException as error:
        results.put(repr(error))


def claim_and_die(out: str, name: str) -> None:
    """Claim, write half of the products, and be killed."""
    ledger = make_ledger(Storage(), out)

    def killed(claim: Claim) -> str:
        final, data = next(iter(products(ledger, claim).items()))
        stage(ledger, claim, data, final)
        os.kill(os.getpid(), signal.SIGKILL)
        return "never"

    do_pass(ledger, [Scene(name)], outcome=killed)


def age(folder: Path, seconds: float) -> None:
    """Let the disk's clock have been earlier when the files below a folder were made."""
    for path in folder.rglob("*"):
        if path.is_file():
            before = path.stat().st_mtime - seconds
            os.utime(path, (before, before))
