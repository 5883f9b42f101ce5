"""A measured split of random tiles with everything that a report is made of, without Ray."""

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import scoring_material as material

from satray.config.score import EvaluateRecipe
from satray.data.index import SCHEMA, IndexMeta, TileIndex, read_index, table_with
from satray.evaluate.quality import Predicted, Quality, measure
from satray.evaluate.report import Inputs, publish_report
from satray.evaluate.reproduce import Comparison
from satray.models.spec import BundleSpec
from satray.runs.run import Run
from satray.score.blocks import Merged
from satray.score.forward import Scorer
from satray.score.tiles import tiles_of_index
from satray.storage import Storage

HOSTILE = ("<script>alert(1)</script>", '"quoted" & $x_2$', "été")
"""Class names that would break a careless page."""


SCORED = Merged(12, 0, 0, Counter(), "eager fp32")


@dataclass(frozen=True)
class Findings:
    """What a report is made of."""

    recipe: EvaluateRecipe
    spec: BundleSpec
    index: TileIndex
    predicted: Predicted
    quality: Quality
    comparison: Comparison | None = None
    merged: Merged = SCORED

    def publish(self, run: Run) -> None:
        tiles = tiles_of_index(self.index, self.spec.classes)
        found = Inputs(self.spec, self.index, tiles, None, {}, {})
        measured = self.predicted, self.quality, self.comparison, self.merged
        publish_report(found, self.recipe, *measured, run)


def findings(root: Path, *, tiles: int = 12, keys: dict[str, Any] | None = None, **more: Any):
    """Tiles on disk, a bundle, an index of them, predictions, and what was measured.

    Args:
        root: an empty folder.
        tiles: how many.
        keys: of the recipe.
        more: of the bundle's spec; `variant` too.
    """
    variant = more.pop("variant", material.one_tower())
    bundle = material.save_bundle(root / "bundle", variant, **more)
    spec = bundle.spec
    for i in range(tiles):
        material.write_tile(root / "tiles" / f"a&b{i}.tif", material.pixels(i))
    read = np.stack([material.pixels(i) for i in range(tiles)])
    take = [material.BANDS.index(band) for band in spec.bands]
    numbers = Scorer(bundle)(read[:, take]).numbers
    labels = truth(numbers.logits, spec.task)
    rows = [
        {"tile_id": f"a&b{i}", "uri": str(root / "tiles" / f"a&b{i}.tif"), "split": "val",
         "labels": [int(value) for value in labels[i]], "height": 48, "width": 48,
         "bands": list(material.BANDS), "dtype": "uint16",
         "bytes": (root / "tiles" / f"a&b{i}.tif").stat().st_size}
        for i in range(tiles)
    ]  # fmt: skip
    meta = IndexMeta(spec.task, spec.classes, material.BANDS, "uint16", (48, 48), (), {})
    index = TileIndex(pa.Table.from_pylist(rows, schema=SCHEMA), meta)
    (root / "index").mkdir()
    pq.write_table(table_with(meta, index.table), root / "index" / "tiles-00000.parquet")
    predicted = Predicted(
        tuple(row["tile_id"] for row in rows),
        numbers.logits.astype(np.float64),
        labels.astype(np.float64),
        bundle.model_id,
    )
    recipe = EvaluateRecipe.model_validate(
        {"bundle": str(root / "bundle"), "index": str(root / "index"), "bootstrap": 20}
        | (keys or {})
    )
    index = replace(index, digest=read_index(recipe.index, Storage()).digest)
    quality = measure(predicted, spec, recipe.bootstrap)
    return Findings(recipe, spec, index, predicted, quality)


def truth(logits_NK: np.ndarray, task: str) -> np.ndarray:
    """Labels that follow the logits, but for every third tile."""
    flip = np.arange(len(logits_NK)) % 3 == 0
    if task == "multiclass":
        best = np.where(flip, logits_NK.argmin(axis=1), logits_NK.argmax(axis=1))
        return np.arange(logits_NK.shape[1]) == best[:, None]
    return (logits_NK > 0) ^ flip[:, None]
