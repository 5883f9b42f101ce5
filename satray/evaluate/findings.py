"""Everything that an evaluate report is about, in one value."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from satray.config.score import EvaluateRecipe
from satray.data.index import TileIndex
from satray.evaluate.quality import Predicted, Quality
from satray.evaluate.reproduce import Comparison

if TYPE_CHECKING:  # it imports torch
    from satray.models.spec import BundleSpec


@dataclass(frozen=True)
class Findings:
    """Everything that the report is about."""

    recipe: EvaluateRecipe
    """The run's."""
    spec: "BundleSpec"
    """The bundle's."""
    index: TileIndex
    """The split's tiles."""
    predicted: Predicted
    """What was predicted."""
    quality: Quality
    """What was measured."""
    comparison: Comparison | None
    """The run beside an earlier one; None where nobody asked."""
    failed: int
    """Tiles that could not be predicted."""
    digest: str
    """SHA-256 of the index."""
