"""What a forward says, of tiles and of windows: maps and numbers, as they travel. Without torch.

Legend: N tiles, K classes, k classes mapped, h x w cells.
"""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from satray.score.predictions import Numbers

CamKind = Literal["dense", "argmax"]
"""dense: weighted features; argmax: what maximum pooling really used."""
Maps = dict[CamKind, dict[str, NDArray[np.float32]]]
"""Kind -> tower -> (k, h, w), in logit units; NaN where a cell has no valid px."""

MIN_VALID = 0.5
"""Share of a tile's px that are valid, below which it has no scores."""


@dataclass(frozen=True)
class MapRequest:
    """Which class activation maps to make of tiles."""

    classes: tuple[int, ...] = ()
    """Places of the classes in the bundle's list; none: no maps."""
    kind: CamKind = "dense"
    """See `CamKind`."""


@dataclass(frozen=True)
class Forward:
    """What the network says of N tiles."""

    numbers: Numbers
    """Logits, scores, predictions, shares."""
    maps: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    """Tower -> (N, classes asked for, h, w), in logit units."""


@dataclass(frozen=True)
class Wanted:
    """What a scorer of windows is to give."""

    classes: tuple[int, ...] = ()
    """Places of the classes to map, in the bundle's list; none: no maps."""

    kinds: tuple[CamKind, ...] = ()
    """Maps to make."""

    min_valid: float = MIN_VALID
    """Share of a tile's px that are valid, below which it has no scores, 0 to 1."""


@dataclass(frozen=True)
class TileScores:
    """N tiles of a window, in row order."""

    numbers: Numbers
    """As of tiles scored one by one; NaN (decisions: 0) where `scored` is not."""

    valid: NDArray[np.float32]
    """(N,) share of each tile's px that are valid, 0 to 1."""

    scored: NDArray[np.bool_]
    """(N,) whether that share reaches the least one; else the tile is nodata."""


@dataclass(frozen=True)
class Patch:
    """What a window of tiles adds to a tower's map of the scene."""

    row: int
    """First row of its cells."""

    col: int
    """First column of its cells."""

    sums: dict[CamKind, NDArray[np.float32]]
    """Kind -> (k, h, w): weighted sums over tiles."""

    weights: NDArray[np.float32]
    """(h, w): the weights' sums; 0 where no tile of the window lies."""

    data: NDArray[np.bool_]
    """(h, w): whether any valid px of the window lies in the cell's square."""


@dataclass(frozen=True)
class WindowScores:
    """What the network says of a window."""

    tiles: TileScores
    """Of the window's tiles, in row order."""

    maps: Maps = field(default_factory=dict)
    """Dense: of the window's core."""

    patches: dict[str, Patch] = field(default_factory=dict)
    """Tiles: what they add to each tower's map; none where no maps are asked for."""
