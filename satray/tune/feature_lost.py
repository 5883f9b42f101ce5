"""Tiles that could not be read while features were extracted: which, and how many are too many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from satray.errors import TrainingError
from satray.storage import Storage, join
from satray.tune.feature_file import unreadable
from satray.tune.feature_plan import SPLITS, FeatureBlock, FeatureSpec

Lost = dict[str, dict[int, str]]
"""Split -> row -> reason."""


def lost_tiles(
    storage: Storage,
    uri: str,
    blocks: Sequence[FeatureBlock],
    told: Mapping[str, Mapping[int, str]],
) -> Lost:
    """What could not be read, in this attempt and in earlier ones.

    Args:
        storage: how `uri` is reached.
        uri: folder of the features.
        blocks: all of them, computed.
        told: file -> row -> reason, of this attempt; the other files are looked into.
    """
    found: Lost = {split: {} for split in SPLITS}
    for block in blocks:
        lost = told.get(block.file)
        if lost is None:
            lost = unreadable(storage.read(join(uri, block.file)))
        found[block.split].update(lost)
    return found


def check_lost(
    storage: Storage,
    uri: str,
    spec: FeatureSpec,
    blocks: Sequence[FeatureBlock],
    lost: Lost,
    budget: float,
) -> None:
    """Stop where too many tiles could not be read.

    The blocks that lack them are removed, so that a rerun reads them again: a store that was away
    for a while shall not spoil the features for good.

    Args:
        storage: how `uri` is reached.
        uri: folder of the features.
        spec: of the features.
        blocks: all of them.
        lost: of `lost_tiles`.
        budget: share of a split's tiles that may be unreadable.

    Raises:
        TrainingError: names the split, and a reason.
    """
    for split, tiles in zip(SPLITS, spec.tiles, strict=True):
        rows = lost[split]
        if len(rows) <= budget * tiles:
            continue
        for block in blocks:
            if block.split == split and any(block.start <= row < block.stop for row in rows):
                storage.delete(join(uri, block.file))
        raise TrainingError(
            f"features: {len(rows):,} of {tiles:,} tiles of {split} could not be read "
            f"(error_budget={budget:g}); rerunning tries these again; one of them: "
            f"{next(iter(rows.values()))}"
        )
