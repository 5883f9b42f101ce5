"""The eight symmetries of a square tile (D4), there and back.

Element g, 0 to 7: bit 0 flips left-right, bit 1 up-down, bit 2 transposes (last), as in
`satray.data.augment`.
"""

from collections.abc import Callable, Hashable
from typing import TypeVar

from torch import Tensor

ELEMENTS = range(8)
K = TypeVar("K", bound=Hashable)


def mean_over(
    look: Callable[[Tensor, int], dict[K, Tensor]], x: Tensor, d4: bool
) -> dict[K, Tensor]:
    """What `look(turn(x, g), g)` gives, by name, in the mean over the symmetries.

    Args:
        look: turns what lies on a grid back itself.
        x: (..., S, S), or (..., H, W) where `look` takes it transposed too.
        d4: over all eight; else the one position alone.
    """
    found = look(x, 0)
    if not d4:
        return found
    for g in ELEMENTS[1:]:
        found = {name: found[name] + part for name, part in look(turn(x, g), g).items()}
    return {name: part / len(ELEMENTS) for name, part in found.items()}


def turn(x: Tensor, g: int) -> Tensor:
    """Element g of a batch x (..., S, S)."""
    flipped = [axis for axis, bit in ((-1, 1), (-2, 2)) if g & bit]
    y = x.flip(flipped) if flipped else x
    return y.transpose(-1, -2) if g & 4 else y


def turn_back(x: Tensor, g: int) -> Tensor:
    """Undo `turn`."""
    y = x.transpose(-1, -2) if g & 4 else x
    flipped = [axis for axis, bit in ((-1, 1), (-2, 2)) if g & bit]
    return y.flip(flipped) if flipped else y
