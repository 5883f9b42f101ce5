"""The lattice of feature cells, in pixel-edge coordinates of the network's input."""

from dataclasses import dataclass


@dataclass(frozen=True)
class FeatureGrid:
    """The lattice of a backbone's feature cells, the same along both axes."""

    stride: float
    """Distance between neighbouring cells' centres, in px of the network's input."""

    centre: float
    """Centre of the first cell, in px from the input's edge."""

    halo: int | None = None
    """Cells from a border that zero padding can reach; None where a far pixel moves every cell
    (squeeze-excite, attention, group normalisation)."""
