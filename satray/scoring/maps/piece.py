"""What a unit of work gives: maps, numbers of tiles and a part of the picture; one file.

Legend: K classes, k classes mapped, h x w cells, N tiles, C bands shown.
"""

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from satray.errors import SatrayError
from satray.scoring.dense.by_tile import Patch
from satray.scoring.forward import CamKind
from satray.scoring.maps.coverage import GapPart
from satray.scoring.predictions import Numbers


@dataclass(frozen=True)
class Strip:
    """Whole rows of one tower's map, from windows."""

    row: int
    """First row of cells."""
    maps: Mapping[CamKind, NDArray[np.float32]]
    """Kind -> (k, h, w)."""


@dataclass(frozen=True)
class TileRows:
    """Whole rows of the scene's tiles, in row order."""

    start: int
    """First row of tiles."""
    numbers: Numbers
    """N rows."""
    scored: NDArray[np.bool_]
    """(N,) False where too little of the tile has data."""


@dataclass(frozen=True)
class PicturePart:
    """Whole rows of the scene's picture."""

    row: int
    """First of them."""
    pixels: NDArray[np.float32]
    """(C, h, w)."""
    valid: NDArray[np.bool_]
    """(h, w)."""


@dataclass(frozen=True)
class PieceOfWork:
    """All that a unit gives."""

    strips: Mapping[str, tuple[Strip, ...]]
    """Tower -> strips, from above; of windows."""
    patches: Mapping[str, tuple[Patch, ...]]
    """Tower -> patches, in order; of tiles one by one."""
    tiles: tuple[TileRows, ...]
    """From above."""
    picture: tuple[PicturePart, ...]
    """From above."""
    gaps: tuple[GapPart, ...]
    """Px without data, by cell of the finest map."""
    seconds: Mapping[str, float]
    """By activity."""
    px: int
    """Net px that forwards looked at."""


def to_bytes(piece: PieceOfWork) -> bytes:
    """Encode."""
    arrays: dict[str, NDArray[Any]] = {}
    for tower, strips in piece.strips.items():
        for n, strip in enumerate(strips):
            for kind, values in strip.maps.items():
                arrays[f"strip/{tower}/{n:06d}/{strip.row}/{kind}"] = values
    for tower, patches in piece.patches.items():
        for n, patch in enumerate(patches):
            base = f"patch/{tower}/{n:06d}/{patch.row}/{patch.col}"
            arrays[f"{base}/weights"], arrays[f"{base}/data"] = patch.weights, patch.data
            for kind, values in patch.sums.items():
                arrays[f"{base}/{kind}"] = values
    for n, rows in enumerate(piece.tiles):
        base, numbers = f"tiles/{n:06d}/{rows.start}", rows.numbers
        arrays[f"{base}/scored"], arrays[f"{base}/logits"] = rows.scored, numbers.logits
        arrays[f"{base}/scores"], arrays[f"{base}/preds"] = numbers.scores, numbers.preds
        for tower, values in numbers.shares.items():
            arrays[f"{base}/share/{tower}"] = values
    for n, part in enumerate(piece.picture):
        base = f"picture/{n:06d}/{part.row}"
        arrays[f"{base}/pixels"], arrays[f"{base}/valid"] = part.pixels, part.valid
    for n, gap in enumerate(piece.gaps):
        arrays[f"gaps/{n:06d}/{gap.row}"] = gap.counts
    for name, spent in {**piece.seconds, "px": float(piece.px)}.items():
        arrays[f"figure/{name}"] = np.float64(spent)  # type: ignore[assignment]
    sink = io.BytesIO()
    np.savez(sink, **arrays)  # type: ignore[arg-type]
    return sink.getvalue()


def from_bytes(data: bytes, name: str) -> PieceOfWork:
    """Decode.

    Args:
        data: of `to_bytes`.
        name: where they are from, for messages.

    Raises:
        SatrayError: something else.
    """
    tree: dict[str, Any] = {}
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            for key in file.files:
                node = tree
                *parents, last = key.split("/")
                for part in parents:
                    node = node.setdefault(part, {})
                node[last] = file[key]
        return _piece(tree)
    except (ValueError, KeyError, OSError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise SatrayError(f"{name}: not a piece that satray wrote; remove it and rerun") from error


def _piece(tree: dict[str, Any]) -> PieceOfWork:
    strips = {
        tower: tuple(Strip(int(row), maps) for _, by in _ordered(found) for row, maps in by.items())
        for tower, found in tree.get("strip", {}).items()
    }
    patches = {
        tower: tuple(
            _patch(int(row), int(col), dict(values))
            for _, rows in _ordered(found)
            for row, cols in rows.items()
            for col, values in cols.items()
        )
        for tower, found in tree.get("patch", {}).items()
    }
    tiles = tuple(
        TileRows(
            int(start),
            Numbers(v["logits"], v["scores"], v["preds"], v.get("share", {})),
            v["scored"],
        )
        for _, by in _ordered(tree.get("tiles", {}))
        for start, v in by.items()
    )
    picture = tuple(
        PicturePart(int(row), v["pixels"], v["valid"])
        for _, by in _ordered(tree.get("picture", {}))
        for row, v in by.items()
    )
    gaps = tuple(
        GapPart(int(row), counts)
        for _, by in _ordered(tree.get("gaps", {}))
        for row, counts in by.items()
    )
    figures = {name: float(value) for name, value in tree["figure"].items()}
    px = int(figures.pop("px"))
    return PieceOfWork(strips, patches, tiles, picture, gaps, figures, px)


def _patch(row: int, col: int, values: dict[str, Any]) -> Patch:
    weights, data = values.pop("weights"), values.pop("data")
    return Patch(row, col, values, weights, data)  # type: ignore[arg-type]


def _ordered(found: dict[str, Any]) -> list[tuple[str, Any]]:
    return sorted(found.items())
