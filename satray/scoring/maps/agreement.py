"""How far windows and tiles differ: some tiles of a scene, scored again one by one."""

from dataclasses import asdict, replace
from statistics import median
from typing import Any

import numpy as np

from satray.models.bundle import Bundle
from satray.scoring.dense.by_tile import TileScorer
from satray.scoring.dense.compare import Agreement, compare
from satray.scoring.dense.pieces import plan_tiles
from satray.scoring.maps.assemble import Counts, numbers_of, sampled
from satray.scoring.maps.jobs import SceneJob
from satray.scoring.maps.plan import Geometries
from satray.scoring.maps.settings import Settings
from satray.scoring.maps.unit import Layouts, read_part
from satray.scoring.predictions import Numbers
from satray.scoring.scenes.opened import Scene

MOST = 64
"""Tiles that are scored both ways."""
ALIKE = 0.9
"""Rank correlation below which a person is told that there is a choice."""


def places_of(layouts: Layouts) -> frozenset[int]:
    """Tiles to compare; none of a scene smaller than a tile, which differs by its padding."""
    plan = layouts.plan
    if min(plan.height, plan.width) < plan.geometry.size:
        return frozenset()
    return sampled(plan.tiles, MOST)


def agreement(
    scene: Scene,
    job: SceneJob,
    counts: Counts,
    bundle: Bundle,
    settings: Settings,
    geometries: Geometries,
) -> tuple[dict[str, Any], ...]:
    """Score the sampled tiles one by one and compare.

    Args:
        scene: open.
        job: scored in windows.
        counts: with the numbers of the sampled tiles.
        bundle: on its device.
        settings: the recipe's.
        geometries: the network's.

    Returns:
        `dense.compare`'s figures by class.
    """
    places = sorted(counts.sampled)
    if not places:
        return ()
    grid, size = job.grid, geometries.tiles.size
    plan = plan_tiles(
        grid.net_height, grid.net_width, geometries.tiles, step=settings.step, side=size
    )
    scorer = TileScorer(bundle, plan, replace(settings.wanted(bundle.spec), classes=(), kinds=()))
    logits, decided = [], []
    for place in places:
        piece = plan.pieces[place]
        pixels = read_part(scene, grid, plan, piece)
        found = scorer(pixels.pixels_CHW, pixels.measured_CHW, piece, pixels.fills_NC)
        numbers = found.tiles.numbers
        logits.append(numbers.logits[0])
        decided.append(numbers.preds[0])
    alone = Numbers(np.stack(logits), np.stack(logits), np.stack(decided))
    differences = compare(numbers_of(counts, places), alone, bundle.spec.classes)
    return tuple(asdict(one) for one in differences)


def lines(figures: tuple[dict[str, Any], ...], most: int = 3) -> list[str]:
    """For a person: the classes that differ most, and what to do about it."""
    told = sorted((Agreement(**one) for one in figures), key=lambda one: -one.logit_median)
    said = [f"windows against tiles: {one.line()}" for one in told[:most]]
    ranks = [one.rank_correlation for one in told if one.rank_correlation is not None]
    if ranks and median(ranks) < ALIKE:
        said.append(
            f"windows and tiles rank this scene's tiles differently (median {median(ranks):.2f} "
            f"over classes): inside a window no tile is framed by padding; mode=tiles scores "
            "exactly as in training"
        )
    return said
