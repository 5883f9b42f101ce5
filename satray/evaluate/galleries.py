"""The galleries of a report: tiles chosen, read again and drawn."""

from dataclasses import replace

from satray.evaluate.findings import Findings
from satray.evaluate.picks import ClassPicks, Pick, ends, shown_classes, worst
from satray.evaluate.pictures import render
from satray.report.page import (
    Shelf,
    Tile,
)
from satray.runs.run import Run


def galleries(found: Findings, run: Run) -> tuple[list[Shelf], list[Tile]]:
    """Choose tiles, read them again, draw them.

    Returns:
        a shelf a class, and the worst errors.
    """
    from satray.models.bundle import load_bundle

    scored, spec, recipe = found.quality.scored, found.spec, found.recipe
    positives = [int(n) for n in scored.labels.sum(axis=0)]
    classes = shown_classes(recipe.gallery, spec.classes, positives)
    chosen = [ends(scored, k) for k in classes]
    errors = worst(scored)
    picks = [pick for one in chosen for pick in (*one.top, *one.bottom)] + list(errors)
    if not picks:
        return [], []
    columns = (found.index.table.column(n).to_pylist() for n in ("tile_id", "uri", "mask"))
    places = {tile: (uri, masked) for tile, uri, masked in zip(*columns, strict=True)}
    uris, masked = zip(*(places[tile] for tile in found.predicted.ids), strict=True)
    pictures = render(
        picks,
        uris,
        masked,
        found.index.meta,
        load_bundle(recipe.bundle, run.storage),
        run.storage,
        d4=recipe.symmetries == "d4",
        progress=run.progress,
    )

    def tile(pick: Pick) -> Tile:
        return Tile(
            pictures.get((pick.row, pick.klass)),
            found.predicted.ids[pick.row],
            pick.verdict,
            pick.right,
            spec.classes[pick.klass],
            pick.score,
            _true_class(found, pick),
        )

    def named(pick: Pick) -> Tile:
        one = tile(pick)
        note = f"{one.name}{'; ' + one.note if one.note else ''}"
        return replace(one, note=note)

    shelves = [
        Shelf(
            spec.classes[one.klass],
            _shelf_note(one, found),
            [tile(pick) for pick in one.top],
            [tile(pick) for pick in one.bottom],
        )
        for one in chosen
    ]
    return shelves, [named(pick) for pick in errors]


def _true_class(found: Findings, pick: Pick) -> str:
    """For a wrong softmax decision, what it is."""
    if found.spec.task != "multiclass" or pick.right:
        return ""
    return f"is {found.spec.classes[int(found.quality.scored.labels[pick.row].argmax())]}"


def _shelf_note(one: ClassPicks, found: Findings) -> str:
    scored = found.quality.scored
    right = int((scored.given[:, one.klass] & scored.labels[:, one.klass]).sum())
    positives = int(scored.labels[:, one.klass].sum())
    return f"given {one.given:,} times, {right:,} rightly; {positives:,} tiles have it"
