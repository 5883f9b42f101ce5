"""The Planet recipes: the report's code, and the same networks and tiles done right."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from satray.config.cli import parse_yaml, validate
from satray.config.train import TrainRecipe
from satray.data.index import BandStatistics, IndexMeta, table_with
from satray.storage import Storage
from satray.train.setup import set_up

FOLDER = Path(__file__).parents[2] / "jobs" / "recipes"
PLANET = ("blue", "green", "red", "nir")
NAMES = ("single3", "single4", "double4")
WEIGHTS = {"single3": 11_185_233, "single4": 11_188_369, "double4": 22_370_449}
"""Parameters of the report's networks with 17 classes."""


def load(name, index="s3://bucket/runs/index"):
    text = (FOLDER / f"{name}.yaml").read_text()
    return validate(TrainRecipe, {**parse_yaml(text, name), "index": index})


@pytest.fixture
def index(tmp_path):
    """An index like the archive's, of rows only: 640 tiles to train, 64 to validate."""
    rows = [
        {
            "tile_id": f"train_{number}",
            "uri": f"s3://bucket/train_{number}.tif",
            "split": "val" if number % 11 == 0 else "train",
            "labels": [(number >> k) & 1 for k in range(17)],
            "height": 256,
            "width": 256,
            "bands": list(PLANET),
            "dtype": "uint16",
            "crs": None,
            "transform": None,
            "nodata": None,
            "bytes": 530_000,
            "etag": None,
        }
        for number in range(1, 705)
    ]
    percentiles = {"2": 3_000.0, "98": 9_000.0}
    statistics = tuple(
        BandStatistics(band, 5_000.0 + 100 * place, 900.0, 0.0, 65_535.0, percentiles, 1)
        for place, band in enumerate(PLANET)
    )
    classes = tuple(f"c{k}" for k in range(17))
    meta = IndexMeta("multilabel", classes, PLANET, "uint16", (256, 256), statistics, {})
    file = tmp_path / "tiles-00000.parquet"
    pq.write_table(table_with(meta, pa.Table.from_pylist(rows)), file)
    return str(file)


@pytest.mark.parametrize("name", NAMES)
def test_the_paper_recipes_do_as_the_code_did(name, index):
    recipe = load(f"planet_{name}_paper", index)
    wanted = recipe.input
    assert (wanted.size, wanted.resize, wanted.evaluate) == (224, 256, "whole")
    assert (wanted.radiometry, wanted.evaluate_flip) == ("pil_compat", True)
    augment = recipe.augment
    assert (augment.flips, augment.crop) == ("horizontal", "random")
    assert (augment.brightness, augment.contrast, augment.mixup) == (0, 0, 0)
    assert recipe.average.ema == 0
    assert (recipe.shuffle, recipe.batch, recipe.first_conv) == (False, 32, "in_place")
    optimizer = recipe.optimizer
    assert (optimizer.name, optimizer.weight_decay, optimizer.clip) == ("adam", 0, 0)
    assert (augment.cutmix, augment.erase, recipe.drop_path, recipe.accumulate) == (0, 0, 0, 1)
    (stage,) = recipe.stages
    assert (stage.trainable, stage.pseudo_epochs, stage.layer_decay) == ("all", 35, 1)
    assert (recipe.weights, recipe.dropout, recipe.pooling) == ("imagenet", 0, None)
    setup = set_up(recipe, Storage())
    rates = [setup.plan.learning_rate(20 * epoch) for epoch in (0, 9, 10, 19, 20, 34)]
    expected = [5e-3, 5e-3, 1.5e-3, 1.5e-3, 4.5e-4, 1.35e-4]
    assert rates == pytest.approx(expected)
    # three bands are looked at, and near-infrared is read all the same
    report = ((0.7476, 0.6534, 0.4757, 0.0960), (0.1677, 0.1828, 0.2137, 0.0284))
    if name == "single3":
        report = ((*report[0][:3], 0.0), (*report[1][:3], 1.0))
    assert setup.bands == PLANET
    assert (setup.mean, setup.std) == report
    network = setup.network()
    assert sum(p.numel() for p in network.parameters()) == WEIGHTS[name]
