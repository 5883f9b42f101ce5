"""The Planet report's way end to end: its recipe on a few files as Planet makes them."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from by_hand import worked
from models.planet_tiff import planet_pixels, write_planet
from train.small_archive import generate, make_run

from satray.config.cli import parse_yaml, validate
from satray.config.train import TrainRecipe
from satray.storage import Storage

pytestmark = pytest.mark.pipeline
RECIPE = Path(__file__).parents[2] / "jobs" / "recipes" / "planet_single3_paper.yaml"
TOWER = {"name": "rgb", "backbone": "simple_cnn", "bands": ["blue", "green", "red"]}
SMALL = {
    "variant": {"pooling": "avg", "towers": [TOWER]},
    "weights": "none",
    "batch": 8,
    "resources": {"workers": 1, "gpus": "no"},
}


def test_a_small_network_by_the_papers_recipe(ray_session, tmp_path):
    import torch

    from satray.data.decode import PixelSpec, read_pixels
    from satray.data.index import read_index
    from satray.models.bundle import load_bundle
    from satray.score.forward import Scorer
    from satray.train import job

    def draw(path, number):
        write_planet(path, planet_pixels(24, seed=number))

    archive = generate(tmp_path / "archive", tiles=32, draw=draw)
    text = RECIPE.read_text()
    given = {**parse_yaml(text, "paper"), **SMALL, "index": archive.index}
    given["input"] = {**given["input"], "size": 21, "resize": 24}
    given["stages"] = [{**given["stages"][0], "pseudo_epochs": 2}]
    given["cache"] = {"folder": str(tmp_path / "cache"), "gib": 0.1}
    run, _ = make_run(tmp_path / "out")
    worked(job, validate(TrainRecipe, given), run)

    bundle = load_bundle(run.out, Storage())
    assert bundle.spec.bands == ("blue", "green", "red", "nir")
    assert bundle.spec.radiometry.name == "pil_compat"
    # validation was flipped by chance: each logit is of the tile or of its mirror image
    index = read_index(archive.index, Storage()).part("val")
    uris = index.table.column("uri").to_pylist()
    pixels = np.stack(
        [
            read_pixels(Path(u).read_bytes(), PixelSpec((0, 1, 2, 3), 24, 24, "uint16", named=4))
            for u in uris
        ]
    )
    logits = Scorer(bundle)(pixels).numbers.logits
    assert np.isfinite(logits).all()
    x = bundle.spec.preprocess()(torch.from_numpy(pixels))
    with torch.inference_mode():
        np.testing.assert_allclose(bundle.network(x).numpy(), logits, atol=1e-6)
    # in the range of the report's numbers, for these are tiles of the archive's statistics
    values = x.mean((0, 2, 3)).numpy() * bundle.spec.std + bundle.spec.mean
    assert values == pytest.approx((0.776, 0.672, 0.480, 0.096), abs=0.02)
    rows = pq.read_table(Path(run.out) / "history.parquet").to_pydict()
    assert rows["learning_rate"] == pytest.approx([5e-3, 5e-3])
