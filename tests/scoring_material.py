"""Tiny bundles and tiles for the tests."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from affine import Affine
from rasters import UTM, write_raster

from satray.config.train import TowerOptions, VariantOptions
from satray.models.bundle import Bundle, BundleSpec, bundle_files, make_bundle
from satray.models.geometry import FeatureGrid
from satray.models.network import Network
from satray.models.probe import probe_grid
from satray.models.variant import input_bands

BANDS = ("blue", "green", "red", "nir")
CLASSES = ("ship", "haze & fog", "été")
GRID = FeatureGrid(8.0, 4.0, None)  # simple_cnn's
Weights = Literal["random", "settled", "peaked"]


def one_tower(pooling: str = "avg", head: str = "linear") -> VariantOptions:
    tower = TowerOptions(name="rgb", backbone="simple_cnn", bands=("red", "green", "blue"))
    return VariantOptions(towers=(tower,), pooling=pooling, head=head)  # type: ignore[arg-type]


def two_towers(pooling: str = "avg") -> VariantOptions:
    towers = (
        TowerOptions(name="rgb", backbone="simple_cnn", bands=("red", "green", "blue")),
        TowerOptions(name="nir", backbone="simple_cnn", bands=("nir", "nir", "nir")),
    )
    return VariantOptions(towers=towers, pooling=pooling)  # type: ignore[arg-type]


def spec(variant: VariantOptions, **changes: Any) -> BundleSpec:
    """Of tiles of 48 px at 10 m, which the network sees as 32 px, in three classes."""
    bands = input_bands(variant)
    values: dict[str, Any] = {
        "variant": variant,
        "task": "multilabel",
        "classes": CLASSES,
        "bands": bands,
        "mean": (2000.0,) * len(bands),
        "std": (1000.0,) * len(bands),
        "dtype": "uint16",
        "size": 32,
        "resize": None,
        "evaluate": "whole",
        "tile_shape": (48, 48),
        "resolution": 10.0,
        "temperature": 1.5,
        **changes,
    }
    values.setdefault("thresholds", (0.5,) * len(values["classes"]))
    values.setdefault("grids", {tower.name: probe_grid(tower.backbone) for tower in variant.towers})
    return BundleSpec(**values)


def files(variant: VariantOptions, weights: Weights = "random", **changes: Any) -> dict[str, bytes]:
    """A bundle's files, the same each time.

    Args:
        variant: of the network.
        weights: `random`: with logits around 0, of one tile as of another; `settled`: with batch
            statistics of noise, so that features stay of order one; `peaked`: of two classes, for
            the first of which evidence is where it is bright, and for the other nowhere.
        changes: of the spec.
    """
    of = spec(variant, **changes)
    torch.manual_seed(0)
    size = of.size if variant.head == "dense" else None
    network = Network(variant, len(of.classes), bands=of.bands, size=size).eval()
    with torch.no_grad():
        {"random": _spread, "settled": _settle, "peaked": _peak}[weights](network, of)
    return bundle_files(of, network.state_dict())


def bundle(variant: VariantOptions, weights: Weights = "random", **changes: Any) -> Bundle:
    return make_bundle(files(variant, weights, **changes), "here")


def save_bundle(
    folder: Path, variant: VariantOptions, weights: Weights = "random", **changes: Any
) -> Bundle:
    given = files(variant, weights, **changes)
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in given.items():
        (folder / name).write_bytes(data)
    return make_bundle(given, str(folder))


def _spread(network: Network, of: BundleSpec) -> None:
    """A fresh head says the same of every tile."""
    tiles = [pixels(seed, len(of.bands), of.tile_shape[0], of.dtype) for seed in range(10)]
    x = of.preprocess()(torch.from_numpy(np.stack(tiles)))
    last = [module for module in network.head.modules() if isinstance(module, torch.nn.Linear)][-1]
    last.weight.div_(network(x).std(0).mean())
    last.bias.sub_(network(x).mean(0))


def _settle(network: Network, of: BundleSpec) -> None:
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.ones_(module.weight)  # timm starts some of them at zero
            module.momentum = None  # the mean over the batches
            module.reset_running_stats()
    side = of.size if of.variant.head == "dense" else max(of.size, 192)
    for _ in range(2):
        network.train()(torch.randn(2, len(of.bands), side, side))
    if isinstance(network.head, torch.nn.Linear):
        network.head.bias.normal_()


def _peak(network: Network, of: BundleSpec) -> None:
    make_peaked(network)
    network.head.weight.zero_()
    network.head.weight[0] = 1.0
    x = torch.zeros(1, len(of.bands), 288, 288)
    x[:, :, 138:150, 138:150] = 58.0
    top = sum(float(f.sum(1).max()) for f in network.features(x).values())
    network.head.weight[0] *= 8 / top  # a dot's best cell has 8, and with the bias 4
    network.head.bias.copy_(torch.tensor([-4.0, -6.0]))


def pixels(seed: int, bands: int = 4, side: int = 48, dtype: str = "uint16") -> np.ndarray:
    rng = np.random.default_rng(seed)
    top = 255 if dtype == "uint8" else 4000
    low = rng.uniform(0, 0.7, (bands, 1, 1)) * top
    return (low + rng.uniform(0, 0.3, (bands, side, side)) * top).astype(dtype)


def make_peaked(backbone: Any) -> None:
    """Kernels that are all hills: what a dot does peaks where the dot is."""
    for module in backbone.modules():
        if isinstance(module, torch.nn.Conv2d):
            sides = [
                torch.arange(1.0, k + 1).minimum(torch.arange(k, 0.0, -1))
                for k in module.kernel_size
            ]
            hill = torch.outer(*sides)
            hill /= hill.sum() * module.weight.shape[1]
            module.weight.copy_(hill.expand_as(module.weight))
        elif isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.ones_(module.weight)
            module.reset_running_stats()


def write_tile(
    path: Path,
    values: np.ndarray,
    names: tuple[str, ...] | None = BANDS,
    crs: str | None = "EPSG:32631",
    transform: Affine | None = UTM,
    **more: Any,
) -> None:
    """A tile on the ground, with its bands named."""
    write_raster(path, values, names, crs, transform, **more)
