"""One look for all plots: small figures in calm colours, readable at phone width.

Figures are 4.8 in wide with 8 to 9 pt type, so that a picture scaled to a phone's 360 px still has
letters of about 8 px, and two stand side by side on a desk.
"""

import io
from collections.abc import Sequence
from typing import Any

INK, MUTED, GRID = "#22272e", "#6b7480", "#e6e8eb"
TRAIN, VAL = "#c2703d", "#2f6f8f"
PALETTE = ("#2f6f8f", "#c2703d", "#5b8c5a", "#8a5a83")
"""For what is drawn in one panel and told apart by colour."""

WIDTH = 4.8
"""Inches."""
DPI = 160
PANELS_MOST = 20
"""Most small panels of a figure; beyond, the classes with most positives."""

_RC: Any = {
    "font.size": 8.5,
    "axes.titlesize": 8.5,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "legend.fontsize": 7.5,
    # a class may be called "$x" or "été": no mathematics, and a font that has most letters
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
}


def figure(height: float, width: float = WIDTH) -> Any:
    """An empty figure (inches), drawn without any window system."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context(_RC):
        made = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(made)
    return made


def styled() -> Any:
    """The context in which axes and text are to be made."""
    from matplotlib import rc_context

    return rc_context(_RC)


def calm(axis: Any, grid: str = "y") -> None:
    """No box, a faint grid (`x`, `y` or `both`) behind the data."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis=grid, color=GRID, lw=0.7)
    axis.set_axisbelow(True)
    axis.tick_params(length=2)


def logarithmic(axis: Any) -> None:
    """A logarithmic y axis with plain numbers; without mathematics its own labels are TeX."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(numticks=6))
    axis.yaxis.set_major_formatter(lambda value, _: _plain(value))
    axis.yaxis.set_minor_formatter(NullFormatter())


def _plain(value: float) -> str:
    return f"{value:,.0f}" if value >= 1 else f"{value:.0e}".replace("e-0", "e-")


def png(made: Any) -> bytes:
    """The figure as a PNG; the same figure gives the same bytes."""
    sink = io.BytesIO()
    with styled():
        made.savefig(sink, format="png", metadata={"Software": None})
    return sink.getvalue()


def short(name: str, most: int = 22) -> str:
    """A name that fits a label: the middle of long ones is left out."""
    if len(name) <= most:
        return name
    half = (most - 1) // 2
    return f"{name[: most - 1 - half]}…{name[-half:]}"


def most_frequent(positives: Sequence[int], most: int = PANELS_MOST) -> list[int]:
    """Places of the classes to draw where there are too many: most positives, in class order."""
    order = sorted(range(len(positives)), key=lambda k: (-positives[k], k))
    return sorted(order[:most])
