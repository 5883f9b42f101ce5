"""The learning-rate landscape as a picture: loss against learning rate, suggestions marked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from satray.report.style import INK, PALETTE, TRAIN, VAL, calm, figure, png, styled

SHOWN = 1.5
"""Height of the loss axis, in falls of the smoothed loss from its start to its lowest: the burst at
the end would flatten all before it."""


@dataclass(frozen=True)
class Panel:
    """One range test."""

    title: str
    """One line above it."""
    curves: Sequence[tuple[Sequence[float], Sequence[float], Sequence[float]]]
    """One a seed: learning rates, losses, smoothed losses."""
    suggestions: Mapping[str, float]
    """Learning rate by name."""
    chosen: float
    """The learning rate that is taken."""


def landscape(panels: Sequence[Panel], title: str) -> bytes:
    """Draw each range test below the other; returns a PNG."""
    with styled():
        made = figure(0.4 + 2.9 * len(panels), width=6.4)
        axes = made.subplots(len(panels), 1, squeeze=False)[:, 0]
        for axis, panel in zip(axes, panels, strict=True):
            _draw(axis, panel)
        axes[-1].set_xlabel("learning rate")
        made.suptitle(title, x=0.01, ha="left", fontsize=9.5, color=INK)
    return png(made)


def _draw(axis: Any, panel: Panel) -> None:
    for number, (rates, losses, smoothed) in enumerate(panel.curves):
        axis.plot(rates, losses, color=TRAIN, lw=0.6, alpha=0.3, label=_first("a batch", number))
        axis.plot(rates, smoothed, color=VAL, lw=1.3, alpha=0.9, label=_first("smoothed", number))
    axis.set_xscale("log")
    # plain numbers: the house style has no mathematics in its texts
    axis.xaxis.set_major_formatter(lambda rate, _: f"{rate:g}")
    axis.xaxis.set_minor_formatter(lambda _, __: "")
    starts = [smoothed[0] for _, _, smoothed in panel.curves]
    lowest = min(min(smoothed) for _, _, smoothed in panel.curves)
    span = max(max(starts) - lowest, 0.05 * abs(lowest), 1e-6)
    axis.set_ylim(lowest - 0.25 * span, lowest + SHOWN * span)
    axis.set_ylabel("loss")
    axis.set_title(panel.title, loc="left", color=INK)
    axis.axvline(panel.chosen, color=INK, lw=3, alpha=0.25, label=f"taken {panel.chosen:.2g}")
    for (name, rate), colour in zip(panel.suggestions.items(), PALETTE[1:], strict=False):
        axis.axvline(rate, color=colour, lw=1, ls="--", label=f"{name} {rate:.2g}")
    axis.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0), labelcolor=INK)
    calm(axis)


def _first(label: str, number: int) -> str:
    """A label for the legend, once (matplotlib leaves out those that begin with _)."""
    return label if number == 0 else f"_{label}"
