"""Stitched windows against one forward over the whole scene, for every built-in network.

A low, long scene in two windows or more, the narrowest that the network's halo allows, against the
network over the padded scene at once. Maps of all cells and logits of overlapping tiles; the
difference is the largest of any number, over the largest number of the whole-scene forward.
"""

import argparse
from typing import Any

import numpy as np
import torch

from bench.scenes import made

SIZE, STEP, HEIGHT, MORE = 128, 64, 200, 400


def measure(name: str) -> dict[str, Any]:
    """One network."""
    from satray.models.cam import dense_cam
    from satray.models.network import pool
    from satray.scoring.dense.answers import Wanted
    from satray.scoring.dense.forward import DenseScorer
    from satray.scoring.dense.measure import measure as ask
    from satray.scoring.dense.windows import least_side, plan_scene

    bundle = made.bundle(name, SIZE)
    geometry = ask(bundle).geometry
    if geometry.why_tiles:
        return {"network": name, "why": geometry.why_tiles}
    height, width = HEIGHT, least_side(geometry) + MORE
    pixels = made.scene(len(bundle.spec.bands), height, width)
    x = torch.from_numpy((pixels.astype(np.float32) - 2000) / 1000)
    down, right = geometry.padded(height) - height, geometry.padded(width) - width
    plan = plan_scene(height, width, geometry, step=STEP, window=1)
    with torch.inference_mode():
        whole = bundle.network.features(torch.nn.functional.pad(x, (0, right, 0, down))[None])
    scorer = DenseScorer(bundle, plan, Wanted(tuple(range(len(made.CLASSES))), ("dense",)))
    weights, pooling = bundle.network.cam_weights(), bundle.spec.variant.pooling
    wanted = {tower: dense_cam(f, weights[tower])[0].numpy() for tower, f in whole.items()}
    found = {tower: np.full_like(map_Khw, np.nan) for tower, map_Khw in wanted.items()}
    logits_TUK = np.full((len(plan.rows), len(plan.cols), len(made.CLASSES)), np.nan)
    for window in plan.windows:
        scores = scorer(*made.window_of(pixels, window), window)
        for tower, map_Khw in scores.maps["dense"].items():
            rows, cols = (span.within(0) for span in plan.core(window, tower))
            found[tower][:, rows, cols] = map_Khw
        rows, cols = window.row.tiles.within(0), window.col.tiles.within(0)
        logits = scores.tiles.numbers.logits
        logits_TUK[rows, cols] = logits.reshape(*logits_TUK[rows, cols].shape)
    alone_TUK = np.zeros_like(logits_TUK) + bundle.network.head.bias.numpy()
    for tower, f in whole.items():
        down, across = plan.rows.counts[tower], plan.cols.counts[tower]
        for i, top in enumerate(plan.rows.starts[tower]):
            for j, left in enumerate(plan.cols.starts[tower]):
                part = f[:, :, top : top + down, left : left + across]
                alone_TUK[i, j] += (pool(part, pooling) @ weights[tower].T)[0].numpy()
    # cells beyond the scene have no value
    maps = max(_gap(found[t], np.where(np.isnan(found[t]), np.nan, wanted[t])) for t in wanted)
    return {
        "network": name,
        "backbone": bundle.spec.variant.towers[0].backbone,
        "halo": max(tower.halo or 0 for tower in geometry.towers),
        "windows": [len(plan.windows), plan.windows[0].height, plan.windows[0].width],
        "cells": int(sum(np.isfinite(f[0]).sum() for f in found.values())),
        "tiles": plan.tiles,
        "maps": maps,
        "logits": _gap(logits_TUK, alone_TUK),
    }


def _gap(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.nanmax(np.abs(found - wanted)) / np.nanmax(np.abs(wanted)))


def run(_: argparse.Namespace) -> dict[str, Any]:
    """Measure and print a table."""
    from satray.models.variant import BUILT_IN

    found = [measure(name) for name in BUILT_IN if BUILT_IN[name].head == "linear"]
    print("| network | halo, cells | windows | tiles | maps differ by | logits differ by |")
    print("|---|---:|---|---:|---:|---:|")
    for row in found:
        if "why" in row:
            print(f"| {row['network']} | | {row['why'].split(' (')[0]}: tiles only | | | |")
            continue
        count, height, width = row["windows"]
        print(
            f"| {row['network']} | {row['halo']} | {count} of {height} x {width} | {row['tiles']} "
            f"| {row['maps']:.0e} | {row['logits']:.0e} |"
        )
    return {"most": max(max(r["maps"], r["logits"]) for r in found if "maps" in r), "rows": found}
