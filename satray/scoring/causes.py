"""What may be behind logits that are not what they were: weights, data, versions, device."""

from collections.abc import Sequence

from satray.config.evaluate import EvaluateRecipe
from satray.errors import InputError
from satray.runs.perform import library_versions
from satray.runs.record import RunRecord
from satray.storage import Storage
from satray.tiles.index import TileIndex, index_digest, read_index

CHECKED = 64
"""Most tiles whose files are looked at again."""
NAMED = 3
"""Tiles that a line names."""


def differences(
    recipe: EvaluateRecipe,
    record: RunRecord,
    models: tuple[str, str],
    devices: tuple[str, str | None],
    storage: Storage,
) -> list[str]:
    """What is known to differ between an earlier run and this one.

    Args:
        recipe: this run's.
        record: the earlier run's.
        models: bundle ids, this run's and the earlier one's.
        devices: what computed, in this run and in the earlier one (None: not recorded).
        storage: where the indexes are.
    """
    lines = []
    if models[0] != models[1]:
        lines.append(f"weights differ: model {models[1]} then, {models[0]} now")
    mine = index_digest(recipe.index, storage)
    theirs = record.inputs.get("index", "")
    if mine != theirs:
        changed = _changed_tiles(recipe, str(record.config.get("index")), theirs, storage)
        lines.append(f"data differ: tile index {theirs[:12]} then, {mine[:12]} now{changed}")
    now = library_versions()
    names = sorted(now.keys() | record.versions.keys())
    moved = [
        f"{name} {record.versions.get(name, 'absent')} then, {now.get(name, 'absent')} now"
        for name in names
        if record.versions.get(name) != now.get(name)
    ]
    if moved:
        lines.append(f"versions differ: {', '.join(moved)}")
    if devices[1] is not None and devices[0] != devices[1]:
        lines.append(f"device differs: {devices[1]} then, {devices[0]} now")
    for name in ("average", "batch"):
        before, here = record.config.get(name), getattr(recipe, name)
        if before is not None and before != here:
            lines.append(f"{name} differs: {before} then, {here} now")
    return lines


def changed_files(index: TileIndex, ids: Sequence[str], storage: Storage) -> str | None:
    """Which of these tiles' files are no longer those that the index describes, in a line."""
    rows = {row["tile_id"]: row for row in index.table.to_pylist()} if ids else {}
    changed = []
    looked = [name for name in ids if name in rows][:CHECKED]
    for name in looked:
        row = rows[name]
        try:
            entry = storage.head(row["uri"])
        except InputError:
            changed.append(f"{name} (gone)")
            continue
        if entry.size != row["bytes"] or (row["etag"] and entry.etag != row["etag"]):
            changed.append(name)
    if not changed:
        return None
    named = ", ".join(changed[:NAMED]) + (", ..." if len(changed) > NAMED else "")
    return (
        f"files differ from the tile index: {len(changed)} of {len(looked)} tiles looked at "
        f"({named})"
    )


def _changed_tiles(recipe: EvaluateRecipe, uri: str, digest: str, storage: Storage) -> str:
    """How two indexes' tiles differ, where the earlier one is still there."""
    try:
        if index_digest(uri, storage) != digest:
            return " (the earlier one is no longer at its place)"
        before, now = (
            {row["tile_id"]: row for row in read_index(place, storage).part(recipe.split).table
             .select(["tile_id", "bytes", "etag", "labels"]).to_pylist()}
            for place in (uri, recipe.index)
        )  # fmt: skip
    except InputError:
        return " (the earlier one cannot be read)"
    both = before.keys() & now.keys()
    content = sum(
        before[name]["bytes"] != now[name]["bytes"] or before[name]["etag"] != now[name]["etag"]
        for name in both
    )
    labels = sum(before[name]["labels"] != now[name]["labels"] for name in both)
    return (
        f" ({len(now.keys() - before.keys()):,} tiles new, {len(before.keys() - now.keys()):,} "
        f"gone, {content:,} with another size or etag, {labels:,} with other labels)"
    )
