"""Plots of any number of classes, with holes in the figures, drawn the same each time."""

import io

import numpy as np
import pytest
from PIL import Image

from satray.report.curves import curves
from satray.report.style import most_frequent, short
from satray.report.tiles import GAP, SIDE, overlaid, shrunk, stretched, thumbnail

NAN = float("nan")


def size(data: bytes) -> tuple[int, int]:
    image = Image.open(io.BytesIO(data))
    assert image.format == "PNG"
    image.load()
    return image.size


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
    assert curves(rows, "map", "a $title", 300) == plain  # the same figures, the same bytes
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
