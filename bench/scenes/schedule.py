"""A pass over scenes that are all scored already: what an hourly run costs where nothing is new.

Scenes and their ledger are real files; their products are a few bytes each, committed and published
by the ledger itself. The pass is `jobs/score.py only_new=true`, as cron would start it.
"""

import argparse
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from bench.scenes.made import parts
from satray.config.score import ScoreRecipe
from satray.models.bundle import bundle_digest, bundle_files
from satray.runs.folder import share
from satray.runs.record import Product
from satray.runs.run import Run
from satray.scoring.ledger import Task, plan_pass
from satray.scoring.maps.look import ledger_of, scenes_of
from satray.scoring.over_tiles import read_spec
from satray.scoring.scenes.scene import SceneRef
from satray.storage import Storage

SIDE = 64
"""Of a scene, px: a pass opens none."""


def run(given: argparse.Namespace) -> dict[str, Any]:
    """Make them, then time passes."""
    root = Path(given.work).absolute() / "schedule"
    shutil.rmtree(root, ignore_errors=True)
    try:
        start = time.perf_counter()
        recipe = made(root, given.scored)
        print(f"{given.scored:,} scenes scored, made in {time.perf_counter() - start:.0f} s")
        seconds = [one_pass(recipe) for _ in range(given.rounds)]
    finally:
        shutil.rmtree(root, ignore_errors=True)
    print(f"a pass in which nothing is new: {median(seconds):.1f} s (median of {given.rounds})")
    return {"scenes": given.scored, "seconds": [round(one, 2) for one in seconds]}


def made(root: Path, count: int) -> ScoreRecipe:
    """Scenes and a ledger in which each is done."""
    import rasterio

    network, spec = parts("mobilenet_v2", 224)
    (root / "bundle").mkdir(parents=True)
    for name, data in bundle_files(spec, network.state_dict()).items():
        (root / "bundle" / name).write_bytes(data)
    scenes = root / "scenes"
    pixels = np.random.default_rng(0).integers(0, 255, (3, SIDE, SIDE), dtype=np.uint8)
    scenes.mkdir(parents=True)
    with rasterio.open(
        scenes / "first.png", "w", driver="PNG", dtype="uint8", count=3, height=SIDE, width=SIDE
    ) as file:
        file.write(pixels)
    data = (scenes / "first.png").read_bytes()
    for n in range(count - 1):
        (scenes / f"day-{n // 100:03d}").mkdir(exist_ok=True)
        (scenes / f"day-{n // 100:03d}" / f"{n:06d}.png").write_bytes(data)
    recipe = ScoreRecipe.model_validate(
        {
            "bundle": str(root / "bundle"),
            "scenes": str(scenes),
            "out": str(root / "out"),
            "only_new": True,
            "schedule": {"settle": 0},
        }
    )
    storage = Storage()
    spec = read_spec(recipe.bundle, storage)
    model = bundle_digest(recipe.bundle, storage)[:12]
    ledger = ledger_of(recipe, spec, model, "0" * 12, str(root / "out"), storage)
    todo = plan_pass(
        scenes_of(recipe, spec, storage).scenes, ledger.look(), ledger, {}, settle=0
    ).todo
    out = Run("score", "0" * 12, str(root / "out"), storage, print, print, shared=True)
    share(out)
    ledger.beat()

    def score(task: Task[SceneRef]) -> None:
        claim = ledger.claim(task.key, task.history, task.looked)
        assert claim is not None
        finals = [one for one in ledger.final_paths(task.key.scene) if "argmax" not in one]
        products = []
        for final in finals:
            storage.write(out.uri(final), final.encode())
            products.append(Product(final, len(final), sha256(final.encode()).hexdigest()))
        digest = ledger.settle(claim, products)
        assert digest is not None
        ledger.commit(claim, digest, {"products": [asdict(product) for product in products]})

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(score, todo))
    ledger.close()
    return recipe


def one_pass(recipe: ScoreRecipe) -> float:
    """Seconds of a run as cron would start it."""
    keys = [f"{name}={getattr(recipe, name)}" for name in ("bundle", "scenes", "out")]
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "jobs/score.py", *keys, "only_new=true", "schedule.settle=0"],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    seconds = time.perf_counter() - start
    assert not done.returncode, done.stderr
    assert "nothing to score" in done.stdout, done.stdout
    return seconds
