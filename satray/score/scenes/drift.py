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
from typing import TYPE_CHECKING

import numpy as np

from satray.score.scenes.open import Scene

if TYPE_CHECKING:
    from satray.models.spec import BundleSpec  # torch

SIDE = 256
"""Side of a window, stored px."""
ACROSS = 4
"""Windows along a side: at most 16, a megapixel in all."""
LIMIT = 1.0
"""Score from which on there is a warning."""


def drift(scene: Scene, spec: "BundleSpec") -> tuple[float | None, str | None]:
    """Compare a scene's measured pixels with the training's.

    Args:
        scene: open.
        spec: the bundle's.

    Returns:
        The worst band's score, and one line on the bands that lie far off; None where none does,
        and both where nothing is measured in what is looked at, or nothing known of the training's.

    Raises:
        DecodeError: a window cannot be read.
    """
    references, extent = _references(spec), scene.facts.extent
    if not references:
        return None, None
    places = [
        (row, column, height, width)
        for row, height in _sample_places(extent.height)
        for column, width in _sample_places(extent.width)
    ]
    windows = [scene.read(*place) for place in places]
    scores: list[tuple[float, str]] = []
    for n, name in enumerate(scene.facts.bands):
        values = np.concatenate([x_CHW[n][valid_CHW[n]] for x_CHW, valid_CHW in windows])
        if name not in references or not values.size:
            continue
        mean, std = references[name]
        # beyond a million deviations one is like another; a constant spreads as much as rounding
        z = np.clip((values.astype(np.float64) - mean) / std, -1e6, 1e6)
        shift, spread = float(z.mean()), math.log(max(float(z.std()), 1e-3))
        said = f"{name} mean {mean + shift * std:.5g} is {shift:+.1f} deviations off"
        if abs(spread) > abs(shift):
            said = f"{name} spreads {math.exp(spread):.2g} times as far"
        scores.append((max(abs(shift), abs(spread)), said))
    if not scores:
        return None, None
    scores.sort(key=lambda pair: -pair[0])
    worst, far = scores[0][0], [said for score, said in scores if score >= LIMIT]
    if not far:
        return worst, None
    return worst, (
        f"values unlike the training's (drift {worst:.2f}, limit {LIMIT:g}): "
        f"{', '.join(far[:4])}; look at band order, dtype, scale and offset"
    )


def _references(spec: "BundleSpec") -> dict[str, tuple[float, float]]:
    """Mean and deviation of the training's pixels, by band, in stored units.

    Nothing is known of PIL's levels, which mix bands, nor of a band that is constant.
    """
    count, radiometry = len(spec.bands), spec.radiometry
    if radiometry.name == "pil_compat":
        return {}
    low, high = radiometry.low, radiometry.high
    if radiometry.name == "stored":
        low, high = (0.0,) * count, (1.0,) * count
    found = {}
    for n, name in enumerate(spec.bands):
        span = high[n] - low[n]
        if spec.std[n] * span > 0:
            found[name] = low[n] + spec.mean[n] * span, spec.std[n] * span
    return found


def _sample_places(size: int) -> list[tuple[int, int]]:
    """Start and length of the windows along an axis of `size` px; all of it where that is less."""
    if size <= ACROSS * SIDE:
        return [(0, size)]
    gap = (size - ACROSS * SIDE) / ACROSS
    return [(round(gap / 2 + i * (SIDE + gap)), SIDE) for i in range(ACROSS)]
