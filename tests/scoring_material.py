"""Tiny random bundles and tiles for the tests of scoring."""

from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from rasterio.transform import Affine

from satray.config.train import TowerOptions, VariantOptions
from satray.models.bundle import Bundle, BundleSpec, bundle_files, make_bundle
from satray.models.geometry import FeatureGrid
from satray.models.network import Network

BANDS = ("blue", "green", "red", "nir")
CLASSES = ("ship", "haze & fog", "été")
GRID = FeatureGrid(8.0, 4.0, None)  # simple_cnn's
UTM = Affine(10, 0, 448000, 0, -10, 5411000)


def one_tower(pooling: str = "avg", head: str = "linear") -> VariantOptions:
    tower = TowerOptions(name="rgb", backbone="simple_cnn", bands=("red", "green", "blue"))
    return VariantOptions(towers=(tower,), pooling=pooling, head=head)  # type: ignore[arg-type]


def two_towers(pooling: str = "avg") -> VariantOptions:
    towers = (
        TowerOptions(name="rgb", backbone="simple_cnn", bands=("red", "green", "blue")),
        TowerOptions(name="nir", backbone="simple_cnn", bands=("nir", "nir", "nir")),
    )
    return VariantOptions(towers=towers, pooling=pooling)  # type: ignore[arg-type]


def files(variant: VariantOptions, **more: Any) -> dict[str, bytes]:
    """A bundle's files, random but the same each time."""
    bands = tuple(dict.fromkeys(band for tower in variant.towers for band in tower.bands))
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
        "grids": {tower.name: GRID for tower in variant.towers},
        **more,
    }
    values.setdefault("thresholds", (0.5,) * len(values["classes"]))
    spec = BundleSpec(**values)
    torch.manual_seed(0)
    size = spec.size if variant.head == "dense" else None
    network = Network(variant, len(spec.classes), bands=bands, size=size)
    tiles = [pixels(seed, len(bands), spec.tile_shape[0], spec.dtype) for seed in range(10)]
    x = spec.preprocess()(torch.from_numpy(np.stack(tiles)))
    last = [module for module in network.head.modules() if isinstance(module, torch.nn.Linear)][-1]
    with torch.no_grad():  # a fresh head says the same of every tile: spread it around 0
        logits = network.eval()(x)
        last.weight.div_(logits.std(0).mean())
        last.bias.sub_(network(x).mean(0))
    return bundle_files(spec, network.state_dict())


def bundle(variant: VariantOptions, **more: Any) -> Bundle:
    return make_bundle(files(variant, **more), "here")


def save_bundle(folder: Path, variant: VariantOptions, **more: Any) -> Bundle:
    given = files(variant, **more)
    folder.mkdir(parents=True)
    for name, data in given.items():
        (folder / name).write_bytes(data)
    return make_bundle(given, str(folder))


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
    path.parent.mkdir(parents=True, exist_ok=True)
    profile: dict[str, Any] = {"driver": "PNG" if path.suffix == ".png" else "GTiff", **more}
    if crs is not None:
        profile |= {"crs": crs, "transform": transform}
    count, height, width = values.shape
    with rasterio.open(
        path, "w", dtype=values.dtype, count=count, height=height, width=width, **profile
    ) as target:
        target.write(values)
        if names is not None:
            target.descriptions = names
