"""The parts of a split, and the words by which label tables call them."""

from typing import Literal

Part = Literal["train", "val", "test"]

PARTS_BY_WORD: dict[str, Part] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
"""Word in a split column or folder name, lower case -> part."""
