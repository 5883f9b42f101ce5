"""`score` with bundle, tiles and output in an S3 bucket, by a real server."""

import io
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import scoring_material as material

from satray import cluster
from satray.config.score import ScoreRecipe
from satray.runs.run import Run
from satray.scoring import score
from satray.storage import Storage, join

pytestmark = [pytest.mark.pipeline, pytest.mark.s3]


def test_score_in_a_bucket(s3, tmp_path: Path) -> None:
    bucket = s3.bucket("score")
    material.save_bundle(tmp_path / "bundle", material.one_tower())
    for i in range(6):
        material.write_tile(
            tmp_path / "tiles" / f"scene {i % 2}" / f"{i} é.tif", material.pixels(i)
        )
    (tmp_path / "tiles" / "empty.tif").write_bytes(b"")
    storage = Storage()
    storage.upload(tmp_path / "bundle", join(bucket, "bundle"))
    storage.upload(tmp_path / "tiles", join(bucket, "tiles"))
    recipe = ScoreRecipe.model_validate(
        {
            "bundle": join(bucket, "bundle"),
            "tiles": join(bucket, "tiles"),
            "cam": {"classes": ["ship"]},
            "resources": {"gpus": "no"},
        }
    )
    run = Run("score", "abcdefabcdef", join(bucket, "out"), storage)
    score.inputs(recipe, storage)
    with cluster.start(num_cpus=4):  # after the server: workers inherit the variables
        outcome = score.work(recipe, run)
    assert (outcome.attempted, outcome.failed) == (7, 1)
    data = storage.read(run.uri("predictions/part-00000.parquet"))
    table = pq.read_table(io.BytesIO(data))
    assert table.column("status").to_pylist() == ["failed", *["ok"] * 6]
    products = {product.path: product.bytes for product in run.products}
    listed = {entry.key: entry.size for entry in storage.list(run.out)}
    assert products == {key: size for key, size in listed.items() if not key.startswith("state/")}
    assert "cam/scene%201/3%20%C3%A9__rgb.tif" in products
