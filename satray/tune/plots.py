"""A sweep as pictures: parallel coordinates, learning rate against metric, curves of all trials."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from satray.report.style import (
    GRID,
    INK,
    MUTED,
    PALETTE,
    PANELS_MOST,
    calm,
    figure,
    png,
    short,
    styled,
)
from satray.tune.records import Metric, TrialRecord, label, short_value

COLOURS = (*PALETTE, "#b8963e", "#4aa3a2", "#a3475b", "#7a7f87")
"""Schedules, and the best trials; more of them share the last."""
BEST = "#a3475b"
TOP = 6
"""Trials whose curves have names."""
COLUMNS = 2
"""Panels side by side."""
BELOW = -0.1
"""Where lines pass an axis whose key does not apply."""
WIDE = 20.0
"""Positive numbers whose largest is so many times the smallest are spread by their logarithms."""
TICKS = 6
"""Most numbers that an axis names each."""


def parallel(records: Sequence[TrialRecord], axes: Mapping[str, str], metric: Metric) -> bytes:
    """One line a trial across an axis a key, to the metric on the right; the best stands out.

    Args:
        records: all of them; those without a value are drawn gray, short of the last axis.
        axes: key -> heading, one an axis, left to right.
        metric: the last axis.

    Returns:
        a PNG. Where a key does not apply, lines pass below its axis.
    """
    from matplotlib import colormaps

    order = _worst_first(records, metric)
    worst, best = _limits(records, metric)[:: 1 if metric.mode == "max" else -1]
    good = [
        math.nan if one.best is None else float(np.clip((one.best - worst) / (best - worst), 0, 1))
        for one in order
    ]
    scores = {i / 4: f"{worst + i / 4 * (best - worst):.3g}" for i in range(5)}
    scales = [*(_scale(key, order) for key in axes), (good, scores)]
    with styled():
        made = figure(3.4, 6.4)
        axis = made.subplots()
        for place, heights in enumerate(zip(*(heights for heights, _ in scales), strict=True)):
            style: dict[str, Any] = {"color": MUTED, "lw": 0.6, "alpha": 0.35, "ls": "--"}
            if math.isfinite(end := heights[-1]):  # from pale to dark: what did well stands out
                colour = colormaps["YlGnBu"](0.25 + 0.7 * end)
                style = {"color": colour, "lw": 0.8, "alpha": 0.25 + 0.5 * end}
                if place == len(order) - 1:
                    style = {"color": BEST, "lw": 2.2, "zorder": 6}
            axis.plot(range(len(scales)), heights, **style)
        box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.8}
        for place, (_, ticks) in enumerate(scales):
            axis.plot([place, place], [0, 1], color=MUTED, lw=1, zorder=7)
            for height, word in ticks.items():
                axis.annotate(short(word, 16), (place, height), xytext=(4, 0), va="center",
                              textcoords="offset points", fontsize=7, color=INK, zorder=8,
                              bbox=box)  # fmt: skip
        axis.set_xticks(range(len(scales)), [*axes.values(), metric.title])
        axis.tick_params(axis="x", length=0, pad=6)
        axis.set_yticks([])
        axis.spines[:].set_visible(False)
        axis.set(xlim=(-0.35, len(axes) + 0.35), ylim=(-0.16, 1.04))
    return png(made)


def rates(
    records: Sequence[TrialRecord], rate: str, panel: str, colour: str, metric: Metric
) -> bytes:
    """Learning rate against metric: a panel a variant, a colour a schedule.

    Args:
        records: all of them; those without a number there are left out.
        rate: key of the learning rate.
        panel: key whose values have a panel each, `PANELS_MOST` at most; empty for one of all.
        colour: key whose values have a colour each; empty for one of all.
        metric: the upright axis.
    """
    low, high = _limits(records, metric)
    kinds = list(dict.fromkeys(_word(one, colour) for one in records))
    titles = list(dict.fromkeys(_word(one, panel) for one in records))[:PANELS_MOST] or [""]
    columns = min(COLUMNS, len(titles))
    rows = -(-len(titles) // columns)
    with styled():
        made = figure(0.75 + 1.75 * rows)
        grid = made.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        lines: dict[str, Any] = {}
        for axis, title in zip(grid.flat, titles, strict=False):
            for number, kind in enumerate(kinds):
                points = [
                    (value, np.clip(one.best, low, high))
                    for one in records
                    if (_word(one, panel), _word(one, colour)) == (title, kind)
                    and isinstance(value := one.configuration.get(rate), int | float)
                    and one.best is not None
                ]
                if points:
                    shade = COLOURS[min(number, len(COLOURS) - 1)]
                    lines[kind] = axis.scatter(*zip(*points, strict=True), s=9, color=shade)
            axis.set_title(short(title, 34), loc="left", color=INK)
            axis.set_xscale("log")
            axis.xaxis.set_major_formatter(lambda value, _: f"{value:.0e}".replace("e-0", "e-"))
            axis.xaxis.set_minor_formatter(lambda _, __: "")
            axis.grid(which="minor", axis="x", color=GRID, lw=0.3)
            calm(axis, "both")
        for axis in grid.flat[len(titles) :]:
            axis.set_visible(False)
        pad = 0.05 * (high - low)
        grid[0, 0].set_ylim(low - pad, high + pad)
        made.supylabel(metric.title, fontsize=8)
        made.supxlabel("learning rate", fontsize=8)
        if colour and lines:
            made.legend(lines.values(), [short(kind) for kind in lines], frameon=False,
                        loc="outside upper center", ncols=min(3, len(lines)))  # fmt: skip
    return png(made)


def trial_curves(records: Sequence[TrialRecord], metric: Metric) -> bytes:
    """The metric against samples seen, all trials in gray and the best in colour."""
    order = [one for one in _worst_first(records, metric) if one.curve]
    low, high = _limits(records, metric)
    top = [one for one in order if one.best is not None][-TOP:][::-1]
    with styled():
        made = figure(3.4 + 0.16 * len(top))
        axis = made.subplots()
        for one in order:
            style: dict[str, Any] = {"color": MUTED, "lw": 0.6, "alpha": 0.25}
            if one in top:
                name = f"{one.best:.4f}  {short(label(one.configuration), 52)}"
                style = {"color": COLOURS[top.index(one)], "lw": 1.5, "marker": "o", "ms": 2.5,
                         "label": name}  # fmt: skip
            seen = [row["samples"] for row in one.curve]
            axis.plot(seen, [metric.of(row) for row in one.curve], **style)
        axis.set_xlabel("samples seen")
        axis.set_ylabel(f"validation {metric.title.removeprefix('validation ')}")
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        pad = 0.05 * (high - low)
        axis.set_ylim(low - pad, high + pad)
        calm(axis)
        if top:
            made.legend(loc="outside lower left", frameon=False, alignment="left", reverse=True)
    return png(made)


def _word(one: TrialRecord, key: str) -> str:
    if not key:
        return "all trials"
    return short_value(key, one.configuration[key]) if key in one.configuration else "–"


def _worst_first(records: Sequence[TrialRecord], metric: Metric) -> list[TrialRecord]:
    """Drawn in this order, the best is on top; those without a value come first."""
    return sorted(records, key=lambda one: metric.worth(one.best))


def _limits(records: Sequence[TrialRecord], metric: Metric) -> tuple[float, float]:
    """Ends of an axis for best values: all of them where more is better.

    Where less is better, bad ones have no bounds: the axis ends three times as far from the best
    as the middle one is.
    """
    values = [one.best for one in records if one.best is not None] or [0.0, 1.0]
    low, high = min(values), max(values)
    if metric.mode == "min":
        high = min(high, low + 3 * (float(np.median(values)) - low))
    half = 0.5 * max(abs(low), 1e-3) if high - low < 1e-9 else 0.0
    return low - half, high + half


def _scale(key: str, order: Sequence[TrialRecord]) -> tuple[list[float], dict[float, str]]:
    """Where each trial stands on an axis, 0 to 1, and the axis's words by height.

    Numbers stand by size, anything else from the top by name.
    """
    values = [one.configuration[key] for one in order if key in one.configuration]
    numbers = bool(values) and all(type(value) in (int, float) for value in values)
    known = values if numbers else [short_value(key, value) for value in values]
    ticks = sorted(set(known))
    if numbers:
        low, high = ticks[0], ticks[-1]
        wide = low > 0 and high / low >= WIDE
        if len(ticks) > TICKS:
            ticks = list((np.geomspace if wide else np.linspace)(low, high, 5))
        at = np.log([*known, *ticks]) if wide else np.array([*known, *ticks], float)
        heights = (at - at.min()) / np.ptp(at) if low < high else np.full(len(at), 0.5)
        place = dict(zip([*known, *ticks], heights.tolist(), strict=True))
    else:
        place = {name: 1 - i / max(len(ticks) - 1, 1) for i, name in enumerate(ticks)}
    standing = iter(known)
    found = [place[next(standing)] if key in one.configuration else BELOW for one in order]
    return found, {place[tick]: f"{tick:.3g}" if numbers else tick for tick in ticks}
