"""What range tests found: kept in a run's state, told to the person, written as products."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from satray.report.landscape import Panel, landscape
from satray.train.landscape.range_test import Curve, Name, Suggestions, choose, median, suggest

NAMES: tuple[Name, ...] = ("valley", "steep", "minimum")


@dataclass(frozen=True)
class Finding:
    """The range test of one trainable part."""

    stages: tuple[int, ...]
    """The recipe's stages that it speaks for, 0 for the first."""

    trainable: str
    """What was trained."""

    curves: tuple[Curve, ...]
    """One a seed."""

    suggestion: Name
    """Which suggestion is taken."""

    @property
    def by_seed(self) -> tuple[Suggestions, ...]:
        """What each curve suggests; raises TrainingError."""
        return tuple(suggest(curve) for curve in self.curves)

    @property
    def suggestions(self) -> Suggestions:
        """The median over the seeds."""
        return median(self.by_seed)

    @property
    def learning_rate(self) -> float:
        """What `auto` takes."""
        return choose(self.suggestions, self.suggestion)

    @property
    def where(self) -> str:
        """The stages in words."""
        numbers = ", ".join(str(number) for number in self.stages)
        return f"stages[{numbers}] ({self.trainable})"

    def line(self) -> str:
        """All that matters in one line."""
        found = self.suggestions
        told = ", ".join(f"{name} {found.of(name):.2g}" for name in NAMES)
        seeds = f"median of {len(self.curves)} seeds" if len(self.curves) > 1 else "one seed"
        kept = "" if self.learning_rate == found.of(self.suggestion) else ", kept within bounds"
        return (
            f"range test of {self.where}: {told} ({seeds}); learning rate "
            f"{self.learning_rate:.3g} by {self.suggestion}{kept}"
        )

    def figures(self) -> dict[str, Any]:
        """For metrics.json: rates found, not the curves."""
        low, high = self.suggestions.bounds
        return {
            "stages": list(self.stages),
            "trainable": self.trainable,
            "learning_rate": self.learning_rate,
            "suggestion": self.suggestion,
            "bounds": [low, high],
            **asdict(self.suggestions),
            "seeds": [asdict(each) for each in self.by_seed],
        }


def to_bytes(findings: Sequence[Finding]) -> bytes:
    """Findings as JSON."""
    return json.dumps([asdict(finding) for finding in findings]).encode()


def from_bytes(data: bytes) -> tuple[Finding, ...]:
    """Undo `to_bytes`."""

    def curve(plain: dict[str, Any]) -> Curve:
        rates, losses, smoothed = (
            tuple(plain[name]) for name in ("learning_rates", "losses", "smoothed")
        )
        return Curve(rates, losses, smoothed, plain["steps"])

    return tuple(
        Finding(
            stages=tuple(plain["stages"]),
            trainable=plain["trainable"],
            curves=tuple(curve(each) for each in plain["curves"]),
            suggestion=plain["suggestion"],
        )
        for plain in json.loads(data)
    )


def picture(findings: Sequence[Finding], title: str) -> bytes:
    """`landscape.png`."""
    panels = [
        Panel(
            title=finding.where,
            curves=[(c.learning_rates, c.losses, c.smoothed) for c in finding.curves],
            suggestions={name: finding.suggestions.of(name) for name in NAMES},
            chosen=finding.learning_rate,
        )
        for finding in findings
    ]
    return landscape(panels, title)


def parquet(finding: Finding) -> tuple[bytes, int]:
    """`landscape.parquet` (seed, step, learning_rate, loss, smoothed), and its rows."""
    columns: dict[str, list[Any]] = {
        name: [] for name in ("seed", "step", "learning_rate", "loss", "smoothed")
    }
    for seed, curve in enumerate(finding.curves):
        columns["seed"] += [seed] * len(curve.losses)
        columns["step"] += range(len(curve.losses))
        columns["learning_rate"] += curve.learning_rates
        columns["loss"] += curve.losses
        columns["smoothed"] += curve.smoothed
    sink = io.BytesIO()
    table = pa.table(columns)
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue(), table.num_rows
