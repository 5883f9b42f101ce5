"""Which part of a split each tile goes to: train, val or test. Pure in the rows and the seed.

A split by column, rows or groups is drawn over all rows of the label table in their order, whether
or not an image is there, so that a published split can be had again from the table alone. A split
by ground is drawn over tiles, by blocks of the ground they lie on.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from satray.config.prepare import SplitOptions
from satray.data.georeference import lonlat
from satray.data.index import PARTS
from satray.data.label_table import refuse_absent
from satray.data.labels import PARTS_BY_WORD, LabelTable
from satray.errors import InputError, listed

EARTH = 6_371_000.0
"""Mean radius of the Earth, m."""

MEET = 0.01
"""Tiles that lie this share of a px apart touch: corners are rounded sums."""


def assign_parts(labels: LabelTable, options: SplitOptions) -> NDArray[np.int8]:
    """The part of each label row, as its place in PARTS, by its column or by a draw.

    Under `split.by=auto` nothing that was asked for is passed over: a column that was named must
    be there, and where the column is, nothing may be said of a draw.

    Raises:
        InputError: the column is absent or holds other words; it cuts a group; the draw cannot be
            made; under `auto`, the column is there and a draw was described too.
    """
    fields, by, there = type(options).model_fields, options.by, options.column in labels.columns
    asked = [name for name in fields if getattr(options, name) != fields[name].default]
    draws = [name for name in asked if name in ("val", "test", "seed", "stratify")]
    if by == "auto" and there and draws:
        raise InputError(
            f"split.{draws[0]}={getattr(options, draws[0])}: of no use where {labels.name} has the "
            f"column {options.column!r}; accepted: split.by=column (take it), split.by=draw (draw "
            "one)"
        )
    groups_N = None if options.group is None else _groups(labels, options.group)
    if by == "draw" or (by == "auto" and not there and "column" not in asked):
        return _draw(labels.labels, labels.task, options, groups_N)
    cells = _cells(labels, options.column, "split.column")
    words = {cell: (cell or "an empty cell").lower() for cell in cells}
    for row, word in enumerate(map(words.__getitem__, cells)):
        if word not in PARTS_BY_WORD:
            raise InputError(
                f"split.column: {labels.name}, row {row + 1} ({labels.keys[row]}): column "
                f"{options.column!r} holds {word!r}; accepted are {listed(PARTS_BY_WORD)} "
                "(split.by=draw draws a split instead)"
            )
    parts_N = np.array([PARTS.index(PARTS_BY_WORD[words[cell]]) for cell in cells], np.int8)
    side: dict[int, int] = {}
    for row, group in enumerate([] if groups_N is None else groups_N.tolist()):
        if (first := side.setdefault(group, parts_N[row])) != parts_N[row]:
            cell = labels.columns[str(options.group)][row]
            raise InputError(
                f"split.group: {labels.name} has {options.group}={cell!r} in both {PARTS[first]} "
                f"and {PARTS[parts_N[row]]} by its split column; drop split.group, or say "
                "split.by=draw"
            )
    return parts_N


def split_by_ground(
    labels_NK: NDArray[np.uint8], task: str, blocks_N: NDArray[np.int64], options: SplitOptions
) -> NDArray[np.int8]:
    """The part of each tile, as its place in PARTS; tiles of one block of ground go to one.

    Args:
        labels_NK: (N, K) uint8, 0 or 1.
        task: binary, multilabel or multiclass.
        blocks_N: (N,) int64, number of the block each tile lies in (`ground_blocks`).
        options: keys val, test, seed, stratify and block.

    Raises:
        InputError: blocks too large or too few to make the parts.
    """
    return _draw(labels_NK, task, options, blocks_N)


@dataclass(frozen=True)
class Footprints:
    """Where N tiles lie, in numbers."""

    names: tuple[str, ...]
    """The CRSs there are: authority strings or WKT."""
    crs: NDArray[np.int64]
    """(N,) number of each tile's CRS; -1 where it lacks a CRS or a transform."""
    affines: NDArray[np.float64]
    """(N, 6) affine px -> CRS in rasterio's order; NaN without."""
    shapes: NDArray[np.int64]
    """(N, 2) rows and columns, px."""

    @classmethod
    def of_table(cls, table: pa.Table) -> "Footprints":
        """From columns crs, transform, height and width, as of the tile index."""
        transform = table["transform"].combine_chunks()
        placed = transform.is_valid()
        crs = pc.if_else(placed, table["crs"].combine_chunks(), None).dictionary_encode()
        affines_N6 = np.full((len(table), 6), np.nan)
        affines_N6[np.asarray(placed)] = np.asarray(transform.drop_null().flatten()).reshape(-1, 6)
        return cls(
            names=tuple(crs.dictionary.to_pylist()),
            crs=np.asarray(crs.indices.fill_null(-1), np.int64),
            affines=affines_N6,
            shapes=np.stack([np.asarray(table[name]) for name in ("height", "width")], axis=1),
        )

    @property
    def known(self) -> NDArray[np.bool_]:
        """(N,) whether a tile has a CRS and a transform."""
        return np.asarray(self.crs >= 0)

    def places(
        self, rows: NDArray[np.int64], down: Sequence[float], along: Sequence[float]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Coordinates in the CRS, (M, P) each, at shares of some tiles' rows and columns."""
        a, b, c, d, e, f = self.affines[rows].T[:, :, None]
        height, width = self.shapes[rows].T[:, :, None]
        x, y = width * np.asarray(along), height * np.asarray(down)
        return a * x + b * y + c, d * x + e * y + f


def ground_blocks(tiles: Footprints, size: float) -> NDArray[np.int64]:
    """The block of ground that the centre of each tile lies in, whatever the CRS.

    Blocks are `size` m high and wide: bands of latitude, cut into equal lengths from Greenwich
    east (the last of a band may be shorter).

    Args:
        tiles: N tiles.
        size: edge of a block, m.

    Returns:
        (N,) int64, numbers from 0 in order of place; -1 for tiles without a place on the ground.
    """
    lon_N, lat_N = np.full((2, len(tiles.crs)), np.nan)
    for number, name in enumerate(tiles.names):
        rows = np.flatnonzero(tiles.crs == number)
        x, y = tiles.places(rows, [0.5], [0.5])
        lon_N[rows], lat_N[rows] = lonlat(name, x[:, 0], y[:, 0])
    known_N = np.isfinite(lon_N) & np.isfinite(lat_N)
    band = np.floor(np.radians(lat_N[known_N] + 90) * EARTH / size)
    middle = (band + 0.5) * size / EARTH - np.pi / 2
    east = np.radians(lon_N[known_N] % 360) * np.maximum(np.cos(middle), 0) * EARTH
    blocks_N = np.full(len(tiles.crs), -1, np.int64)
    places = np.stack([band, np.floor(east / size)], axis=1)
    blocks_N[known_N] = np.unique(places, axis=0, return_inverse=True)[1].reshape(-1)
    return blocks_N


def count_meeting(
    tiles: Footprints, these_N: NDArray[np.bool_], others_N: NDArray[np.bool_]
) -> int:
    """How many of some tiles touch or overlap at least one of others in the same CRS.

    Args:
        tiles: N tiles; those without a place meet none.
        these_N: (N,) bool, the tiles to count.
        others_N: (N,) bool, those they may meet.
    """
    import shapely  # for tiles with a place only

    def outlines(rows: NDArray[np.int64]) -> NDArray[np.object_]:
        x, y = tiles.places(rows, [0, 0, 1, 1], [0, 1, 1, 0])
        polygons: NDArray[np.object_] = shapely.polygons(np.stack([x, y], axis=-1))
        return polygons

    found = 0
    for number in range(len(tiles.names)):
        rows = np.flatnonzero(tiles.crs == number)
        these, others = rows[these_N[rows]], rows[others_N[rows]]
        a, b, _, d, e, _ = tiles.affines[these].T
        near = MEET * np.minimum(np.hypot(a, d), np.hypot(b, e))
        tree = shapely.STRtree(outlines(others))
        met = tree.query(outlines(these), predicate="dwithin", distance=near)
        found += len(np.unique(met[0]))
    return found


def _groups(labels: LabelTable, column: str) -> NDArray[np.int64]:
    """(N,) number of each row's group, by first appearance."""
    cells = _cells(labels, column, "split.group")
    if None in cells:
        row = cells.index(None)
        raise InputError(
            f"split.group: {labels.name}, row {row + 1} ({labels.keys[row]}): column {column!r} is "
            "empty; every tile needs a group"
        )
    number = {cell: n for n, cell in enumerate(dict.fromkeys(cells))}
    return np.array([number[cell] for cell in cells], np.int64)


def _cells(labels: LabelTable, column: str, key: str) -> tuple[str | None, ...]:
    if column not in labels.columns:
        have, found = (*labels.columns, *labels.passed_over), f"{key}: {labels.name} has no column"
        refuse_absent(column, have, found, "columns beside key and classes")
    return labels.columns[column]


def _draw(
    labels_NK: NDArray[np.uint8],
    task: str,
    options: SplitOptions,
    groups_N: NDArray[np.int64] | None,
) -> NDArray[np.int8]:
    """Draw val and test; the rest is train.

    Plain: the permutation of scikit-learn's `train_test_split(random_state=seed)`; val is its
    first rows (the whole test side where test=0), test the next. Shares are rounded up, as there.
    Stratified, one class a tile: `train_test_split(stratify=...)` itself, test taken off first.
    Stratified, multilabel: iterative, rarest class first (Sechidis et al. 2011).
    Whole groups: in the order of a permutation, while they bring a part nearer its size; and
    stratified by the same iteration as multilabel tiles (scikit-learn's StratifiedGroupKFold takes
    neither several labels a tile nor shares other than one of k).
    `groups_N` has the number, from 0, of each row's group.
    """
    n, seed = len(labels_NK), options.seed
    n_val, n_test = (
        int(size) if size >= 1 else math.ceil(size * n) for size in (options.val, options.test)
    )
    if n_val + n_test >= n or any(v >= 1 and v != int(v) for v in (options.val, options.test)):
        raise InputError(
            f"split.val={options.val:g}, split.test={options.test:g} of {n} tiles; accepted: "
            "shares below 1 or whole numbers of tiles, which leave one at least for train"
        )
    sizes = (n - n_val - n_test, n_val, n_test)
    if groups_N is not None:
        sizes_G = np.bincount(groups_N)
        if options.stratify:
            totals_GK = np.zeros((len(sizes_G), labels_NK.shape[1] + 2), np.int64)
            np.add.at(totals_GK, groups_N, _strata(labels_NK))
            part_G = _iterative(totals_GK, sizes, seed)
        else:
            part_G = _whole_groups(sizes_G, n_val, n_test, seed)
        for number, target in ((0, 1), (1, n_val), (2, n_test)):
            if target and not (part_G == number).any():
                said = f"group={options.group} gives {len(sizes_G)} groups"
                if options.by == "ground":
                    said = f"block={options.block:g} gives {len(sizes_G)} blocks of ground"
                raise InputError(
                    f"split.{said} of {sizes_G.min()} to {sizes_G.max()} tiles; none can make a "
                    f"{PARTS[number]} part of about {target}"
                )
        part_N = part_G[groups_N]
    elif options.stratify and task == "multilabel":
        part_N = _iterative(_strata(labels_NK), sizes, seed)
    else:
        part_N = np.zeros(n, np.int8)
        rows = np.arange(n, dtype=np.int64)
        if options.stratify:
            y_N = labels_NK[:, 0] if task == "binary" else labels_NK.argmax(axis=1)
            rest, test = _take(rows, n_test, seed, y_N)
            _, val = _take(rest, n_val, seed, y_N)
        else:
            _, held = _take(rows, n_val + n_test, seed)
            val, test = held[:n_val], held[n_val:]
        part_N[val], part_N[test] = 1, 2
    return part_N.astype(np.int8)


def _take(
    rows: NDArray[np.int64], count: int, seed: int, strata_N: NDArray[np.generic] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cut `count` rows off by scikit-learn's draw: those left, and those taken in its order."""
    if count == 0:
        return rows, rows[:0]
    from sklearn.model_selection import train_test_split  # slow to import

    strata = None if strata_N is None else strata_N[rows]
    try:
        rest, taken = train_test_split(rows, test_size=count, random_state=seed, stratify=strata)
    except ValueError as error:
        raise InputError(f"split.stratify: {str(error).splitlines()[0]}") from error
    return rest, taken


def _whole_groups(
    sizes_G: NDArray[np.int64], n_val: int, n_test: int, seed: int
) -> NDArray[np.int64]:
    """(G,) number of the part of each group."""
    order = np.random.RandomState(seed).permutation(len(sizes_G)).tolist()
    part_G = np.zeros(len(sizes_G), np.int64)
    left = len(order)
    for number, target in ((1, n_val), (2, n_test)):
        have = 0
        for group in order:
            nearer = abs(have + sizes_G[group] - target) < abs(have - target)
            if part_G[group] == 0 and left > 1 and nearer:  # one group at least is left for train
                part_G[group] = number
                have += int(sizes_G[group])
                left -= 1
    return part_G


def _strata(labels_NK: NDArray[np.uint8]) -> NDArray[np.int64]:
    """(N, K + 2): classes, tiles of no class as one more, and 1 of every tile, for sizes."""
    none_N = ~labels_NK.any(axis=1)
    return np.column_stack([labels_NK, none_N, np.ones(len(labels_NK))]).astype(np.int64)


def _iterative(
    totals_GK: NDArray[np.int64], sizes: tuple[int, ...], seed: int
) -> NDArray[np.int64]:
    """Iterative stratification of tiles, with exact part sizes, or of groups, as near as they go.

    The order is that of Algorithm 1 of Sechidis, Tsoumakas and Vlahavas, 'On the stratification of
    multi-label data' (2011): the class with fewest tiles left to place goes first, here its large
    groups before small ones. The choice differs: with sizes kept exact, theirs (the part that wants
    this class most) leaves the last class off by what all others drifted. Here a group goes where
    it most lowers the sum, over its classes and the part's size, of
    (number wanted and not yet had)^2 / number wanted.
    `totals_GK` has the tiles of each class in each group, in its last column all of them; `sizes`
    are those of P parts. Gives the number of each group's part.
    """
    rng = np.random.RandomState(seed)
    size_G = totals_GK[:, -1]
    n = int(size_G.sum())
    want_PK = np.array(sizes, np.float64)[:, None] / n * totals_GK.sum(axis=0)
    weight_PK = 1 / np.maximum(want_PK, 1e-9)
    open_G = np.ones(len(totals_GK), bool)
    part_G = np.full(len(totals_GK), -1, np.int64)
    while open_G.any():
        left_K = totals_GK[open_G].sum(axis=0)
        left_K[-1] = n + 1  # the size is no class to go by
        rarest = int(np.where(left_K > 0, left_K, n + 2).argmin())
        groups = rng.permutation(np.flatnonzero(open_G & (totals_GK[:, rarest] > 0)))
        for group in groups[np.argsort(-size_G[groups], kind="stable")].tolist():
            on = totals_GK[group] > 0
            has = totals_GK[group, on]
            gain_P = ((2 * want_PK[:, on] - has) * has * weight_PK[:, on]).sum(axis=1)
            has_room_P = want_PK[:, -1] > 0.5 * size_G[group]
            best = np.lexsort((rng.random_sample(len(sizes)), gain_P, has_room_P))[-1]
            part_G[group] = best
            want_PK[best] -= totals_GK[group]
        open_G[groups] = False
    return part_G
