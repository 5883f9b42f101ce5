"""A bundle that sees bright dots, scenes with dots, and the job without Ray."""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from rasterio.transform import Affine
from score.dense import dense_material
from scoring_material import make_peaked, write_tile

from satray.config.score import ScoreRecipe
from satray.models.bundle import BundleSpec, bundle_files
from satray.models.network import Network
from satray.models.probe import probe_grid
from satray.runs.folder import take_folder
from satray.runs.job import Job, perform
from satray.runs.run import Run
from satray.score import job as score
from satray.score.scheduler import run_stages
from satray.score.stages import Stages
from satray.storage import Storage

BANDS = ("red", "green", "blue")
UTM = Affine(10, 0, 448000, 0, -10, 5411000)
SIZE = 96
JOB = Job(
    "score", ScoreRecipe, score.read, score.plan, score.work,
    early=score.early,
)  # fmt: skip


def save_bundle(
    folder: Path,
    backbone: str = "resnet10t",
    pooling: str = "avg",
    towers: int = 1,
    thresholds: tuple[float, float] = (0.5, 0.5),
    task: str = "multilabel",
    **more: Any,
) -> BundleSpec:
    """A bundle of classes `dot` (evidence where it is bright) and `dark` (none anywhere)."""
    variant = dense_material.variant(backbone, pooling, towers)
    named = tuple(dict.fromkeys(band for tower in variant.towers for band in tower.bands))
    torch.manual_seed(0)
    network = Network(variant, 2, bands=named)
    with torch.no_grad():
        make_peaked(network)
        dim = network.head.weight.shape[1]
        network.head.weight.zero_()
        network.head.weight[0] = 1.0
        x = torch.zeros(1, len(named), 288, 288)
        x[:, :, 138:150, 138:150] = 58.0
        features = network.eval().features(x)
        top = sum(float(f.sum(1).max()) for f in features.values())
        network.head.weight[0] *= 8 / top  # a dot's best cell has 8, and with the bias 4
        network.head.bias.copy_(torch.tensor([-4.0, -6.0]))
        assert dim
    spec = BundleSpec(
        variant=variant,
        task=task,  # type: ignore[arg-type]
        classes=("dot", "dark"),
        bands=named,
        mean=(2000.0,) * len(named),
        std=(1000.0,) * len(named),
        dtype="uint16",
        size=SIZE,
        resize=None,
        evaluate="whole",
        tile_shape=(SIZE, SIZE),
        resolution=10.0,
        thresholds=thresholds,
        temperature=1.0,
        grids={tower.name: probe_grid(tower.backbone) for tower in variant.towers},
        **more,
    )
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in bundle_files(spec, network.state_dict()).items():
        (folder / name).write_bytes(data)
    return spec


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
    write_tile(path, values, names, crs, transform, **{"driver": "GTiff", **more})
    return path


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
    given: ScoreRecipe, out: Path | str, run_id: str = "abcdefabcdef", ray: bool = False
) -> Any:
    """Run, outcome, record and what was said."""
    found = score.read(given, Storage())
    said: list[str] = []
    run = Run(
        "score",
        run_id,
        str(out),
        Storage(),
        said.append,
        said.append,
        shared=given.only_new,
        ray=ray,
    )
    with take_folder(run, overwrite=False, lost=print):
        outcome = record = perform(JOB, given, found, run)
    return run, outcome, record, said


@dataclass
class Inline:
    """Watches the scenes of a job as they go through its stages, in this process."""

    done: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    """Scene and part of each that was looked at."""
    px: int = 0
    """Net px that forwards looked at."""
    before: Callable[[int, int], None] | None = None
    """Called with scene and part before the network looks at each."""
    opening: Callable[[int], object] | None = None
    """Called with each scene before it is opened."""

    def __call__(self, stages: Any, items: Any, *more: Any) -> Iterator[Any]:
        return run_stages(_Watched(stages, self), items, *more)


@dataclass(frozen=True)
class _Watched(Stages):
    stages: Any
    by: Inline

    def __getattribute__(self, name: str) -> Any:
        own = object.__getattribute__
        if name in ("network", "open", "by") or name.startswith("__"):
            return own(self, name)
        return getattr(own(self, "stages"), name)

    def open(self, item: Any) -> Any:
        if self.by.opening is not None:
            self.by.opening(item.number)
        return object.__getattribute__(self, "stages").open(item)

    def network(self, gpu: bool) -> Any:
        found, engine = object.__getattribute__(self, "stages").network(gpu)
        by = self.by

        def network(job: Any, part: int, pixels: Any) -> Any:
            if by.before is not None:
                by.before(job.number, part)
            said = found(job, part, pixels)
            by.done.append((job.number, part))
            by.px += job.px // job.parts
            return said

        return network, engine


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
