"""A sweep as pictures: parallel coordinates, learning rate against metric, curves of all trials."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from satray.report.scales import ABSENT, Scale, limits, scale
from satray.report.style import GRID, INK, MUTED, PALETTE, calm, figure, png, short, styled

COLOURS = (*PALETTE, "#b8963e", "#4aa3a2", "#a3475b", "#7a7f87")
"""Schedules, and the best trials; more of them share the last."""
TOP = 6
"""Trials whose curves have names."""
COLUMNS = 2
"""Panels side by side."""
CONNECTED = 8
"""With so many learning rates or fewer, a line joins the best of a schedule at each."""


@dataclass(frozen=True)
class Trial:
    """One trial, as far as pictures go."""

    name: str
    """Its configuration in a few words."""
    values: Mapping[str, Any]
    """Key -> value."""
    score: float
    """Best value of the metric; NaN where it has none."""
    curve: Sequence[tuple[float, float]] = ()
    """(samples seen, metric) of each evaluation."""


@dataclass(frozen=True)
class Measure:
    """The metric that trials are compared by."""

    title: str
    """For a person."""
    higher: bool
    """Whether more is better."""


def parallel(
    trials: Sequence[Trial], names: Mapping[str, str], measure: Measure, width: float = 6.4
) -> bytes:
    """One line a trial across an axis a key, to the metric on the right; the best stands out.

    Args:
        trials: all of them; those without a score are drawn gray, short of the last axis.
        names: key -> heading, one an axis, left to right.
        measure: the last axis.
        width: of the figure, inches.

    Returns:
        a PNG. Where a key does not apply, lines pass below its axis.
    """
    order = _worst_first(trials, measure)
    scores = np.array([one.score for one in order])
    last = limits(scores, measure.higher)
    scales = [
        scale(
            [one.values.get(key, ABSENT) for one in order], [one.values.get(key) for one in trials]
        )
        for key in names
    ]
    heights_TA = np.column_stack(
        [*(_spread(each) for each in scales), _goodness(scores, last, measure)]
    )
    with styled():
        made = figure(3.4, width)
        axis = made.subplots()
        best = _best(scores, measure)
        for place, y_A in enumerate(heights_TA):
            style = _line_style(y_A[-1], best=place == best)
            axis.plot(range(len(y_A)), y_A, **style)
        for place, each in enumerate(scales):
            _upright(axis, place, each)
        _scores_upright(axis, len(scales), last if measure.higher else last[::-1])
        axis.set_xticks(range(len(scales) + 1), [*names.values(), measure.title])
        axis.tick_params(axis="x", length=0, pad=6)
        axis.set_yticks([])
        axis.spines[:].set_visible(False)
        axis.set_xlim(-0.35, len(scales) + 0.35)
        axis.set_ylim(-0.16, 1.04)
    return png(made)


def rates(
    trials: Sequence[Trial],
    rate: str,
    panels: Sequence[tuple[str, Sequence[Trial]]],
    colour: str,
    measure: Measure,
) -> bytes:
    """Learning rate against metric: one panel a variant, one colour a schedule.

    Args:
        trials: all of them, for axes that are alike.
        rate: key of the learning rate; trials without a number there are left out.
        panels: heading and trials of each.
        colour: key whose values have a colour each.
        measure: the upright axis.
    """
    low, high = limits(np.array([one.score for one in trials]), measure.higher)
    gridded = len({x for x, _ in _points(trials, rate)}) <= CONNECTED
    kinds = list(dict.fromkeys(str(one.values.get(colour, "all")) for one in trials))
    rows = math.ceil(len(panels) / COLUMNS)
    columns = min(COLUMNS, len(panels))
    with styled():
        made = figure(0.75 + 1.75 * rows)
        grid = made.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        lines: dict[str, Any] = {}
        for axis, (title, members) in zip(grid.flat, panels, strict=False):
            for number, kind in enumerate(kinds):
                found = [one for one in members if str(one.values.get(colour, "all")) == kind]
                points = _points(found, rate)
                if not points:
                    continue
                x, y = zip(*points, strict=True)
                style = {"color": _colour(number), "marker": "o", "ms": 3}
                (dots,) = axis.plot(x, np.clip(y, low, high), lw=0, alpha=0.85, **style)
                lines.setdefault(kind, dots)
                if gridded:
                    # sorted from worst to best, the best of a rate is the one that stays
                    best = dict(sorted(points, key=lambda p: p[1] if measure.higher else -p[1]))
                    x, y = zip(*sorted(best.items()), strict=True)
                    axis.plot(x, np.clip(y, low, high), lw=1, color=_colour(number), alpha=0.85)
            axis.set_title(short(title, 34), loc="left", color=INK)
            _rate_axis(axis)
            calm(axis, "both")
        for axis in list(grid.flat)[len(panels) :]:
            axis.set_visible(False)
        pad = 0.05 * (high - low)
        grid[0, 0].set_ylim(low - pad, high + pad)
        for axis in grid[:, 0]:
            axis.set_ylabel(measure.title)
        for axis in grid[-1]:
            axis.set_xlabel("learning rate")
        if lines:
            made.legend(lines.values(), [short(kind) for kind in lines], frameon=False,
                        loc="outside lower center", ncols=min(3, len(lines)))  # fmt: skip
    return png(made)


def trial_curves(trials: Sequence[Trial], measure: Measure) -> bytes:
    """The metric against samples seen, all trials in gray and the best in colour."""
    order = [one for one in _worst_first(trials, measure) if one.curve]
    values = np.array([value for one in order for _, value in one.curve])
    low, high = limits(values, measure.higher)
    top = [one for one in order if math.isfinite(one.score)][-TOP:]
    with styled():
        made = figure(3.4 + 0.16 * len(top))
        axis = made.subplots()
        for one in order:
            if one not in top:
                axis.plot(*zip(*one.curve, strict=True), color=MUTED, lw=0.6, alpha=0.25)
        for number, one in enumerate(reversed(top)):
            label = f"{one.score:.4f}  {short(one.name, 52)}"
            axis.plot(*zip(*one.curve, strict=True), color=COLOURS[number], lw=1.5, marker="o",
                      ms=2.5, zorder=5 + len(top) - number, label=label)  # fmt: skip
        axis.set_xlabel("samples seen")
        axis.set_ylabel(f"validation {measure.title.removeprefix('validation ')}")
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        pad = 0.05 * (high - low)
        axis.set_ylim(low - pad, high + pad)
        calm(axis)
        if top:
            made.legend(loc="outside lower left", frameon=False, alignment="left")
    return png(made)


def _worst_first(trials: Sequence[Trial], measure: Measure) -> list[Trial]:
    """Drawn in this order, the best is on top; those without a score come first."""
    sign = 1 if measure.higher else -1
    return sorted(trials, key=lambda one: sign * one.score if math.isfinite(one.score) else -1e300)


def _best(scores: NDArray[np.float64], measure: Measure) -> int:
    if not np.isfinite(scores).any():
        return -1
    return int(np.nanargmax(scores) if measure.higher else np.nanargmin(scores))


def _goodness(
    scores: NDArray[np.float64], ends: tuple[float, float], measure: Measure
) -> NDArray[np.float64]:
    """0 for the worst, 1 for the best."""
    worst, best = ends if measure.higher else ends[::-1]
    found: NDArray[np.float64] = np.clip((scores - worst) / (best - worst), 0, 1)
    return found


def _spread(each: Scale) -> NDArray[np.float64]:
    """Heights, those of one word fanned out so that lines do not hide each other."""
    found = np.array(each.heights)
    if each.fan > 0:
        for height in set(each.heights):
            there = np.flatnonzero(found == height)
            if len(there) > 1:
                found[there] = height + np.linspace(-each.fan, each.fan, len(there))
    return found


def _line_style(good: float, *, best: bool) -> dict[str, Any]:
    from matplotlib import colormaps

    if best:
        return {"color": "#a3475b", "lw": 2.2, "zorder": 6}
    if math.isnan(good):
        return {"color": MUTED, "lw": 0.6, "alpha": 0.35, "ls": "--"}
    # From pale to dark: what did well can be followed, what did not stays in the background.
    return {"color": colormaps["YlGnBu"](0.25 + 0.7 * good), "lw": 0.8, "alpha": 0.25 + 0.5 * good}


def _upright(axis: Any, place: int, each: Scale) -> None:
    axis.plot([place, place], [0, 1], color=MUTED, lw=1, zorder=7)
    for height, word in each.ticks:
        _word(axis, place, height, short(word, 16))
    if any(height < 0 for height in each.heights):
        _word(axis, place, each.below, "–")


def _scores_upright(axis: Any, place: int, ends: tuple[float, float]) -> None:
    """The best is at the top whatever the metric."""
    low, high = ends
    axis.plot([place, place], [0, 1], color=INK, lw=1.2, zorder=7)
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        _word(axis, place, share, f"{low + share * (high - low):.3g}")


def _word(axis: Any, place: int, height: float, word: str) -> None:
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.8}
    axis.annotate(word, (place, height), xytext=(4, 0), textcoords="offset points", va="center",
                  fontsize=7, color=INK, zorder=8, bbox=box)  # fmt: skip


def _points(trials: Sequence[Trial], rate: str) -> list[tuple[float, float]]:
    """(learning rate, score) of the trials that have both."""
    return [
        (float(value), one.score)
        for one in trials
        if isinstance(value := one.values.get(rate), int | float) and math.isfinite(one.score)
    ]


def _rate_axis(axis: Any) -> None:
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:.0e}".replace("e-0", "e-"))
    axis.xaxis.set_minor_formatter(lambda _, __: "")
    axis.tick_params(which="minor", length=0)
    axis.grid(which="minor", axis="x", color=GRID, lw=0.3)


def _colour(number: int) -> str:
    return COLOURS[min(number, len(COLOURS) - 1)]
