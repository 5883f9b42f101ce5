"""Small bundles with sane batch statistics, scenes, and the whole-scene forward by hand."""

from typing import Any

import numpy as np
import scoring_material
import torch

from satray.config.train import TowerOptions, VariantOptions
from satray.models.bundle import Bundle
from satray.score.results import MapRequest, WindowScores
from satray.score.window_forward import DenseScorer
from satray.score.windows import ScenePlan, Window

CLASSES = ("ship", "haze & fog", "été")
SMALL = "resnet10t"


def variant(backbone: str = SMALL, pooling: str = "avg", towers: int = 1) -> VariantOptions:
    bands = (("red", "green", "blue"), ("nir", "nir", "nir"))
    options = tuple(
        TowerOptions(name=name, backbone=backbone, bands=looked)
        for name, looked in zip(("rgb", "nir")[:towers], bands, strict=False)
    )
    return VariantOptions(towers=options, pooling=pooling)  # type: ignore[arg-type]


def bundle(of: VariantOptions, size: int = 96, **more: Any) -> Bundle:
    """Of tiles of `size` px, which the network sees as they are; features stay of order one."""
    return scoring_material.bundle(of, "settled", size=size, **{"tile_shape": (size, size), **more})


def scene(bands: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """Noise over a slow wave, uint16."""
    rng = np.random.default_rng(seed)
    wave = 800 * np.sin(np.arange(width) / 40) + 800 * np.cos(np.arange(height) / 30)[:, None]
    noise = rng.normal(2000, 600, (bands, height, width))
    return np.clip(noise + wave, 0, 60000).astype(np.uint16)


def cut(pixels: np.ndarray, valid: np.ndarray, row: Any, col: Any) -> tuple[Any, Any]:
    """A rectangle of net px; invalid beyond the scene, with wild values there."""
    shape = (row.stop - row.start, col.stop - col.start)
    got = np.full((len(pixels), *shape), 60000, dtype=pixels.dtype)
    there = np.zeros(shape, dtype=bool)
    inside = pixels[:, row.start : row.stop, col.start : col.stop]
    h, w = inside.shape[1:]
    got[:, :h, :w] = inside
    there[:h, :w] = valid[row.start : row.stop, col.start : col.stop]
    return got, there


def whole_features(
    of: Bundle, pixels: np.ndarray, valid: np.ndarray, padded: tuple[int, int]
) -> dict[str, torch.Tensor]:
    """Features of the padded scene in one forward, by plain torch."""
    x = (torch.from_numpy(pixels.astype(np.float32)) - 2000) / 1000
    x = torch.where(torch.from_numpy(valid), x, 0.0)
    down, right = padded[0] - x.shape[1], padded[1] - x.shape[2]
    x = torch.nn.functional.pad(x, (0, right, 0, down))
    with torch.inference_mode():
        return of.network.features(x[None])


def all_windows(
    of: Bundle, plan: ScenePlan, wanted: MapRequest, pixels: np.ndarray, valid: np.ndarray
) -> list[tuple[Window, WindowScores]]:
    scorer = DenseScorer(of, plan, wanted)
    return [
        (window, scorer(*cut(pixels, valid, window.row.px, window.col.px), window))
        for window in plan.windows
    ]


def stitched(plan: ScenePlan, done: list, kind: str, tower: str, classes: int) -> np.ndarray:
    """The map of the scene; no cell is written twice, and in dense mode each once."""
    made = np.full((classes, *plan.cells(tower)), np.nan, dtype=np.float32)
    count = np.zeros(plan.cells(tower), dtype=int)
    for window, scores in done:
        rows, cols = (span.within(0) for span in window.cells(tower))
        made[:, rows, cols] = scores.maps[kind][tower]
        count[rows, cols] += 1
    assert count.max() == 1
    assert plan.mode == "tiles" or count.min() == 1
    return made


def mostly_data(plan: ScenePlan, done: list) -> np.ndarray:
    """Cells of the finest tower of which at least half has data."""
    finest = plan.geometry.finest.name
    made = np.zeros(plan.cells(finest), dtype=bool)
    for window, scores in done:
        rows, cols = (span.within(0) for span in window.cells(finest))
        made[rows, cols] = scores.mostly
    return made


def gathered(plan: ScenePlan, done: list) -> dict[str, np.ndarray]:
    """Numbers of all tiles by their place, (rows, columns, ...)."""
    made: dict[str, np.ndarray] = {}
    for window, scores in done:
        rows, cols = window.row.tiles.within(0), window.col.tiles.within(0)
        numbers = scores.numbers
        parts = {
            "logits": numbers.logits,
            "scores": numbers.scores,
            "preds": numbers.preds,
            "scored": scores.scored,
            **{f"share_{name}": part for name, part in numbers.shares.items()},
        }
        for name, part in parts.items():
            shape = (len(window.row.tiles), len(window.col.tiles), *part.shape[1:])
            full = made.setdefault(
                name, np.zeros((len(plan.rows), len(plan.cols), *part.shape[1:]), part.dtype)
            )
            full[rows, cols] = part.reshape(shape)
    return made
