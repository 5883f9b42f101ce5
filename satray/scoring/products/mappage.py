"""One page a run: a map of its scenes, and their list; each leads to its quick-look beside it.

The page holds everything but the quick-looks, which lie in the same run folder: no script, no
other host. Scenes without ground are in the list only.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from satray.report.page import (
    Child,
    Html,
    Page,
    Section,
    html,
    joined,
    table,
    tag,
)
from satray.scoring.footprints import Ring
from satray.scoring.products.graticule import CSS, Outlined, world_map
from satray.scoring.products.names import link_between, map_name, quicklook_name

DONE, FAILED, SKIPPED = "done", "failed", "skipped"


@dataclass(frozen=True)
class MappedScene:
    """A scene of the run, as the page shows it."""

    scene: str
    """Its id."""
    status: str
    """done, failed or skipped."""
    rings: Sequence[Ring] = ()
    """Outline in longitude and latitude (`SceneGround.rings`); none in pixel coordinates."""
    height: int | None = None
    """Rows, stored px."""
    width: int | None = None
    """Columns, stored px."""
    taken: str = ""
    """When, and where that is known from."""
    tiles: int = 0
    """Tiles scored."""
    detections: int = 0
    """Points found."""
    quicklook: bool = True
    """Whether there is a quick-look to open."""
    note: str = ""
    """Warnings (drift, no georeference), or why it failed."""


@dataclass(frozen=True)
class MapFacts:
    """What stands around the map."""

    run_id: str
    """The run; the page lies at `runs/RUNID.html`."""
    title: str
    """What was scored with what."""
    subtitle: str
    """One line: ids."""
    warnings: tuple[str, ...] = ()
    """What a reader must know first."""
    footer: str = ""
    """One line at the end."""


def map_page(facts: MapFacts, scenes: Sequence[MappedScene]) -> bytes:
    """The page, UTF-8 HTML."""
    home = map_name(facts.run_id)
    placed = [scene for scene in scenes if scene.rings]
    bare = [scene for scene in scenes if not scene.rings and scene.status == DONE]
    rest = [scene for scene in scenes if not scene.rings and scene.status != DONE]
    drawn = world_map(
        [Outlined(_title(one), one.rings, _link(one, home), one.detections > 0) for one in placed]
    )
    sections = []
    if placed:
        note = tag(
            "p",
            "Longitude and latitude; orange where there are detections. An outline opens its "
            "scene's quick-look.",
            class_="note",
        )
        sections.append(Section("map", "Map", joined([drawn, note])))
        sections.append(Section("scenes", "Scenes", _list(placed, home)))
    if bare:
        sections.append(Section("pixels", "Scenes in pixel coordinates", _list(bare, home)))
    if rest:
        sections.append(Section("others", "Not scored", _list(rest, home)))
    counts = {
        status: sum(one.status == status for one in scenes) for status in (DONE, FAILED, SKIPPED)
    }
    told = ", ".join(f"{count:,} {status}" for status, count in counts.items() if count)
    total = sum(one.detections for one in scenes)
    head = joined(
        [
            tag("style", Html(CSS)),
            tag("p", f"{len(scenes):,} scenes: {told or 'none'}; {total:,} detections."),
        ]
    )
    page = Page(facts.title, facts.subtitle, facts.warnings, head, sections, facts.footer)
    return html(page)


def _list(scenes: Sequence[MappedScene], home: str) -> Html:
    noted = any(one.note or one.status != DONE for one in scenes)
    heads = ["scene", *(["note"] if noted else []), "taken", "detections", "tiles", "size, px"]
    rows = [_row(one, home, noted) for one in scenes]
    return table(heads, rows, texts=2 + noted)


def _row(one: MappedScene, home: str, noted: bool) -> list[Child]:
    link = _link(one, home)
    name = tag("a", one.scene, href=link) if link else one.scene
    words: Child = one.note
    if one.status == FAILED:
        words = tag("span", one.note or FAILED, class_="bad")
    elif one.status == SKIPPED:
        words = one.note or SKIPPED
    done = one.status == DONE
    return [
        name,
        *([words] if noted else []),
        one.taken,
        f"{one.detections:,}" if done else "–",
        f"{one.tiles:,}" if done else "–",
        f"{one.height:,} × {one.width:,}" if one.height and one.width else "–",
    ]


def _link(one: MappedScene, home: str) -> str | None:
    if not one.quicklook or one.status != DONE:
        return None
    return link_between(home, quicklook_name(one.scene), url=True)


def _title(one: MappedScene) -> str:
    return f"{one.scene}: {one.status}, {one.detections:,} detections"
