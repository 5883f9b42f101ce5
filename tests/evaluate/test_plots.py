"""Plots of any number of classes, with holes in the figures."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from satray.evaluate import plots
from satray.evaluate.plots import (
    Line,
    bars,
    draw,
    histogram,
    lines,
    matrix,
    reliability,
    row_shares,
    tails,
)
from satray.evaluate.quality import Predicted, measure

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
    ends = {"ap_interval": {"low": 0.2, "high": 0.4}, "prevalence": 0.2}
    rows = {name: {"ap": v, **ends} for name, v in zip(names(count), values, strict=True)}
    none = {name: {**row, "ap_interval": None} for name, row in rows.items()}
    above = {"at": [0.5, 0.9], "mean": [0.5, NAN], "fixed": [NAN, NAN], "micro": [0.5, NAN]}
    empty = [NAN] * 13
    bars_of_scores = {
        "counts": [0, 5] + [0] * 13,
        "mean_score": [NAN, 0.1, *empty],
        "mean_label": [NAN, 0.2, *empty],
    }
    drawn = [
        bars(rows, 0.5),
        bars(none, NAN),
        lines(given, "recall", "precision", "AP", steps=True),
        lines(given, "fpr", "tpr", "AUC"),
        tails(above | {"classes": [count, 0]}, "score threshold"),
        reliability(bins, bars_of_scores, "E"),
        histogram(np.array([0.9, 1.0]), np.array([]), [0.5]),
        matrix(np.full((count, count), NAN), names(count), "said", "is"),
    ]
    for data in drawn:
        width, height = size(data)
        assert width == 768  # 4.8 in at 160 dpi: 7.5 pt letters are 7.8 px on a phone of 360 px
        assert 0.3 < height / width < 1.9


def test_a_class_whose_name_begins_with_an_underscore_is_in_the_legend(monkeypatch) -> None:
    told = []
    plain = plots.png
    monkeypatch.setattr(plots, "png", lambda made: told.append(made) or plain(made))
    x = np.linspace(0, 1, 5)
    lines([Line("_background", x, x, 0.5, NAN), Line("ship", x, x, 0.7, NAN)], "x", "y", "AUC")
    (legend,) = told[0].legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "_background, AUC 0.500", "ship, AUC 0.700",
    ]  # fmt: skip


def test_shares_of_a_cut_confusion_matrix_are_of_all_tiles() -> None:
    counts = np.array([[6.0, 1, 3], [0, 0, 0], [2, 0, 2]])
    shares = row_shares(counts)
    assert shares[0].tolist() == [0.6, 0.1, 0.3]
    assert np.isnan(shares[1]).all()


def test_columns_are_cut_after_the_shares_are_taken(monkeypatch) -> None:
    classes = tuple(f"c{k:02}" for k in range(25))
    labels = np.eye(25)[np.repeat(np.arange(25), [4] * 20 + [1] * 5)]
    logits = 9.0 * labels
    logits[0] = 9.0 * np.eye(25)[24]  # a tile of the first class is said to be of one not shown
    spec = SimpleNamespace(classes=classes, task="multiclass", temperature=1.0,
                           thresholds=(0.5,) * 25)  # fmt: skip
    ids = tuple(map(str, range(len(labels))))
    quality = measure(Predicted(ids, logits, labels, "m"), spec, 0)
    drawn = []
    monkeypatch.setattr(plots, "matrix", lambda *a, **k: drawn.append((a, k)) or b"")
    draw(quality, classes, spec.thresholds)
    (((shares, names, _, _, texts), _),) = drawn
    assert list(names) == list(classes[:20])
    assert shares[0, 0] == 0.75
    assert texts[0][0] == "3"
