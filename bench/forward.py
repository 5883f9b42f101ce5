"""The rows of `python -m bench score` that ask the network's room itself: dense, stitched, engines.

- `dense`: windows against overlapping tiles one by one: the same tile scores of the same scene.
  Ours: satray's `DenseScorer`, from stored pixels to scores of all tiles and maps of all classes,
  halos included, on eager torch and on OpenVINO. Theirs: the network over cut and normalised tiles,
  no maps, in the layout and batch that a trial finds fastest. Some windows (all have one shape) and
  a sample of tiles are timed, round about in turn, the rest is multiplied; figures are ratios of
  medians. The bound is what arithmetic allows: px of all tiles over px of all windows.
- `stitched`: windows put together against one forward over the whole scene, for every built-in
  network: a low, long scene in windows of the narrowest kind, maps of all cells and logits of
  overlapping tiles; the largest difference, over the largest number of the whole-scene forward.
- `engines`: what computes features on CPUs: OpenVINO against eager torch, channels last, in turn,
  over a window and over a batch of tiles; seconds of a conversion.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

CLASSES = tuple(f"class{n:02d}" for n in range(17))
WINDOW = {"single3": 2560, "resnet50_v2": 2560}
"""Longest side asked for by `dense`; of the others 3,584 px."""


def bundle(variant: str, size: int, classes: tuple[str, ...] = CLASSES) -> Any:
    """A built-in network with random weights and sane batch statistics, the same each time."""
    from satray.models.bundle import Bundle, BundleSpec
    from satray.models.network import Network
    from satray.models.probe import probe_grid
    from satray.models.spec import SPEC, WEIGHTS
    from satray.models.variant import BUILT_IN

    options = BUILT_IN[variant]
    bands = tuple(dict.fromkeys(band for tower in options.towers for band in tower.bands))
    torch.manual_seed(0)
    network = Network(options, len(classes), bands=bands)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)  # timm starts some of them at zero
            module.momentum = None  # the mean over the batches
            module.reset_running_stats()
    with torch.no_grad():
        for _ in range(2):
            network.train()(torch.randn(2, len(bands), 192, 192))
    many = len(bands)
    spec = BundleSpec(
        variant=options, task="multilabel", classes=classes, bands=bands, mean=(2000.0,) * many,
        std=(1000.0,) * many, dtype="uint16", size=size, resize=None, evaluate="whole",
        tile_shape=(size, size), resolution=3.0, thresholds=(0.5,) * len(classes),
        temperature=1.0, grids={tower.name: probe_grid(tower.backbone) for tower in options.towers},
    )  # fmt: skip
    return Bundle(spec, network.requires_grad_(False).eval(), dict.fromkeys((SPEC, WEIGHTS), "00"))


def noise(bands: int, height: int, width: int) -> np.ndarray:
    """Noise over a slow wave (C, H, W), uint16."""
    rng = np.random.default_rng(0)
    wave = 800 * np.sin(np.arange(width) / 40) + 800 * np.cos(np.arange(height) / 30)[:, None]
    made = np.empty((bands, height, width), np.uint16)
    for band in made:
        band[:] = np.clip(rng.normal(2000, 600, (height, width)) + wave, 0, 60000)
    return made


def window_of(pixels_CHW: np.ndarray, part: Any) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of a window, and where there are any."""
    (top, bottom), (left, right) = ((a.px.start, a.px.stop) for a in (part.row, part.col))
    got = np.zeros((len(pixels_CHW), bottom - top, right - left), pixels_CHW.dtype)
    valid = np.zeros(got.shape[1:], dtype=bool)
    inside = pixels_CHW[:, top:bottom, left:right]
    there = np.s_[: inside.shape[1], : inside.shape[2]]
    got[:, *there], valid[there] = inside, True
    return got, valid


def dense(given: argparse.Namespace) -> dict[str, Any]:
    """Windows against tiles."""
    from satray.score.dense.measure import measure
    from satray.score.dense.windows import plan_scene
    from satray.score.engines import CpuFeatures

    torch.set_flush_denormal(True)
    rows = []
    print("| network | stride | windows | tiles one by one, s | windows, s | times faster | bound "
          "| on `openvino`, s | times faster |")  # fmt: skip
    print("|---|---|---|---:|---:|---:|---:|---:|---:|")
    for name in given.networks:
        made = bundle(name, given.size)
        pixels = noise(len(made.spec.bands), given.side, given.side)
        alone = best_by_tile(made.network, pixels, given.size, given.sample)
        fast = CpuFeatures(made, "openvino")
        side = given.window or WINDOW.get(name, 3584)
        for part in (4, 8):
            plan = plan_scene(
                given.side, given.side, measure(made), step=given.size // part, window=side
            )
            ways = {
                "tiles": alone,
                "eager": by_windows(made, plan, pixels, None, given.windows),
                "openvino": by_windows(made, plan, pixels, fast, given.windows),
            }
            took: dict[str, list[float]] = {way: [] for way in ways}
            for number in range(given.rounds + 1):  # a first round is not counted
                for way, once in ways.items():
                    seconds = once() * plan.tiles
                    took[way] += [seconds] if number else []
            tiles, eager, quick = (statistics.median(each) for each in took.values())
            bound = plan.tiles * given.size**2 / plan.px
            print(
                f"| {name} | 1/{part} | {len(plan.windows)} of {plan.windows[0].height} px "
                f"| {tiles:.0f} | {eager:.1f} | **{tiles / eager:.1f}** | {bound:.1f} "
                f"| {quick:.1f} | {tiles / quick:.1f} |", flush=True,
            )  # fmt: skip
            rows.append({"network": name, "stride": part, "bound": bound, "seconds": took})
    return {"rows": rows}


def by_windows(
    made: Any, plan: Any, pixels: np.ndarray, features: Any, most: int
) -> Callable[[], float]:
    """Gives seconds a tile of satray's windows, of which so many are timed."""
    from satray.score.dense.forward import DenseScorer
    from satray.score.results import Wanted

    scorer = DenseScorer(made, plan, Wanted(tuple(range(len(CLASSES))), ("dense",)), features)
    # Those of most tiles: a sample is none of the thin ones at the far edges.
    some = sorted(plan.windows, key=lambda window: -window.tiles)[:most]
    cuts = [window_of(pixels, window) for window in some]

    def once() -> float:
        start = time.perf_counter()
        for cut, window in zip(cuts, some, strict=True):
            scorer(*cut, window)
        return (time.perf_counter() - start) * len(plan.windows) / len(some) / plan.tiles

    return once


def best_by_tile(network: Any, pixels: Any, size: int, count: int) -> Callable[[], float]:
    """Gives seconds a tile of plain torch over cut tiles, the best of its ways here."""
    x_CHW = (torch.from_numpy(pixels[:, : 4 * size, : 4 * size].copy()).float() - 2000) / 1000
    corners = [(17 * n % (3 * size), 31 * n % (3 * size)) for n in range(count)]

    def score(batch: int, layout: torch.memory_format) -> float:
        network.to(memory_format=layout)  # windows turn it to channels last
        start = time.perf_counter()
        with torch.inference_mode():
            for n in range(0, count, batch):
                some = [x_CHW[:, y : y + size, x : x + size] for y, x in corners[n : n + batch]]
                network(torch.stack(some).contiguous(memory_format=layout))
        return (time.perf_counter() - start) / count

    ways = [(b, f) for b in (8, 32) for f in (torch.contiguous_format, torch.channels_last)]
    for way in ways:
        score(*way)
    best = min(ways, key=lambda way: score(*way))
    return lambda: score(*best)


def stitched(given: argparse.Namespace) -> dict[str, Any]:
    """Windows put together against the whole scene at once."""
    from satray.models.cam import dense_cam
    from satray.models.network import pool
    from satray.models.variant import BUILT_IN
    from satray.score.dense.forward import DenseScorer
    from satray.score.dense.measure import measure
    from satray.score.dense.windows import least_side, plan_scene
    from satray.score.results import Wanted

    del given
    print("| network | halo, cells | windows | tiles | maps differ by | logits differ by |")
    print("|---|---:|---|---:|---:|---:|")
    rows = []
    for name in (name for name in BUILT_IN if BUILT_IN[name].head == "linear"):
        made = bundle(name, 128)
        geometry, network = measure(made), made.network
        if geometry.why_tiles:
            print(f"| {name} | | {geometry.why_tiles.split(' (')[0]}: tiles only | | | |")
            continue
        height, width = 200, least_side(geometry) + 400
        pixels = noise(len(made.spec.bands), height, width)
        x = torch.from_numpy((pixels.astype(np.float32) - 2000) / 1000)
        down, right = geometry.padded(height) - height, geometry.padded(width) - width
        plan = plan_scene(height, width, geometry, step=64, window=1)
        with torch.inference_mode():
            whole = network.features(nn.functional.pad(x, (0, right, 0, down))[None])
        weights, pooling = network.cam_weights(), made.spec.variant.pooling
        wanted = {tower: dense_cam(f, weights[tower])[0].numpy() for tower, f in whole.items()}
        alone_TUK = np.zeros((len(plan.rows), len(plan.cols), len(CLASSES)))
        alone_TUK += network.head.bias.numpy()
        for tower, f in whole.items():
            down, across = plan.rows.counts[tower], plan.cols.counts[tower]
            for i, top in enumerate(plan.rows.starts[tower]):
                for j, left in enumerate(plan.cols.starts[tower]):
                    part = f[:, :, top : top + down, left : left + across]
                    alone_TUK[i, j] += (pool(part, pooling) @ weights[tower].T)[0].numpy()

        found = {tower: np.full_like(map_Khw, np.nan) for tower, map_Khw in wanted.items()}
        logits_TUK = np.full_like(alone_TUK, np.nan)
        scorer = DenseScorer(made, plan, Wanted(tuple(range(len(CLASSES))), ("dense",)))
        for window in plan.windows:
            scores = scorer(*window_of(pixels, window), window)
            for tower, map_Khw in scores.maps["dense"].items():
                lines, cols = (span.within(0) for span in window.cells(tower))
                found[tower][:, lines, cols] = map_Khw
            lines, cols = window.row.tiles.within(0), window.col.tiles.within(0)
            logits = scores.tiles.numbers.logits
            logits_TUK[lines, cols] = logits.reshape(*logits_TUK[lines, cols].shape)

        maps = max(_gap(found[tower], wanted[tower]) for tower in wanted)
        halo = max(tower.halo or 0 for tower in geometry.towers)
        gap, first = _gap(logits_TUK, alone_TUK), plan.windows[0]
        print(
            f"| {name} | {halo} | {len(plan.windows)} of {first.height} x {first.width} "
            f"| {plan.tiles} | {maps:.0e} | {gap:.0e} |", flush=True,
        )  # fmt: skip
        rows.append({"network": name, "maps": maps, "logits": gap})
    return {"most": max(max(row["maps"], row["logits"]) for row in rows), "rows": rows}


def _gap(found: np.ndarray, wanted: np.ndarray) -> float:
    """The largest difference over the largest number; cells beyond the scene have no value."""
    there = np.isfinite(found)
    return float(np.abs(found - wanted)[there].max() / np.abs(wanted[there]).max())


def engines(given: argparse.Namespace) -> dict[str, Any]:
    """OpenVINO against eager torch."""
    from satray.models.variant import BUILT_IN
    from satray.score.engines import converted

    torch.set_flush_denormal(True)
    rows = []
    print("| network | conversion, s | input | eager, s | OpenVINO, s | times faster |")
    print("|---|---:|---|---:|---:|---:|")
    for name in (
        "single3",
        "mobilenet_v2",
        "xception",
        "resnet50_v2",
        "inception_v3",
        "simple_cnn",
    ):
        (backbone, *_) = bundle(name, given.size).network.backbones().values()
        bands = len(BUILT_IN[name].towers[0].bands)
        start = time.perf_counter()
        quick = converted(backbone, bands)
        made = time.perf_counter() - start
        eager = backbone.to(memory_format=torch.channels_last)
        for shape in ((1, bands, 768, 768), (16, bands, given.size, given.size)):
            x = torch.randn(shape).contiguous(memory_format=torch.channels_last)
            took: dict[str, list[float]] = {"eager": [], "openvino": []}
            with torch.inference_mode():
                for number in range(given.rounds + 1):  # a first round is not counted
                    for way, forward in (("eager", eager), ("openvino", quick)):
                        start = time.perf_counter()
                        forward(x)
                        took[way] += [time.perf_counter() - start] if number else []
            one, other = (statistics.median(each) for each in took.values())
            print(
                f"| {name} | {made:.1f} | {shape[0]} x {shape[2]} px | {one:.3f} | {other:.3f} "
                f"| **{one / other:.1f}** |", flush=True,
            )  # fmt: skip
            rows.append({"network": name, "shape": shape, "conversion": made, "seconds": took})
    return {"rows": rows}
