"""A small archive of real files, with recipes and runs over it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import rasterio

from satray.config.train import TrainRecipe
from satray.data.decode import PixelSpec, read_pixels
from satray.data.index import BandStatistics, IndexMeta, read_index, table_with
from satray.metrics.summary import compute_metrics
from satray.runs.run import Run
from satray.storage import Storage

BANDS = ("blue", "green", "red", "nir")
SIDE = 24


@dataclass(frozen=True)
class Archive:
    index: str
    folder: Path


def generate(folder, tiles=64, classes=("bright", "left"), spoil=(), draw=None):
    """Write noise with a bright square, on the left or on the right, and its index.

    `draw(path, number)` writes tiles of another kind, with bands that are named by hand.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    rows = []
    for number in range(tiles):
        pixels = rng.normal(500, 60, (4, SIDE, SIDE))
        bright, left = rng.integers(0, 2, 2)
        at = 2 if left else 14
        pixels[:, 6:14, at : at + 8] += 900 if bright else 200
        path = folder / f"t{number:03d}.tif"
        with rasterio.open(
            path, "w", driver="GTiff", height=SIDE, width=SIDE, count=4, dtype="uint16"
        ) as image:
            image.write(pixels.astype(np.uint16))
        if draw is not None:
            draw(path, number)
        if number in spoil:
            path.write_bytes(b"not an image")
        rows.append(
            {
                "tile_id": path.stem,
                "uri": str(path),
                "split": "val" if number % 4 == 0 else "train",
                "labels": [int(bright), int(left)][: len(classes)],
                "height": SIDE,
                "width": SIDE,
                "bands": list(BANDS),
                "dtype": "uint16",
                "crs": "EPSG:32631",
                "transform": [3.0, 0, 0, 0, -3.0, 0],
                "bytes": path.stat().st_size,
            }
        )
    statistics = tuple(
        BandStatistics(name, 600.0, 250.0, 0.0, 2000.0, {"50": 550.0}, 1) for name in BANDS
    )
    meta = IndexMeta(
        "multilabel", classes, BANDS, "uint16", (SIDE, SIDE), statistics, {}, draw is not None
    )
    file = folder / "tiles-00000.parquet"
    pq.write_table(table_with(meta, pa.Table.from_pylist(rows)), file)
    return Archive(str(file), folder)


def make_recipe(archive, folder, **changes):
    settings = {
        "index": archive.index,
        "variant": "simple_cnn",
        "weights": "none",
        "input": {"size": SIDE},
        "batch": 8,
        "stages": [{"learning_rate": 3e-3, "pseudo_epochs": 3}],
        "deterministic": True,
        "resources": {"workers": 1, "gpus": "no"},
        "cache": {"folder": str(folder / "cache"), "gib": 0.1},
    }
    return TrainRecipe.model_validate({**settings, **changes})


def make_run(folder, ray=True):
    said = []
    run = Run("train", "0123456789ab", str(folder), Storage(), said.append, ray=ray)
    return run, said


def validation_map(bundle, archive):
    """mAP of a bundle of red, green and blue over the tiles of validation, as they are stored."""
    import torch  # only once Ray is up

    val = read_index(archive.index, Storage()).part("val")
    files = [Path(uri).read_bytes() for uri in val.table.column("uri").to_pylist()]
    pixels = np.stack(
        [read_pixels(file, PixelSpec((2, 1, 0), SIDE, SIDE, "uint16")) for file in files]
    )
    logits = bundle.logits(torch.from_numpy(pixels)).numpy()
    return compute_metrics(logits, val.labels, bundle.spec.classes, "multilabel")["map"]
