"""Numbers of tiles, from what a forward over a window gives."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from satray.metrics.scored import Rule, decide
from satray.models.bundle import Bundle
from satray.score.predictions import Numbers
from satray.score.results import TileScores


def tile_scores(
    bundle: Bundle,
    logits_NK: Tensor,
    shares: dict[str, Tensor],
    valid_N: NDArray[np.float32],
    min_valid: float,
) -> TileScores:
    """Decide as `scoring.forward` does, on the logits as they are stored."""
    spec = bundle.spec
    scored_N = (valid_N >= min_valid) & (valid_N > 0)
    logits = host(logits_NK)
    given = decide(logits, spec.task, Rule(spec.temperature, spec.thresholds)).astype(np.uint8)
    scores = host(bundle.scores(logits_NK))
    parts = {name: host(part) for name, part in shares.items()}
    for array in (logits, scores, *parts.values()):
        array[~scored_N] = np.nan
    given[~scored_N] = 0
    return TileScores(Numbers(logits, scores, given, parts), valid_N, scored_N)


def nothing(bundle: Bundle, valid_N: NDArray[np.float32], towers: tuple[str, ...]) -> TileScores:
    """N tiles without data."""
    empty_NK = torch.full((len(valid_N), len(bundle.spec.classes)), torch.nan)
    return tile_scores(bundle, empty_NK, dict.fromkeys(towers, empty_NK), valid_N * 0, 1.0)


def host(values: Tensor) -> NDArray[np.float32]:
    """On the host, in float32, one's own to write to."""
    array: NDArray[Any] = values.float().cpu().contiguous().numpy()
    return array.copy() if values.device.type == "cpu" else array
