"""The parts of the evaluate report, from the document that is also `metrics.json`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from satray.report.markup import Child, Html, details, joined, number, picture, table, tag


@dataclass(frozen=True)
class Headline:
    """One figure at the head of the page."""

    name: str
    """What it is called."""
    value: float | None
    """The figure."""
    interval: Mapping[str, float] | None
    """`low` and `high`; None: none."""
    beside: str
    """What to compare it with."""


@dataclass(frozen=True)
class Tile:
    """One picture of the galleries."""

    picture: bytes | None
    """JPEG; None where the tile could not be read again."""
    tile_id: str
    """Its id."""
    verdict: str
    """TP, FP or FN."""
    right: bool
    """Whether the decision is right."""
    name: str
    """The class it is shown for."""
    score: float
    """Probability of that class."""
    note: str = ""
    """What else is to be said."""


@dataclass(frozen=True)
class Shelf:
    """The gallery of one class."""

    name: str
    """Class name."""
    note: str
    """How many tiles are given the class, and how many of them rightly."""
    top: Sequence[Tile]
    """The most confident."""
    bottom: Sequence[Tile]
    """The least confident."""


def cards(headlines: Sequence[Headline]) -> Html:
    """The headline figures, each with its interval and what to compare it with."""
    shown = []
    for one in headlines:
        lines: list[Child] = [tag("span", one.name, class_="name"), tag("b", number(one.value))]
        if one.interval is not None:
            lines.append(tag("span", _interval(one.interval)))
        if one.beside:
            lines.append(tag("span", one.beside))
        shown.append(tag("div", *lines, class_="card"))
    return tag("div", *shown, class_="cards")


def class_table(rows: Sequence[Mapping[str, Any]], draws: int = 0) -> Html:
    """One row a class.

    Args:
        rows: `name, positives, ap, interval, auc, threshold, precision, recall, f1, given`.
        draws: of the bootstrap; an interval that rests on fewer says so.
    """
    heads = (
        "class", "positives", "AP", "95 % interval", "ROC AUC", "threshold", "precision", "recall",
        "F1", "predicted",
    )  # fmt: skip
    body = [
        (
            row["name"],
            f"{row['positives']:,}",
            number(row["ap"]),
            _interval(row["interval"], draws) if row["interval"] else "–",
            number(row["auc"]),
            number(row["threshold"]) if row["threshold"] is not None else "highest",
            number(row["precision"]),
            number(row["recall"]),
            number(row["f1"]),
            f"{row['given']:,}",
        )
        for row in rows
    ]
    return table(heads, body)


def calibration_table(rows: Sequence[Mapping[str, Any]]) -> Html:
    """Calibration of the bundle on this split, before and after.

    Args:
        rows: `name, before, after`; figures.
    """
    body = [(row["name"], number(row["before"], 4), number(row["after"], 4)) for row in rows]
    return table(("", "raw logits, 0.5", "the bundle's"), body)


def gallery(tiles: Sequence[Tile]) -> Html:
    """Pictures in a row, as many as fit."""
    return tag("div", *(_tile(tile) for tile in tiles), class_="tiles")


def shelf(one: Shelf, *, open_: bool) -> Html:
    """A class's gallery, folded."""
    parts: list[Child] = []
    if not one.top:
        parts.append(tag("p", "No tile is given this class.", class_="note"))
    else:
        parts += [tag("h4", f"{len(one.top)} most confident"), gallery(one.top)]
    if one.bottom:
        parts += [tag("h4", f"{len(one.bottom)} least confident"), gallery(one.bottom)]
    return details(joined((one.name, tag("small", one.note))), *parts, open_=open_)


def pairs(rows: Sequence[tuple[str, Child]]) -> Html:
    """Names and values, two columns."""
    body = [tag("tr", tag("th", name, class_="t", scope="row"), tag("td", value, class_="t"))
            for name, value in rows]  # fmt: skip
    return tag("div", tag("table", tag("tbody", *body)), class_="scroll")


def versions(columns: Mapping[str, Mapping[str, str]]) -> Html:
    """Library versions side by side; a column a run."""
    names = list(dict.fromkeys(name for column in columns.values() for name in column))
    rows = [(name, *(column.get(name, "–") for column in columns.values())) for name in names]
    return table(("", *columns), rows, texts=1 + len(columns))


def _tile(tile: Tile) -> Html:
    shown: Child
    if tile.picture is None:
        shown = tag("p", "cannot be read any more", class_="note")
    else:
        shown = picture(tile.picture, f"{tile.tile_id}, and where {tile.name} is seen in it",
                        kind="jpeg")  # fmt: skip
    verdict = tag("strong", tile.verdict, class_="ok" if tile.right else "bad")
    said: list[Child] = [verdict, f" {tile.score:.3f}"]
    if tile.note:
        said.append(f" {tile.note}")
    return tag(
        "figure", shown, tag("div", *said), tag("span", tile.tile_id, class_="id"), class_="tile"
    )


def _interval(interval: Mapping[str, float], draws: int = 0) -> str:
    if interval["low"] != interval["low"]:
        return "–"
    said = f"{number(interval['low'])} to {number(interval['high'])}"
    defined = int(interval.get("draws", draws))
    return said if defined >= draws else f"{said} ({defined:,} of {draws:,} draws)"
