"""A plain map of outlines in longitude and latitude as SVG: no coast, no tiles, no other host.

Plate carree, stretched so that the middle latitude is true to shape.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from satray.report.page import (
    Html,
    joined,
    tag,
)
from satray.scoring.footprints import Ring
from satray.scoring.products.ground import bbox_of

WIDTH = 1000
"""Units across; the page scales them."""
TALLEST, FLATTEST = 900, 420
"""Units down, at most and at least."""
SMALLEST = 14.0
"""Outlines smaller than this many units get a dot, so that they can be seen and hit."""
STEPS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 45)
"""Degrees between lines."""
MOST_LINES = 7
"""Lines across the longer span."""

CSS = """
.map{width:100%;height:auto;display:block;background:var(--soft);border:1px solid var(--line);
border-radius:6px;margin:10px 0}
.map .g{stroke:#d3d9de;stroke-width:1;fill:none;vector-effect:non-scaling-stroke}
.map text{font-size:13px;fill:var(--muted)}
.map .s{fill:#2f6f8f33;stroke:#2f6f8f;stroke-width:1.4;vector-effect:non-scaling-stroke}
.map .s.hot{fill:#c2703d55;stroke:#b3403a}
.map a:hover .s,.map a:focus .s{fill:#2f6f8f88}
@media (max-width:560px){.map text{font-size:30px}}
"""


@dataclass(frozen=True)
class Outlined:
    """A scene on the map."""

    name: str
    """Shown when pointed at."""
    rings: Sequence[Ring]
    """Its outline: two rings across the antimeridian."""
    href: str | None
    """Where it leads; None: nowhere."""
    hot: bool
    """Whether it has detections."""


@dataclass(frozen=True)
class Frame:
    """The part of the world that is shown."""

    west: float
    """Degrees."""
    south: float
    """Degrees."""
    east: float
    """Degrees."""
    north: float
    """Degrees."""
    height: float
    """Units down."""

    def place(self, lon: float, lat: float) -> tuple[float, float]:
        """Units across and down."""
        x = (lon - self.west) / (self.east - self.west) * WIDTH
        y = (self.north - lat) / (self.north - self.south) * self.height
        return round(x, 1), round(y, 1)


def world_map(scenes: Sequence[Outlined]) -> Html:
    """The map; empty where no scene has an outline."""
    shown = [scene for scene in scenes if scene.rings]
    if not shown:
        return Html("")
    west, _, east, _ = bbox_of([ring for scene in shown for ring in scene.rings]) or [0.0] * 4
    if west > east:  # around the antimeridian, not around the world
        shown = [replace(scene, rings=_eastwards(scene.rings, west)) for scene in shown]
    frame = frame_of([ring for scene in shown for ring in scene.rings])
    parts = [*_lines(frame), *(_scene(frame, scene) for scene in shown)]
    return tag(
        "svg",
        tag("title", f"map of {len(shown):,} scenes"),
        *parts,
        class_="map",
        viewBox=f"0 0 {WIDTH} {frame.height:.0f}",
        role="img",
        xmlns="http://www.w3.org/2000/svg",
    )


def frame_of(rings: Sequence[Ring]) -> Frame:
    """A frame around outlines, with a margin, neither too flat nor too tall."""
    lons = [lon for ring in rings for lon, _ in ring]
    lats = [lat for ring in rings for _, lat in ring]
    south, north = min(lats), max(lats)
    west, east = min(lons), max(lons)
    shrink = max(0.05, math.cos(math.radians((south + north) / 2)))
    wide = max((east - west) * 1.16, 2e-4)
    tall = max((north - south) * 1.16, 2e-4)
    # units down are tall / (wide * shrink) of WIDTH
    tall = max(tall, wide * shrink * FLATTEST / WIDTH)
    wide = max(wide, tall / shrink * WIDTH / TALLEST)
    middle_x, middle_y = (west + east) / 2, (south + north) / 2
    height = WIDTH * tall / (wide * shrink)
    return Frame(
        middle_x - wide / 2,
        middle_y - tall / 2,
        middle_x + wide / 2,
        middle_y + tall / 2,
        height,
    )


def step_of(span: float) -> float:
    """Degrees between lines, so that at most `MOST_LINES` fit."""
    return next((step for step in STEPS if span / step <= MOST_LINES), 90.0)


def _eastwards(rings: Sequence[Ring], west: float) -> list[Ring]:
    """Rings with longitudes that go on beyond 180."""
    turned = [360.0 if max(lon for lon, _ in ring) < west else 0.0 for ring in rings]
    return [
        [(lon + turn, lat) for lon, lat in ring] for ring, turn in zip(rings, turned, strict=True)
    ]


def _lines(frame: Frame) -> list[Html]:
    step = step_of(max(frame.east - frame.west, frame.north - frame.south))
    digits = max(0, math.ceil(-math.log10(step) - 1e-9))
    lines, words = [], []
    for n in range(math.ceil(frame.west / step), math.floor(frame.east / step) + 1):
        x, _ = frame.place(n * step, frame.south)
        lines.append(f"M{x} 0V{frame.height:.1f}")
        turned = (n * step + 180) % 360 - 180
        if 20 < x < WIDTH - 150:
            words.append(_word(x + 6, frame.height - 10, _degrees(turned, digits, "E", "W")))
    for n in range(math.ceil(frame.south / step), math.floor(frame.north / step) + 1):
        if abs(n * step) > 90:
            continue
        _, y = frame.place(frame.west, n * step)
        lines.append(f"M0 {y}H{WIDTH}")
        if 40 < y < frame.height - 50:
            words.append(_word(6.0, y - 6, _degrees(n * step, digits, "N", "S")))
    return [tag("path", d="".join(lines), class_="g"), *words]


def _word(x: float, y: float, text: str) -> Html:
    return tag("text", text, x=f"{x:.1f}", y=f"{y:.1f}")


def _degrees(value: float, digits: int, plus: str, minus: str) -> str:
    rounded = round(value, digits)
    side = plus if rounded > 0 else minus if rounded < 0 else ""
    return f"{abs(rounded):.{digits}f}°{side}"


def _scene(frame: Frame, scene: Outlined) -> Html:
    kind = "s hot" if scene.hot else "s"
    shapes: list[Html] = []
    for ring in scene.rings:
        points = [frame.place(lon, lat) for lon, lat in ring[:-1]]
        xs, ys = [x for x, _ in points], [y for _, y in points]
        if max(max(xs) - min(xs), max(ys) - min(ys)) < SMALLEST:
            x, y = (min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2
            shapes.append(tag("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r="7", class_=kind))
        else:
            written = " ".join(f"{x:g},{y:g}" for x, y in points)
            shapes.append(tag("polygon", points=written, class_=kind))
    inside = joined([tag("title", scene.name), *shapes])
    if scene.href is None:
        return tag("g", inside)
    return tag("a", inside, href=scene.href)
