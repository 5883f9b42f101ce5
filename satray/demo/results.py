"""What the demo found, and how it says so."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from satray.demo.plans import CLASS
from satray.demo.pointing import Score
from satray.demo.scene_ships import Found
from satray.metrics.summary import said
from satray.runs.jsonable import finite

WIDTH = 100
"""Columns of the tables (characters)."""


@dataclass(frozen=True)
class Result:
    """One network, measured on tiles that it did not learn from."""

    name: str
    """The network."""
    tiles: int
    """Tiles measured."""
    accuracy: float
    """Share of right yes-or-no answers, over tiles and classes."""
    majority: float
    """The same, for always answering what is more frequent."""
    map: float
    """Mean average precision over the classes."""
    prevalence: float
    """The same by chance: the mean share of tiles that hold a class."""
    auc: float
    """Area under the ROC curve of the class pointed at; 0.5 by chance."""
    pointing: Score
    """Peaks of the maps against ships."""
    scene: Found
    """Detections in the scene against its ships."""

    def to_dict(self) -> dict[str, object]:
        """As JSON holds it: null for what is not defined."""
        rates = {"rate": self.pointing.rate, "chance": self.pointing.chance}
        return {
            **finite(asdict(self)),
            "pointing": finite({**asdict(self.pointing), **rates}),
            "scene": self.scene.to_dict(),
        }


def result_lines(results: Sequence[Result]) -> list[str]:
    """The measured figures, each beside what it takes to do nothing."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="")
    table.add_column(f"on {results[0].tiles} tiles set apart\n")
    for title, beside in (
        ("accuracy", "(majority)"),
        ("mAP", "(by chance)"),
        (f"{CLASS} AUC", "(by chance)"),
        (f"map's peak on a {CLASS}", "(by chance)"),
    ):
        table.add_column(f"{title}\n{beside}", justify="right")
    for one in results:
        game = one.pointing
        table.add_row(
            one.name,
            f"{said(one.accuracy, 3)} ({said(one.majority, 3)})",
            f"{said(one.map, 3)} ({said(one.prevalence, 3)})",
            f"{said(one.auc, 3)} (0.500)",
            f"{game.hits} of {game.tiles} ({game.expected:.1f} ± {game.spread:.1f})",
        )
    return _lines(table)


def seconds_lines(
    steps: Mapping[str, float], inside: Mapping[str, Mapping[str, float]]
) -> list[str]:
    """Wall seconds of each step, and where the longest parts of it went."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="")
    table.add_column("step")
    table.add_column("seconds", justify="right")
    table.add_column("of which")
    for name, spent in steps.items():
        parts = [
            (activity, part)
            for activity, part in inside.get(name, {}).items()
            # Seconds of all processes add up to more than the wall's.
            if activity != "total" and "all processes" not in activity and part >= 0.05
        ]
        longest = sorted(parts, key=lambda pair: -pair[1])[:4]
        said = ", ".join(f"{activity} {part:.1f}" for activity, part in longest)
        table.add_row(name, f"{spent:.1f}", said)
    return _lines(table)


def _lines(table: object) -> list[str]:
    from rich.console import Console

    sink = io.StringIO()
    Console(file=sink, width=WIDTH, color_system=None).print(table)
    return [line.rstrip() for line in sink.getvalue().splitlines()]
