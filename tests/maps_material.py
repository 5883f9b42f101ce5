"""A bundle that sees bright dots, scenes with dots, and the job without Ray."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import scoring_material
from affine import Affine
from by_hand import job_of
from rasters import UTM, write_raster
from score.dense import dense_material

from satray.config.score import ScoreRecipe
from satray.runs.folder import take_folder
from satray.runs.job import perform
from satray.runs.run import Run
from satray.score import job as score
from satray.storage import Storage

BANDS = ("red", "green", "blue")
SIZE = 96
JOB = job_of("score", early=score.early)
STORAGE = Storage()


def save_bundle(
    folder: Path, backbone: str = "resnet10t", pooling: str = "avg", towers: int = 1, **more: Any
) -> None:
    """A bundle of classes `dot` (evidence where it is bright) and `dark` (none anywhere)."""
    about = {"classes": ("dot", "dark"), "size": SIZE, "tile_shape": (SIZE, SIZE)}
    variant = dense_material.variant(backbone, pooling, towers)
    scoring_material.save_bundle(folder, variant, "peaked", **about, temperature=1.0, **more)


def field(height: int = 700, width: int = 900, bands: int = 3, seed: int = 0) -> np.ndarray:
    """A calm scene around the training's mean."""
    rng = np.random.default_rng(seed)
    return rng.normal(2000, 60, (bands, height, width)).clip(1, 60000).astype(np.uint16)


def dotted(pixels: np.ndarray, *places: tuple[int, int], side: int = 12) -> np.ndarray:
    """With bright squares around (row, column)."""
    made = pixels.copy()
    for row, col in places:
        half = side // 2
        made[:, max(0, row - half) : row + half, max(0, col - half) : col + half] = 60000
    return made


def write_scene(
    path: Path,
    values: np.ndarray,
    crs: str | None = "EPSG:32631",
    transform: Affine | None = UTM,
    names: tuple[str, ...] | None = BANDS,
    **more: Any,
) -> Path:
    return write_raster(path, values, names, crs, transform, **more)


def recipe(bundle: Path, scenes: Path, **more: Any) -> ScoreRecipe:
    values = {
        "bundle": str(bundle),
        "scenes": str(scenes),
        "resources": {"workers": 1, "gpus": "no"},
        "drift": "off",
        "error_budget": 1.0,
        **more,
    }
    return ScoreRecipe.model_validate(values)


def scored(
    given: ScoreRecipe,
    out: Path | str,
    run_id: str = "abcdefabcdef",
    ray: bool = False,
    storage: Storage = STORAGE,
) -> Any:
    """Run, outcome, record and what was said."""
    found = score.read(given, storage)
    said: list[str] = []
    run = Run(
        "score",
        run_id,
        str(out),
        storage,
        said.append,
        said.append,
        shared=given.only_new,
        ray=ray,
    )
    with take_folder(run, overwrite=False, lost=print):
        outcome = record = perform(JOB, given, found, run)
    return run, outcome, record, said


@dataclass
class Watch:
    """What the network looks at, in this process, and who is called before."""

    done: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    """Scene and part of each that was looked at."""
    px: int = 0
    """Net px that forwards looked at."""
    before: Callable[[int, int], None] | None = None
    """Called with scene and part before the network looks at each."""
    opening: Callable[[int], object] | None = None
    """Called with each scene before it is opened."""


def rows_of(run: Run, path: str) -> list[dict[str, Any]]:
    return pq.read_table(run.uri(path)).to_pylist()


def tiles_of(run: Run) -> list[dict[str, Any]]:
    """Predictions of all scenes of a run, by their names."""
    paths = [p.path for p in run.products if p.path.startswith("predictions/")]
    return [row for path in paths for row in rows_of(run, path)]


def digests(run: Run) -> dict[str, str]:
    """Of all products that do not tell the time of their making."""
    return {
        product.path: product.sha256
        for product in run.products
        if not product.path.startswith(("items/", "scenes.parquet"))
    }
