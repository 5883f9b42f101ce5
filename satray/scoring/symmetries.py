"""The eight symmetries of a square tile (D4), there and back.

Element g, 0 to 7: bit 0 flips left-right, bit 1 up-down, bit 2 transposes (last), as in
`satray.data.augment`.
"""

from torch import Tensor

ELEMENTS = range(8)


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
