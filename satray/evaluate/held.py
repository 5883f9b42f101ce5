"""What the bundle owes to the very tiles that it is measured on, by its own provenance.

Its temperature and thresholds were fitted on one half of its index's validation split: figures that
hang on them say something about the other half only.

Shapes: N tiles.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from satray.metrics.calibration import halves
from satray.metrics.ranking import BoolArray

if TYPE_CHECKING:  # it imports torch
    from satray.models.spec import BundleSpec

OF_THRESHOLDS = (
    "accuracy", "baseline_accuracy", "balanced_accuracy", "predicted_positive_rate",
    "precision_macro", "recall_macro", "f1_macro", "f2_macro", "f1_samples", "f2_samples",
    "recall_of",
)  # fmt: skip
"""Figures that hang on the thresholds."""
OF_TEMPERATURE = ("log_loss", "ece")
"""Figures that hang on the temperature."""


@dataclass(frozen=True)
class Held:
    """Tiles that nothing was fitted on, where others were."""

    rows: BoolArray
    """(N,) whether the tile is one."""
    temperature: bool
    """Whether the temperature was fitted on the others."""
    thresholds: bool
    """Whether the thresholds were fitted on the others."""

    @property
    def figures(self) -> tuple[str, ...]:
        """Figures to be measured on these tiles only."""
        found = OF_THRESHOLDS if self.thresholds else ()
        return found + (OF_TEMPERATURE if self.temperature else ())

    def concerns(self, name: str) -> bool:
        """Whether a figure is measured on these tiles only (`recall_of_c` as `recall_of`)."""
        return name in self.figures or (self.thresholds and name.startswith("recall_of_"))

    def line(self) -> str:
        """It in words."""
        fitted, what = [], []
        if self.temperature:
            fitted.append("temperature")
            what.append("log loss, calibration error, reliability and tail accuracy")
        if self.thresholds:
            fitted.append("thresholds")
            what.append("accuracy, precision, recall, F, predicted and errors")
        verb = "was" if fitted == ["temperature"] else "were"
        tiles, rest = int(self.rows.sum()), int((~self.rows).sum())
        return (
            f"{' and '.join(fitted)} of the bundle {verb} fitted on {rest:,} of these tiles; what "
            f"hangs on them ({', '.join(what)}) is measured on the other {tiles:,}"
        )

    def document(self) -> dict[str, Any]:
        """For metrics.json."""
        return {
            "tiles": int(self.rows.sum()),
            "fitted_tiles": int((~self.rows).sum()),
            "figures": list(self.figures),
        }


def trained_here(spec: "BundleSpec", digest: str) -> bool | None:
    """Whether the bundle comes from this index; None where it does not say from which.

    Args:
        spec: the bundle's.
        digest: SHA-256 of the index that it is measured on.
    """
    known = spec.provenance.get("index")
    return known == digest if isinstance(known, str) else None


def held_back(spec: "BundleSpec", digest: str, split: str, ids: Sequence[str]) -> Held | None:
    """The half of the validation tiles that the bundle's calibration left alone.

    The halves are those of the tiles that were read now; where training could not read the same
    ones, a tile more or less moves one other at most.

    Args:
        spec: the bundle's.
        digest: SHA-256 of the index that it is measured on.
        split: part of that index.
        ids: of the N tiles.

    Returns:
        None where nothing was fitted on any of these tiles, or no tile would be left.
    """
    fitted = spec.provenance.get("calibration")
    if split != "val" or not trained_here(spec, digest) or not isinstance(fitted, Mapping):
        return None
    temperature, thresholds = (bool(fitted.get(name)) for name in ("temperature", "thresholds"))
    seed = fitted.get("seed")
    if not isinstance(seed, int) or not (temperature or thresholds):
        return None
    rows = ~halves(ids, seed)
    return Held(rows, temperature, thresholds) if rows.any() else None


def caution(spec: "BundleSpec", digest: str, split: str, held: Held | None) -> str:
    """What the split was used for before, in words; empty for nothing."""
    here = trained_here(spec, digest)
    if here is None:
        return "The bundle does not say which tile index it was trained on: maybe on these tiles."
    if not here:
        return (
            "The bundle was trained on another tile index: whether it has seen these tiles is not "
            "known."
        )
    if split == "train":
        return "The bundle was trained on this split: the figures say how well it was learned."
    if split != "val":
        return ""
    chosen = "The bundle was chosen by its figures on this split: they are a little optimistic."
    if held is not None:
        return f"{chosen} The {held.line()}."
    if "calibration" not in spec.provenance:
        chosen += " Temperature and thresholds may have been fitted on half of it."
    return chosen
