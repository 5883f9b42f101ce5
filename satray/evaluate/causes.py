"""What may be behind logits that are not what they were: weights, data, versions, device."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from satray.config.score import EvaluateRecipe
from satray.data.index import TileIndex, index_digest, read_index, unlike
from satray.errors import SatrayError
from satray.runs.run import RunRecord, library_versions
from satray.storage import CHANGED, Storage

CHECKED = 64
"""Most tiles whose files are looked at again."""
NAMED = 3
"""Tiles that a line names."""


@dataclass(frozen=True)
class Maker:
    """What made a run's logits."""

    model_id: str
    """The bundle's id."""
    device: str | None
    """What computed; None: not recorded."""
    files: Mapping[str, str] | None
    """SHA-256 of each of the bundle's files, by name; None: not recorded."""


def causes(
    recipe: EvaluateRecipe,
    record: RunRecord,
    makers: tuple[Maker, Maker],
    index: TileIndex,
    ids: Sequence[str],
    storage: Storage,
) -> tuple[str, ...]:
    """What is known to differ between an earlier run and this one, or could not be looked at.

    Args:
        recipe: this run's.
        record: the earlier run's.
        makers: what made the logits of this run, and of the earlier one.
        index: this run's split.
        ids: tiles that differ, or that one run only could predict.
        storage: where indexes and tiles are.
    """
    looks: tuple[Callable[[], list[str]], ...] = (
        lambda: _bundle(*makers),
        lambda: _index(recipe, record, storage),
        lambda: _versions(record),
        lambda: _settings(recipe, record, makers),
        lambda: changed_files(index, ids, storage),
    )
    lines: list[str] = []
    for look in looks:
        try:
            lines += look()
        except SatrayError as error:  # the figures count for more than the reasons
            lines.append(f"not everything could be looked at: {error}")
    return tuple(lines)


def _bundle(now: Maker, then: Maker) -> list[str]:
    if now.model_id == then.model_id:
        return []
    moved = f"model {then.model_id} then, {now.model_id} now"
    if now.files is None or then.files is None:
        return [f"bundle differs: {moved} (which of its files was not recorded)"]
    names = [
        name
        for name in sorted(now.files.keys() | then.files.keys())
        if now.files.get(name) != then.files.get(name)
    ]
    same = "" if "model.safetensors" in names else "; the weights are the same"
    return [f"bundle differs in {' and '.join(names)}: {moved}{same}"]


def _index(recipe: EvaluateRecipe, record: RunRecord, storage: Storage) -> list[str]:
    mine = index_digest(recipe.index, storage)
    theirs = record.inputs.get("index", "")
    if mine == theirs:
        return []
    changed = _changed_tiles(recipe, str(record.config.get("index")), theirs, storage)
    return [f"data differ: tile index {theirs[:12]} then, {mine[:12]} now{changed}"]


def _versions(record: RunRecord) -> list[str]:
    now = library_versions()
    names = sorted(now.keys() | record.versions.keys())
    moved = [
        f"{name} {record.versions.get(name, 'absent')} then, {now.get(name, 'absent')} now"
        for name in names
        if record.versions.get(name) != now.get(name)
    ]
    return [f"versions differ: {', '.join(moved)}"] if moved else []


def _settings(recipe: EvaluateRecipe, record: RunRecord, makers: tuple[Maker, Maker]) -> list[str]:
    lines = []
    now, then = (maker.device for maker in makers)
    # a run that did not name its GPU may have had this one
    unnamed = "gpu" in (now, then) and str(now)[:3] == str(then)[:3]
    if then is not None and now != then and not unnamed:
        lines.append(f"device differs: {then} then, {now} now")
    for name in ("symmetries", "batch"):
        before, here = record.config.get(name), getattr(recipe, name)
        if before is not None and before != here:
            lines.append(f"{name} differs: {before} then, {here} now")
    return lines


def changed_files(index: TileIndex, ids: Sequence[str], storage: Storage) -> list[str]:
    """Which of these tiles' files are no longer those that the index describes, in a line.

    Raises:
        SatrayError: the store fails.
    """
    table = index.table.select(["tile_id", "uri", "bytes", "etag", "crc32"])
    asked = pa.array(ids, pa.string())
    there = asked.filter(pc.is_in(asked, value_set=table.column("tile_id")))[:CHECKED]
    rows = table.filter(pc.is_in(table.column("tile_id"), value_set=there))
    changed = [
        name if why.startswith(CHANGED) else f"{name} (cannot be read)"
        for name, why in unlike(rows, storage)
    ]
    if not changed:
        return []
    named = ", ".join(changed[:NAMED]) + (", ..." if len(changed) > NAMED else "")
    return [
        f"files differ from the tile index: {len(changed)} of {len(rows)} tiles looked at ({named})"
    ]


def _changed_tiles(recipe: EvaluateRecipe, uri: str, digest: str, storage: Storage) -> str:
    """How two indexes' tiles differ, where the earlier one is still there."""
    try:
        if index_digest(uri, storage) != digest:
            return " (the earlier one is no longer at its place)"
        then, now = (read_index(place, storage).part(recipe.split) for place in (uri, recipe.index))
    except SatrayError:
        return " (the earlier one cannot be read)"
    before = pc.index_in(now.table["tile_id"], value_set=then.table["tile_id"])
    both = pa.array(np.flatnonzero(before.is_valid().to_numpy()))
    before = before.take(both)
    apart = np.zeros(len(both), dtype=bool)
    for name, absent in (("bytes", -1), ("etag", "")):
        here, there = now.table[name].take(both), then.table[name].take(before)
        apart |= pc.not_equal(pc.fill_null(here, absent), pc.fill_null(there, absent)).to_numpy()
    labels = len(both)
    if now.meta.classes == then.meta.classes:
        moved_NK = now.labels[both.to_numpy()] != then.labels[before.to_numpy()]
        labels = int(moved_NK.any(axis=1).sum())
    return (
        f" ({len(now) - len(both):,} tiles new, {len(then) - len(both):,} gone, "
        f"{int(apart.sum()):,} with another size or etag, {labels:,} with other labels)"
    )
