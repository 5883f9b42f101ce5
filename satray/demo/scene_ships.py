"""Detections in a scene against the ships that are there: precision, recall, ground error.

A detection finds a ship where it lies within the ship's box, widened by half a cell of the map as
in the pointing game. Likeliest first, each takes the nearest ship that nobody has found yet; a
second point on a ship is a false one.
"""

import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import hypot

import numpy as np
import pyarrow.parquet as pq

from satray.demo.plans import CLASS, SCENE
from satray.demo.pointing import Box, covered
from satray.runs.jsonable import finite
from satray.scoring.products.names import detections_name
from satray.storage import Storage, join

FILE, SHIPS = "scene.tif", "scene-ships.geojson"
"""Of the archive."""


@dataclass(frozen=True)
class Found:
    """A scene's detections, measured."""

    ships: int
    """Ships in the scene."""
    detections: int
    """Points found."""
    hits: int
    """Points that found a ship, and ships that were found."""
    chance: float
    """Share of the scene that the widened boxes cover: the precision of random points."""
    error_px: float
    """Median distance of those from the middle of their ship, px; NaN without hits."""

    @property
    def precision(self) -> float:
        """Hits a detection; NaN without detections."""
        return self.hits / self.detections if self.detections else float("nan")

    @property
    def recall(self) -> float:
        """Ships found of all; NaN without ships."""
        return self.hits / self.ships if self.ships else float("nan")

    def to_dict(self) -> dict[str, object]:
        """As JSON holds it: null for what is not defined."""
        told = {**asdict(self), "precision": self.precision, "recall": self.recall}
        return {name: finite(value) for name, value in told.items()}

    def line(self) -> str:
        """For a person."""
        return (
            f"{CLASS}s in the scene: {self.hits} of {self.ships} found by {self.detections} "
            f"points (precision {self.precision:.2f}, {self.chance:.2f} by chance; recall "
            f"{self.recall:.2f}), {self.error_px:.1f} px off in the median"
        )


def match(
    row: Sequence[float],
    col: Sequence[float],
    score: Sequence[float],
    boxes: Sequence[Box],
    slack: float,
    shape: tuple[int, int],
) -> Found:
    """Match N detections with M ships.

    Args:
        row: (N,) of the detections, px of the scene.
        col: (N,) likewise.
        score: (N,) the likeliest chooses first.
        boxes: of the ships.
        slack: how far boxes are widened on every side, px.
        shape: height and width of the scene, px.
    """
    wide = [(a - slack, b - slack, c + slack, d + slack) for a, b, c, d in boxes]
    free, errors = set(range(len(boxes))), []
    for n in sorted(range(len(score)), key=lambda n: -score[n]):
        y, x = row[n], col[n]
        near = [
            (hypot(y - (boxes[m][0] + boxes[m][2]) / 2, x - (boxes[m][1] + boxes[m][3]) / 2), m)
            for m in free
            if wide[m][0] <= y <= wide[m][2] and wide[m][1] <= x <= wide[m][3]
        ]
        if near:
            error, ship = min(near)
            free.discard(ship)
            errors.append(error)
    return Found(
        ships=len(boxes),
        detections=len(score),
        hits=len(errors),
        chance=covered(wide, *shape),
        error_px=float(np.median(errors)) if errors else float("nan"),
    )


def measure(storage: Storage, out: str, archive: str, cell: float) -> Found:
    """Measure what a score run found in the demo's scene.

    Args:
        storage: how both are reached.
        out: the score run's folder.
        archive: folder of the scene and its ships.
        cell: side of a map's cell, px.
    """
    data = storage.read(join(out, detections_name(FILE, "parquet")))
    table = pq.read_table(io.BytesIO(data), columns=["class", "score", "row", "col"])
    rows = [one for one in table.to_pylist() if one["class"] == CLASS]
    row, col, score = ([one[name] for one in rows] for name in ("row", "col", "score"))
    truth = json.loads(storage.read(join(archive, SHIPS)))
    boxes: list[Box] = [tuple(f["properties"]["box_px"]) for f in truth["features"]]
    return match(row, col, score, boxes, cell / 2, (SCENE, SCENE))
