"""Plots of sweeps: any number of trials, holes, both directions of the metric."""

import io
import math

import numpy as np
import pytest
from PIL import Image

from satray.report import sweeps
from satray.report.scales import ABSENT, BELOW, limits, scale
from satray.report.sweeps import Measure, Trial, parallel, rates, trial_curves

NAN = float("nan")
MAP, LOSS = Measure("mAP", True), Measure("loss", False)
RATE, NAME = "rate", "schedule"


def trial(rate: object, score: float, **more: object) -> Trial:
    curve = [(100, score / 2), (200, score)] if math.isfinite(score) else []
    return Trial(f"${rate} {score}", {RATE: rate, NAME: "step", **more}, score, curve)


def drawn(monkeypatch) -> list:
    """Figures that are made from here on."""
    made = []
    plain = sweeps.png
    monkeypatch.setattr(sweeps, "png", lambda figure: made.append(figure) or plain(figure))
    return made


@pytest.mark.parametrize("measure", [MAP, LOSS])
@pytest.mark.parametrize("count", [0, 1, 2, 40])
def test_any_number_of_trials_is_drawn(count: int, measure: Measure) -> None:
    rng = np.random.default_rng(0)
    ones = [
        trial(10.0 ** -rng.integers(1, 5), NAN if i % 5 == 3 else rng.random(), _x=i % 3)
        for i in range(count)
    ]
    panels = [(f"$v{k}", ones[k::3]) for k in range(3)]
    for data, width in (
        (parallel(ones, {RATE: "learning rate", NAME: "s", "_x": "x"}, measure), 1024),
        (rates(ones, RATE, panels, NAME, measure), 768),
        (trial_curves(ones, measure), 768),
    ):
        image = Image.open(io.BytesIO(data))
        image.load()
        assert image.format == "PNG"
        assert image.width == width


@pytest.mark.parametrize(("measure", "best"), [(MAP, 0.9), (LOSS, 0.1)])
def test_the_best_trial_ends_at_the_top_and_stands_out(monkeypatch, measure, best: float) -> None:
    made = drawn(monkeypatch)
    parallel(
        [trial(0.1, 0.1), trial(0.2, 0.9), trial(0.3, 0.5), trial(1, NAN)], {RATE: "r"}, measure
    )
    lines = [line for line in made[0].axes[0].lines if len(line.get_xdata()) == 2
             and list(line.get_xdata()) == [0, 1]]  # fmt: skip
    assert len(lines) == 4
    top = max((line for line in lines if np.isfinite(line.get_ydata()[1])),
              key=lambda line: line.get_ydata()[1])  # fmt: skip
    assert top.get_ydata()[1] == 1.0
    assert top.get_linewidth() == max(line.get_linewidth() for line in lines)
    words = {text.get_text(): text.xy[1] for text in made[0].axes[0].texts}
    assert words[f"{best:g}"] == 1.0


def test_each_variant_has_a_panel_and_each_schedule_a_colour(monkeypatch) -> None:
    made = drawn(monkeypatch)
    ones = [trial(rate, 0.5 + i / 10, **{NAME: name}) for i, rate in enumerate((0.1, 0.01))
            for name in ("step", "cosine")]  # fmt: skip
    ones += [trial("auto", 0.9), trial(1.0, NAN), trial(0.1, 0.2)]
    rates(ones, RATE, [("a", ones[:4]), ("b", ones[4:])], NAME, MAP)
    first, second = (axis for axis in made[0].axes if axis.get_visible())
    assert (first.get_title(loc="left"), second.get_title(loc="left")) == ("a", "b")
    dots = [line for line in first.lines if line.get_marker() == "o"]
    assert [len(line.get_xdata()) for line in dots] == [2, 2]
    assert len({line.get_color() for line in dots}) == 2
    assert [list(line.get_xdata()) for line in second.lines if line.get_marker() == "o"] == [[0.1]]
    (legend,) = made[0].legends
    assert [text.get_text() for text in legend.get_texts()] == ["step", "cosine"]


@pytest.mark.parametrize(("measure", "kept"), [(MAP, 0.7), (LOSS, 0.3)])
def test_a_line_joins_the_best_at_each_rate(monkeypatch, measure: Measure, kept: float) -> None:
    made = drawn(monkeypatch)
    ones = [trial(0.1, 0.3), trial(0.1, 0.7), trial(0.01, 0.5)]
    rates(ones, RATE, [("all", ones)], NAME, measure)
    (line,) = [line for line in made[0].axes[0].lines if line.get_linewidth() == 1]
    assert list(line.get_xdata()) == [0.01, 0.1]
    assert line.get_ydata()[1] == pytest.approx(kept)


def test_scattered_rates_are_not_joined(monkeypatch) -> None:
    made = drawn(monkeypatch)
    ones = [trial(0.001 * (i + 1), 0.5) for i in range(20)]
    rates(ones, RATE, [("all", ones)], NAME, MAP)
    assert [line.get_linewidth() for line in made[0].axes[0].lines] == [0]


def test_curves_name_the_best(monkeypatch) -> None:
    made = drawn(monkeypatch)
    trial_curves([trial(i, i / 10) for i in range(1, 10)], LOSS)
    (legend,) = made[0].legends
    said = [text.get_text() for text in legend.get_texts()]
    assert [word[:6] for word in said] == [
        "0.1000",
        "0.2000",
        "0.3000",
        "0.4000",
        "0.5000",
        "0.6000",
    ]
    assert len(made[0].axes[0].lines) == 9


def test_numbers_stand_by_size_and_words_in_order() -> None:
    wide = scale([1e-4, 1e-1, 1e-2, ABSENT])
    assert wide.heights[:2] == (0.0, 1.0)
    assert wide.heights[2] == pytest.approx(2 / 3)
    assert wide.heights[3] == wide.below == BELOW
    assert scale([2, 4, 3]).heights == (0.0, 1.0, 0.5)
    assert scale([3, 3]).heights == (0.5, 0.5)
    words = scale(["b", "a", "c"], ["a", "b", "d", "c"])
    assert words.heights == (0.5, 1.0, 0.0)
    assert [word for _, word in words.ticks] == ["a", "b", "c"]
    assert scale([True, False]).ticks == ((1.0, "true"), (0.0, "false"))
    assert scale([ABSENT]).heights == (BELOW,)
    assert scale([]).heights == ()


def test_ticks_of_many_numbers_are_round() -> None:
    rng = np.random.default_rng(0)
    found = scale(list(10 ** rng.uniform(-4.2, -0.9, 50)))
    assert [word for _, word in found.ticks] == ["0.0001", "0.001", "0.01", "0.1"]
    assert found.fan == 0
    assert len(scale(list(range(20))).ticks) == 5


def test_bad_losses_do_not_flatten_the_good() -> None:
    low, high = limits(np.array([0.1, 0.2, 0.3, 1e6, NAN]), False)
    assert low == 0.1
    assert high < 1
    assert limits(np.array([0.1, 0.9]), True) == (0.1, 0.9)
    assert limits(np.array([NAN]), True) == (0.0, 1.0)
    low, high = limits(np.array([0.5, 0.5]), True)
    assert low < 0.5 < high
