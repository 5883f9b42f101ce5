"""Plots of any number of classes, with holes in the figures, drawn the same each time."""

import io

import numpy as np
import pytest
from PIL import Image

from satray.evaluate.draw_decisions import histogram, matrix, reliability
from satray.evaluate.draw_ranking import Line, bars, lines, tails
from satray.report.curves import curves
from satray.report.style import most_frequent, short
from satray.report.tiles import GAP, SIDE, overlaid, shrunk, stretched, thumbnail

NAN = float("nan")


def size(data: bytes) -> tuple[int, int]:
    image = Image.open(io.BytesIO(data))
    assert image.format == "PNG"
    image.load()
    return image.size


def names(count: int) -> list[str]:
    return [f"${k}_x{'y' * 3 * k}" for k in range(count)]  # not TeX, and ever longer


@pytest.mark.parametrize("count", [1, 2, 17])
def test_all_plots_draw_and_stay_readable_on_a_phone(count: int) -> None:
    rng = np.random.default_rng(0)
    values = rng.random(count)
    values[-1] = NAN if count > 1 else 0.5
    x = np.linspace(0, 1, 20)
    given = [Line(name, x, 1 - x / 2, v, 0.2) for name, v in zip(names(count), values, strict=True)]
    given[-1] = Line(given[-1].name, np.empty(0), np.empty(0), NAN, NAN)
    bins = np.linspace(0, 1, 16)
    drawn = [
        bars(names(count), values, values - 0.1, values + 0.1, [0.2] * count, 0.5),
        bars(names(count), values, [NAN] * count, [NAN] * count, [0.2] * count, NAN),
        lines(given, "recall", "precision", "AP", steps=True),
        lines(given, "fpr", "tpr", "AUC"),
        tails([0.5, 0.9], [0.5, NAN], [NAN, NAN], [0.5, NAN], [count, 0]),
        reliability(bins, [0, 5] + [0] * 13, [NAN, 0.1] + [NAN] * 13, [NAN, 0.2] + [NAN] * 13, "E"),
        histogram(np.array([0.9, 1.0]), np.array([]), [0.5]),
        matrix(np.full((count, count), NAN), names(count), "said", "is", percent=True),
    ]
    for data in drawn:
        width, height = size(data)
        assert width == 768  # 4.8 in at 160 dpi: 7.5 pt letters are 7.8 px on a phone of 360 px
        assert 0.3 < height / width < 1.9


def test_a_class_whose_name_begins_with_an_underscore_is_in_the_legend(monkeypatch) -> None:
    from satray.evaluate import draw_ranking as ranking

    told = []
    plain = ranking.png
    monkeypatch.setattr(ranking, "png", lambda made: told.append(made) or plain(made))
    x = np.linspace(0, 1, 5)
    lines([Line("_background", x, x, 0.5, NAN), Line("ship", x, x, 0.7, NAN)], "x", "y", "AUC")
    (legend,) = told[0].legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "_background, AUC 0.500", "ship, AUC 0.700",
    ]  # fmt: skip


def test_the_same_figures_give_the_same_bytes() -> None:
    once, again = (
        matrix(np.eye(3), ["a", "b", "c"], "said", "is", percent=False) for _ in range(2)
    )
    assert once == again


def test_curves_mark_stages_and_take_a_trace() -> None:
    rows = [
        {
            "samples_seen": 100 * (i + 1),
            "train_loss": 1 / (i + 1),
            "val_loss": NAN if i == 2 else 1.1 / (i + 1),
            "learning_rate": 1e-3,
            "stage": i // 2,
            "map": i / 5,
            "accuracy": i / 5,
            "baseline_accuracy": 0.5,
        }
        for i in range(5)
    ]
    plain = curves(rows, "map", "a $title", 300)
    assert size(plain)[0] == 768
    assert curves(rows, "map", "a $title", 300, [(1, 1e-5), (400, 1e-2)]) != plain
    one_stage = [{**row, "stage": 0} for row in rows]
    assert curves(one_stage, "map", "a $title", 300) != plain
    assert curves(rows, "map", "a $title") != plain
    assert size(curves(rows[:1], "accuracy", "one row"))[0] == 768


def test_curves_mark_stages_that_no_evaluation_ended_in(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[float, str]] = []

    def note(panel: object, text: str, x: float, *more: object, **options: object) -> None:
        drawn.append((x, text))

    monkeypatch.setattr("satray.report.curves._note", note)
    common = {"train_loss": 1.0, "val_loss": 1.0, "learning_rate": 1e-3, "map": 0.5}
    rows = [
        {"samples_seen": 100, "stage": 0, "stage_began": 0, **common},
        {"samples_seen": 200, "stage": 3, "stage_began": 190, **common},
    ]
    curves(rows, "map", "told by the rows")
    assert drawn == [(190, "stage 4")]
    drawn.clear()
    curves(rows, "map", "told by the plan", stages=[(0, 0), (120, 1), (150, 2), (190, 3)])
    assert drawn == [(120, "stage 2"), (150, "stage 3"), (190, "stage 4")]


def test_short_names_keep_both_ends() -> None:
    assert short("ship") == "ship"
    long = short("a" * 30 + "z" * 30, 11)
    assert len(long) == 11
    assert (long[0], long[-1]) == ("a", "z")


def test_most_frequent_keeps_class_order() -> None:
    assert most_frequent([5, 0, 9, 9], 2) == [2, 3]
    assert most_frequent([1, 1], 5) == [0, 1]


def test_stretch_maps_limits_to_black_and_white() -> None:
    pixels = np.array([[[100, 200, 300, 50]], [[7, 7, 7, 7]]], dtype=np.uint16)[:1]
    shown = stretched(pixels, (100.0,), (300.0,))
    assert shown.shape == (1, 4, 3)
    assert np.allclose(shown[0, :, 0], [0, 0.5, 1, 0])
    assert np.isfinite(stretched(np.full((3, 2, 2), NAN), (0.0,) * 3, (0.0,) * 3)).all()


def test_thumbnail_shows_the_map_at_its_side() -> None:
    colours = shrunk(np.full((100, 200, 3), 0.5))
    assert colours.shape == (SIDE // 2, SIDE, 3)
    evidence = np.zeros(colours.shape[:2])
    evidence[:, SIDE // 2 :] = 1
    image = np.asarray(Image.open(io.BytesIO(thumbnail(colours, evidence)))).astype(int)
    assert image.shape == (SIDE // 2, 2 * SIDE + GAP, 3)
    assert np.ptp(image[5:-5, 5 : SIDE - 5]) < 8  # the tile itself is even
    right = image[:, SIDE + GAP :]
    assert right[:, 3 * SIDE // 4 :, 0].mean() > right[:, : SIDE // 4, 0].mean() + 60
    alone = np.asarray(Image.open(io.BytesIO(thumbnail(colours, None))))
    assert alone.shape == colours.shape


def test_no_evidence_leaves_no_glow() -> None:
    gray = np.full((4, 4, 3), 0.4)
    assert np.allclose(overlaid(gray, np.zeros((4, 4))), 0.3)
    assert np.allclose(overlaid(gray, np.full((4, 4), NAN)), 0.3)
