"""`features.json`: what all attempts at an extraction made together, once every block is there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from satray.errors import SatrayError
from satray.storage import Storage, join
from satray.tune.feature_file import about, unreadable, widths_of
from satray.tune.feature_lost import check_lost, lost_tiles
from satray.tune.feature_plan import FORMAT, SPLITS, FeatureBlock, FeatureSpec


def finished(
    storage: Storage,
    uri: str,
    spec: FeatureSpec,
    blocks: Sequence[FeatureBlock],
    reports: Sequence[Mapping[str, Any]],
    budget: float,
) -> dict[str, Any]:
    """The record, but for classes and wall seconds.

    Args:
        storage: how `uri` is reached.
        uri: folder of the features.
        spec: of them.
        blocks: all of them, written.
        reports: of those of this attempt, with `file`, `unreadable` (row -> reason) and what the
            file says `about` itself; the other files are read.
        budget: share of a split's tiles that may be unreadable.

    Raises:
        TrainingError: more could not be read.
        SatrayError: blocks are of different precisions.
    """
    told = {each["file"]: each for each in reports}
    whole = [told.get(block.file) or _kept(storage, uri, block) for block in blocks]
    if len({each["bf16"] for each in whole if each["file"].startswith("train-")}) > 1:
        raise SatrayError(
            f"features {spec.key}: some were computed in bf16, others in fp32, on processors of "
            "several kinds; base.precision=fp32 or bf16 makes them alike"
        )
    lost = lost_tiles(storage, uri, blocks, {each["file"]: each["unreadable"] for each in whole})
    check_lost(storage, uri, spec, blocks, lost, budget)
    return {
        "format": FORMAT,
        "key": spec.key,
        "spec": asdict(spec),
        "columns": widths_of(storage.read(join(uri, blocks[0].file))),
        "rows": dict(zip(SPLITS, spec.tiles, strict=True)),
        "views": {split: spec.views_in(split) for split in SPLITS},
        "files": [block.file for block in blocks],
        "unreadable": {split: {str(r): e for r, e in rows.items()} for split, rows in lost.items()},
        "bf16": any(each["bf16"] for each in whole),
        "images": sum(len(block) * spec.views_in(block.split) for block in blocks),
        "bytes_read": sum(each["bytes"] for each in whole),
        "seconds_computing": sum(each["computing"] for each in whole),
    }


def _kept(storage: Storage, uri: str, block: FeatureBlock) -> dict[str, Any]:
    """The report of a block that an earlier attempt computed, from its file."""
    data = storage.read(join(uri, block.file))
    return {**about(data), "file": block.file, "unreadable": unreadable(data)}
