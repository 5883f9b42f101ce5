"""Blocks: the cut, the files, the merging; writing a block with its maps."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import rasterio
import scoring_material as material
import torch
from rasterio.transform import Affine
from rio_cogeo import cog_validate

from satray.runs.run import Run
from satray.score.blocks import Blocks, merge
from satray.score.forward import Scorer
from satray.score.predictions import Layout, TileFacts
from satray.score.results import MapRequest
from satray.score.tile_stages import TileBlock, TileScoring, TileStages
from satray.score.tiles import ReadBlock
from satray.storage import Storage

UTM = tuple(material.UTM)[:6]


def block(n: int, first: int = 0, valid=None) -> ReadBlock:
    return ReadBlock(
        facts=[
            TileFacts(f"t/{first + i}", "s", height=48, width=48, crs="EPSG:32631", transform=UTM)
            for i in range(n)
        ],
        uris=[f"/tiles/{first + i}.tif" for i in range(n)],
        stages=[None] * n,
        pixels=np.stack([material.pixels(first + i) for i in range(n)]),
        valid=[valid] * n,
    )


def fail(one: ReadBlock, i: int) -> None:
    one.facts[i] = TileFacts(one.facts[i].tile_id, "s", error="cut short")
    one.stages[i], one.pixels[i] = "decode", 0


@pytest.fixture
def setting(tmp_path):
    def make(tiles: int, pooling: str = "avg", maps: MapRequest | None = None, **spec):
        bundle = material.bundle(material.two_towers(pooling), **spec)
        maps = maps or MapRequest()
        run = Run("score", "r" * 12, str(tmp_path / "out"), Storage())
        cut = Blocks(run.state + "/blocks", tiles, 2)
        layout = Layout(bundle.spec.classes, ("rgb", "nir"), bundle.model_id, run.run_id)
        spec = bundle.spec
        geometry = spec.preprocess().geometry(*spec.tile_shape)
        how = TileScoring("", spec, maps)
        stages = TileStages(how, geometry, None, layout, cut, run.storage, run.out)

        def write(number, one, forward):
            return stages.write(TileBlock(number, 0), [(one, forward)], "eager")

        return run, cut, layout, write, Scorer(bundle, maps), bundle

    return make


def test_merging_keeps_order_numbers_failures_and_maps(setting) -> None:
    run, cut, layout, write, scorer, _ = setting(5, maps=MapRequest((1,)))
    given = [block(2), block(2, 2), block(1, 4)]
    fail(given[1], 0)
    for number in (2, 0, 1):  # any order
        write(number, given[number], scorer(given[number].pixels))
    assert cut.finished(run.storage) == {0, 1, 2}
    merged = merge(run, cut, layout)
    assert (merged.tiles, merged.failed, merged.maps) == (5, 1, 8)
    assert merged.reasons == {"decode: cut short": 1}
    table = pq.read_table(run.uri("predictions/part-00000.parquet"))
    assert table.column("tile_id").to_pylist() == [f"t/{i}" for i in range(5)]
    assert table.column_names == layout.schema().names
    assert table.column("status").to_pylist() == ["ok", "ok", "failed", "ok", "ok"]
    geo = json.loads(table.schema.metadata[b"geo"])
    assert geo["columns"]["geometry"]["geometry_types"] == ["MultiPolygon", "Polygon"]
    failures = pq.read_table(run.uri("failures.parquet")).to_pylist()
    assert failures == [
        {"tile_id": "t/2", "uri": "/tiles/2.tif", "stage": "decode", "error": "cut short"}
    ]
    products = {product.path: product for product in run.products}
    assert len(products) == 8 + 2
    metadata = pq.read_metadata(run.uri("predictions/part-00000.parquet")).metadata
    assert metadata[b"satray:engine"] == b"eager"
    assert products["predictions/part-00000.parquet"].rows == 5
    assert products["cam/t/0__nir.tif"].bytes > 0


@pytest.mark.parametrize(("pooling", "kind"), [("avg", "dense"), ("max", "argmax")])
def test_written_maps_add_up_to_the_tables_logits(setting, tmp_path, pooling, kind) -> None:
    run, cut, layout, write, scorer, bundle = setting(2, pooling, MapRequest((0, 1, 2), (kind,)))
    one = block(2)
    write(0, one, scorer(one.pixels))
    merge(run, cut, layout)
    table = pq.read_table(run.uri("predictions/part-00000.parquet"))
    bias = bundle.network.head.bias.numpy()
    for i in range(2):
        total = bias.astype(np.float64)
        for tower in ("rgb", "nir"):
            path = run.uri(f"cam/t/{i}__{tower}.tif")
            assert cog_validate(path, strict=True, quiet=True)[:2] == (True, [])
            with rasterio.open(path) as source:
                maps = source.read().astype(np.float64)
                assert source.descriptions == bundle.spec.classes
                tags = source.tags()
                # 48 px shown to the network as 32, cells of 8: 12 px of 10 m
                assert source.transform == material.UTM @ Affine.scale(12)
                assert source.crs.to_epsg() == 32631
            total = total + (maps.mean((1, 2)) if kind == "dense" else maps.sum((1, 2)))
            assert tags["tile_id"] == f"t/{i}"
            assert (tags["tower"], tags["kind"]) == (tower, kind)
            assert (tags["model_id"], tags["run_id"]) == (layout.model_id, run.run_id)
            assert tags["border_cells"].startswith("kept")
            assert tags["engine"] == "eager"
        logits = [table.column(f"logit_{name}")[i].as_py() for name in bundle.spec.classes]
        assert np.allclose(total, logits, atol=1e-3)


def test_maps_are_empty_where_the_tile_is(setting) -> None:
    valid = np.ones((48, 48), dtype=bool)
    valid[:, :24] = False
    run, _, _, write, scorer, _ = setting(1, maps=MapRequest((0,)))
    one = block(1, valid=valid)
    write(0, one, scorer(one.pixels))
    with rasterio.open(run.uri("cam/t/0__rgb.tif")) as source:
        values = source.read(1)
    assert np.isnan(values[:, :2]).all()
    assert np.isfinite(values[:, 2:]).all()


@pytest.mark.parametrize("evaluate", ["whole", "centre"])
def test_a_bright_dot_shows_where_it_is_on_the_ground(setting, evaluate: str) -> None:
    """Resampled tile, other aspect, cropped or not: the map's mass lies where the dot is."""
    run, _, _, write, scorer, bundle = setting(
        1, maps=MapRequest((0,)), tile_shape=(96, 144), size=64, resize=80, evaluate=evaluate
    )
    averaging(bundle.network)
    pixels = np.full((1, 4, 96, 144), 2000, np.uint16)
    row, col = 50, 70  # the dot's centre, in px of the delivered tile
    pixels[..., row - 2 : row + 2, col - 2 : col + 2] = 60000
    facts = TileFacts("t", "s", height=192, width=288, crs="EPSG:32631", transform=UTM)
    one = ReadBlock([facts], ["/t.tif"], [None], pixels, [None])
    write(0, one, scorer(pixels))
    with rasterio.open(run.uri("cam/t__rgb.tif")) as source:
        values, affine = source.read(1).astype(np.float64), source.transform
    values -= np.median(values)
    values[values < values.max() / 10] = 0
    i, j = np.indices(values.shape)
    mass = values / values.sum()
    x, y = affine @ ((mass * (j + 0.5)).sum(), (mass * (i + 0.5)).sum())
    # the file has twice the delivered tile's px, 10 m each
    dot_x, dot_y = material.UTM @ (2 * col, 2 * row)
    assert abs(x - dot_x) < affine.a / 2
    assert abs(y - dot_y) < -affine.e / 2


def averaging(network: torch.nn.Module) -> None:
    """Make a network of means and maxima: what it sees stays where it is."""
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.weight.fill_(1 / module.weight[0].numel())
            elif isinstance(module, torch.nn.Linear):
                module.weight.fill_(1.0)
            for name, child in module.named_children():
                if isinstance(child, torch.nn.GroupNorm):
                    setattr(module, name, torch.nn.Identity())


def test_logits_that_are_not_finite_fail_the_tile(setting) -> None:
    run, cut, layout, write, scorer, _ = setting(2)
    one = block(2)
    forward = scorer(one.pixels)
    forward.numbers.logits[1, 0] = np.nan
    write(0, one, forward)
    merged = merge(run, cut, layout)
    assert (merged.tiles, merged.failed) == (2, 1)
    assert merged.reasons == {"score: the network's output is not finite": 1}
    table = pq.read_table(run.uri("predictions/part-00000.parquet"))
    assert table.column("score_ship")[1].as_py() is None
