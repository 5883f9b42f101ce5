"""How far a scene's values lie from those that a bundle was trained on.

The score of a band is the larger of two standardised differences: of means, |m - M| / S (Cohen's d
with the training's deviation S), and of spreads, |ln(s / S)|. At 1 the scene's mean lies one
deviation of the training's pixels away, or it spreads e times as much or as little: the size of a
forgotten offset, of another scale, of two bands exchanged. One scene is always narrower than an
archive of many, so less than that says nothing.

Looked at are small windows at full resolution, spread evenly. Not an overview: its averages spread
less than pixels do, and GDAL would open what a TIFF names as its overview, wherever that is.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from satray.score.scenes.open import Scene

if TYPE_CHECKING:
    from satray.models.spec import BundleSpec  # torch

SIDE = 256
"""Side of a window, stored px."""
ACROSS = 4
"""Windows along a side: at most 16, a megapixel in all."""
FARTHEST = 1e6
"""Deviations of the training beyond which a value is not told from others."""
NARROWEST = 1e-3
"""Least spread, in the training's; a band of one value has that of its rounding."""


@dataclass(frozen=True)
class BandReference:
    """One band of the training, in stored units."""

    name: str
    """Band name."""
    mean: float
    """Mean of its pixels."""
    std: float
    """Their deviation; above 0."""


@dataclass(frozen=True)
class Drift:
    """A scene against the training."""

    score: float
    """The worst band's."""
    warning: str | None
    """One line on the bands that lie far off; None where none does."""


def references_of_bundle(spec: "BundleSpec") -> tuple[BandReference, ...]:
    """What a bundle says of its training's bands; nothing of PIL's levels, which mix bands."""
    if spec.radiometry.name == "pil_compat":
        return ()
    low, high = spec.radiometry.low, spec.radiometry.high
    if spec.radiometry.name == "stored":
        low, high = (0.0,) * len(spec.bands), (1.0,) * len(spec.bands)
    return tuple(
        BandReference(name, bottom + mean * (top - bottom), std * (top - bottom))
        for name, mean, std, bottom, top in zip(
            spec.bands, spec.mean, spec.std, low, high, strict=True
        )
        if std * (top - bottom) > 0
    )


def drift(scene: Scene, references: Sequence[BandReference], limit: float = 1.0) -> Drift | None:
    """Compare a scene's measured pixels with the training's.

    Args:
        scene: open.
        references: the training's bands; a band without one is passed over.
        limit: score from which on there is a warning.

    Returns:
        None where nothing is measured in what is looked at, or no band has a reference.

    Raises:
        DecodeError: a window cannot be read.
    """
    by_name = {reference.name: reference for reference in references}
    if not by_name:
        return None
    values: dict[str, list[NDArray[Any]]] = {}
    facts = scene.facts
    for row, height in sample_places(facts.extent.height):
        for column, width in sample_places(facts.extent.width):
            x_CHW, valid_CHW = scene.read(row, column, height, width)
            for name, x_HW, valid_HW in zip(facts.bands, x_CHW, valid_CHW, strict=True):
                if name in by_name and valid_HW.any():
                    values.setdefault(name, []).append(x_HW[valid_HW])
    scores: list[tuple[float, str]] = []
    for name, some in values.items():
        # in the training's deviations from its mean
        z = (np.concatenate(some).astype(np.float64) - by_name[name].mean) / by_name[name].std
        np.clip(z, -FARTHEST, FARTHEST, out=z)
        shift, spread = float(z.mean()), math.log(max(float(z.std()), NARROWEST))
        mean = by_name[name].mean + shift * by_name[name].std
        said = f"{name} mean {mean:.5g} is {shift:+.1f} deviations off"
        if abs(spread) > abs(shift):
            said = f"{name} spreads {math.exp(spread):.2g} times as far"
        scores.append((max(abs(shift), abs(spread)), said))
    if not scores:
        return None
    worst = max(score for score, _ in scores)
    far = sorted((pair for pair in scores if pair[0] >= limit), key=lambda pair: -pair[0])
    if not far:
        return Drift(worst, None)
    return Drift(
        worst,
        f"values unlike the training's (drift {worst:.2f}, limit {limit:g}): "
        f"{', '.join(said for _, said in far[:4])}; look at band order, dtype, scale and offset",
    )


def sample_places(size: int) -> list[tuple[int, int]]:
    """Start and length of the windows along an axis of `size` px; all of it where that is less."""
    if size <= ACROSS * SIDE:
        return [(0, size)]
    gap = (size - ACROSS * SIDE) / ACROSS
    return [(round(gap / 2 + i * (SIDE + gap)), SIDE) for i in range(ACROSS)]
