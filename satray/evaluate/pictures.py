"""Pictures of picked tiles, each with the map of the class that it is shown for.

Only these tiles are read again, and forwarded in the driver: a few hundred, whatever the split.

Legend: C bands, H x W pixels, h x w cells.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray

from satray.data.bands import select
from satray.data.decode import read_files, read_pixels
from satray.data.index import IndexMeta
from satray.data.values import as_units
from satray.errors import DecodeError
from satray.evaluate.picks import Pick
from satray.models.geometry import cam_transform, centred
from satray.storage import Storage

if TYPE_CHECKING:  # they import torch
    from satray.models.bundle import Bundle
    from satray.models.spec import BundleSpec

AT_ONCE = 16
"""Tiles in memory."""
LOW, HIGH = "2", "98"
"""Percentiles of the index that become black and white where pixels are not 8-bit."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Looks:
    """How stored pixels are shown."""

    bands: tuple[int, ...]
    """Positions of the bands shown, in the files: red, green, blue; or one, as gray."""
    limits: tuple[tuple[float, float], ...] | None
    """Stored value of each band that is black, and white; None: from the first tiles."""


@dataclass
class _Seen:
    """One tile that was read and forwarded."""

    colours: NDArray[np.uint8]
    """(H, W, 3), small."""
    evidence: dict[int, Floats]
    """Class -> evidence on the pixels (H, W), in logit units; empty without maps."""


def looks_of(meta: IndexMeta) -> Looks:
    """Red, green, blue where the tiles have them; else the first three bands, or the first."""
    if {"red", "green", "blue"} <= set(meta.bands):
        bands = select(meta.bands, ("red", "green", "blue"))
    else:
        bands = (0, 1, 2) if len(meta.bands) >= 3 else (0,)
    if meta.dtype == "uint8":
        return Looks(bands, ((0.0, 255.0),) * len(bands))
    known = {band.name: band.percentiles for band in meta.statistics}
    found = [known.get(meta.bands[i], {}) for i in bands]
    if all(LOW in p and HIGH in p for p in found):
        return Looks(bands, tuple((p[LOW], p[HIGH]) for p in found))
    return Looks(bands, None)


def render(
    picks: Sequence[Pick],
    uris: Sequence[str],
    masked: Sequence[bool | None],
    meta: IndexMeta,
    bundle: "Bundle",
    storage: Storage,
    *,
    d4: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[tuple[int, int], bytes]:
    """Draw picked tiles.

    Args:
        picks: what to show.
        uris: where the tile of each row is.
        masked: whether a `.msk` lies beside it.
        meta: the index's bands, dtype and statistics.
        bundle: on the device that is to compute.
        storage: where the tiles are.
        d4: maps averaged over the eight symmetries.
        progress: told how far it is.

    Returns:
        (row, class) -> JPEG: the tile, and beside it where the class comes from, bright for
        evidence in favour, one scale a class. The tile alone where the head is dense. Tiles that
        cannot be read any more are left out.
    """
    from satray.report.tiles import thumbnail

    wanted: dict[int, list[int]] = {}
    for pick in picks:
        wanted.setdefault(pick.row, []).append(pick.klass)
    seen = dict(_see(wanted, uris, masked, meta, bundle, storage, d4, progress))
    tops: dict[int, float] = {}
    for tile in seen.values():
        for klass, evidence in tile.evidence.items():
            tops[klass] = max(tops.get(klass, 0.0), float(evidence.max()))
    pictures = {}
    for row, tile in seen.items():
        for klass in wanted[row]:
            evidence_HW = tile.evidence.get(klass)
            if evidence_HW is not None:
                evidence_HW = np.clip(evidence_HW, 0, None) / (tops[klass] or 1.0)
            pictures[row, klass] = thumbnail(tile.colours, evidence_HW)
    return pictures


def cells_on_picture(
    spec: "BundleSpec", tower: str, across: int, height: int, width: int, *, d4: bool = False
) -> Affine:
    """The affine from a tower's cell corners to the pixel corners of a picture.

    Args:
        spec: the bundle's.
        tower: whose cells.
        across: how many of them a side.
        height: rows of the picture, which shows the whole tile (px).
        width: columns of the picture (px).
        d4: whether the map is a mean over the tile's symmetries.
    """
    tall, wide = spec.tile_shape
    shown = Affine.scale(width / wide, height / tall)
    geometry = spec.preprocess().geometry(tall, wide)
    grid = spec.grids[tower]
    if d4:
        grid = centred(grid, geometry.size, across)
    return cam_transform(shown, geometry, grid)


def _see(
    wanted: dict[int, list[int]],
    uris: Sequence[str],
    masked: Sequence[bool | None],
    meta: IndexMeta,
    bundle: "Bundle",
    storage: Storage,
    d4: bool,
    progress: Callable[[str], None],
) -> Iterator[tuple[int, _Seen]]:
    """Read and forward tiles, a few at a time."""
    from satray.report.tiles import shrunk, stretched
    from satray.scoring.forward import MapRequest, Scorer

    spec = bundle.spec
    looks = looks_of(meta)
    linear = spec.variant.head == "linear"
    classes = sorted({klass for some in wanted.values() for klass in some})
    scorer = Scorer(bundle, MapRequest(tuple(classes)), AT_ONCE, d4=d4) if linear else None
    take = select(meta.bands, spec.bands)
    rows, limits = sorted(wanted), looks.limits
    for start in range(0, len(rows), AT_ONCE):
        progress(f"pictures of {start:,} of {len(rows):,} tiles")
        some = rows[start : start + AT_ONCE]
        bands = (*take, *looks.bands)
        read = _read(some, uris, masked, bands, meta, spec, storage)
        if not read:
            continue
        pixels_NCHW = np.stack(list(read.values()))
        shown_NCHW = pixels_NCHW[:, len(take) :]
        if limits is None:
            limits = _limits(shown_NCHW)
        maps = scorer(pixels_NCHW[:, : len(take)]).maps if scorer is not None else {}
        for n, row in enumerate(read):
            low, high = zip(*limits, strict=True)
            colours = shrunk(stretched(shown_NCHW[n], low, high))
            towers = {name: values[n] for name, values in maps.items()}
            evidence = {
                klass: _laid(spec, towers, classes.index(klass), colours.shape[:2], d4)
                for klass in (wanted[row] if towers else ())
            }
            yield row, _Seen(colours, evidence)


def _laid(
    spec: "BundleSpec",
    towers: dict[str, NDArray[np.float32]],
    place: int,
    shape: tuple[int, ...],
    d4: bool,
) -> Floats:
    """Evidence of all towers together on the pixels of a picture."""
    from satray.report.tiles import on_pixels

    height, width = shape
    parts = [
        on_pixels(
            values[place],
            cells_on_picture(spec, name, values.shape[-1], height, width, d4=d4),
            height,
            width,
        )
        for name, values in towers.items()
    ]
    total: Floats = np.sum(parts, axis=0)
    return total


def _read(
    rows: Sequence[int],
    uris: Sequence[str],
    masked: Sequence[bool | None],
    take: tuple[int, ...],
    meta: IndexMeta,
    spec: "BundleSpec",
    storage: Storage,
) -> dict[int, NDArray[Any]]:
    """Pixels by row, in the shape that the bundle was trained on; unreadable ones left out.

    The first bands taken are the bundle's, in its units; the others in the index's.
    """
    height, width = spec.tile_shape
    stated = meta.units_of([meta.bands[i] for i in take])
    own = as_units(spec.units) or (None,) * len(spec.bands)
    units = (*own, *(stated or (None,) * len(take))[len(own) :])
    found: dict[int, NDArray[Any]] = {}
    some = [uris[row] for row in rows], [masked[row] for row in rows]
    for i, data, mask in read_files(storage, *some):
        if isinstance(data, Exception):
            continue
        try:
            found[rows[i]] = read_pixels(
                data,
                take,
                height,
                width,
                spec.dtype,
                units=units,
                stated=stated,
                pages=meta.pages,
                named=meta.count_named,
                mask=mask,
            )
        except DecodeError:
            continue
    return {row: found[row] for row in rows if row in found}


def _limits(shown_NCHW: NDArray[Any]) -> tuple[tuple[float, float], ...]:
    """2nd and 98th percentile of each band."""
    x_CN = np.moveaxis(shown_NCHW.astype(np.float64), 1, 0).reshape(shown_NCHW.shape[1], -1)
    ends = np.nanpercentile(x_CN, (2, 98), axis=1)
    return tuple((float(low), float(high)) for low, high in ends.T)
