"""What a bundle owes to the very tiles that it is measured on, by its own provenance.

Its temperature and thresholds were fitted on one half of its index's validation split: figures that
hang on them say something about the other half only.

Shapes: N tiles.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from satray.metrics.calibration import halves
from satray.metrics.ranking import BoolArray

if TYPE_CHECKING:  # it imports torch
    from satray.models.spec import BundleSpec


def held_back(spec: "BundleSpec", digest: str, split: str, ids: Sequence[str]) -> BoolArray | None:
    """The half of the validation tiles that the bundle's calibration left alone.

    The halves are those of the tiles that were read now; where training could not read the same
    ones, a tile more or less moves one other at most.

    Args:
        spec: the bundle's.
        digest: SHA-256 of the index that it is measured on.
        split: part of that index.
        ids: of the N tiles.

    Returns:
        (N,) whether nothing was fitted on the tile; None where nothing was fitted on any, or no
        tile would be left.
    """
    fitted = spec.provenance.get("calibration")
    if split != "val" or spec.provenance.get("index") != digest or not isinstance(fitted, Mapping):
        return None
    if not (fitted.get("temperature") or fitted.get("thresholds")):
        return None
    held_N: BoolArray = ~halves(ids, fitted.get("seed", 0))
    return held_N if held_N.any() else None


def held_line(held_N: BoolArray) -> str:
    """What was measured apart, in words."""
    return (
        f"temperature and thresholds of the bundle were fitted on {(~held_N).sum():,} of these "
        "tiles; what hangs on them (all but average precision and AUC) is measured on the other "
        f"{held_N.sum():,}"
    )


def caution(spec: "BundleSpec", digest: str, split: str, held_N: BoolArray | None) -> str:
    """What the split was used for before, in words; empty for nothing."""
    index = spec.provenance.get("index")
    if index is None:
        return "The bundle does not say which tile index it was trained on: maybe on these tiles."
    if index != digest:
        return (
            "The bundle was trained on another tile index: whether it has seen these tiles is not "
            "known."
        )
    if split == "train":
        return "The bundle was trained on this split: the figures say how well it was learned."
    if split != "val":
        return ""
    chosen = "The bundle was chosen by its figures on this split: they are a little optimistic."
    return chosen if held_N is None else f"{chosen} The {held_line(held_N)}."
