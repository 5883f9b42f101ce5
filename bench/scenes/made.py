"""Bundles with random weights and sane batch statistics, and scenes of noise."""

from typing import Any

import numpy as np
import torch
from torch import nn

CLASSES = tuple(f"class{n:02d}" for n in range(17))


def bundle(variant: str, size: int) -> Any:
    """A built-in network, the same each time; features of order one."""
    from satray.models.bundle import Bundle

    network, spec = parts(variant, size)
    return Bundle(spec, network.requires_grad_(False).eval(), "0" * 12)


def parts(variant: str, size: int) -> tuple[Any, Any]:
    """Network and spec of `bundle`."""
    from satray.models.bundle import BundleSpec
    from satray.models.geometry import probe_grid
    from satray.models.network import Network
    from satray.models.variant import BUILT_IN

    options = BUILT_IN[variant]
    bands = tuple(dict.fromkeys(band for tower in options.towers for band in tower.bands))
    torch.manual_seed(0)
    network = Network(options, len(CLASSES), bands=bands)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)  # timm starts some of them at zero
            module.momentum = None  # the mean over the batches
            module.reset_running_stats()
    with torch.no_grad():
        for _ in range(2):
            network.train()(torch.randn(2, len(bands), 192, 192))
    spec = BundleSpec(
        variant=options,
        task="multilabel",
        classes=CLASSES,
        bands=bands,
        mean=(2000.0,) * len(bands),
        std=(1000.0,) * len(bands),
        dtype="uint16",
        size=size,
        resize=None,
        evaluate="whole",
        tile_shape=(size, size),
        resolution=3.0,
        thresholds=(0.5,) * len(CLASSES),
        temperature=1.0,
        grids={tower.name: probe_grid(tower.backbone) for tower in options.towers},
    )
    return network, spec


def scene(bands: int, height: int, width: int) -> np.ndarray:
    """Noise over a slow wave, uint16."""
    rng = np.random.default_rng(0)
    wave = 800 * np.sin(np.arange(width) / 40) + 800 * np.cos(np.arange(height) / 30)[:, None]
    made = np.empty((bands, height, width), np.uint16)
    for band in made:
        band[:] = np.clip(rng.normal(2000, 600, (height, width)) + wave, 0, 60000)
    return made


def window_of(pixels_CHW: np.ndarray, part: Any) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of a window or piece, and where there are any."""
    (top, bottom), (left, right) = ((a.px.start, a.px.stop) for a in (part.row, part.col))
    got = np.zeros((len(pixels_CHW), bottom - top, right - left), pixels_CHW.dtype)
    valid = np.zeros(got.shape[1:], dtype=bool)
    inside = pixels_CHW[:, top:bottom, left:right]
    there = np.s_[: inside.shape[1], : inside.shape[2]]
    got[:, *there], valid[there] = inside, True
    return got, valid
