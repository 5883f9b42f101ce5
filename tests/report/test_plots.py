"""Pictures of trainings and tiles: holes in the figures, drawn the same each time."""

import io

import numpy as np
from PIL import Image

from satray.report.curves import curves
from satray.report.tiles import GAP, SIDE, overlaid, shrunk, stretched, thumbnail

NAN = float("nan")


def rows(count: int) -> list[dict[str, float]]:
    return [
        {
            "samples_seen": 100 * (i + 1),
            "train_loss": 1 / (i + 1),
            "val_loss": NAN if i == 2 else 1.1 / (i + 1),
            "map": i / 5,
            "accuracy": i / 5,
            "baseline_accuracy": 0.5,
        }
        for i in range(count)
    ]


def test_curves_draw_the_same_each_time() -> None:
    rest = ("a $title", 300, [(1, 1e-5), (400, 1e-2)], [(0, 0), (250, 1)])
    plain = curves(rows(5), "map", *rest)
    assert Image.open(io.BytesIO(plain)).width == 768
    assert curves(rows(5), "map", *rest) == plain  # the same figures, the same bytes
    assert curves(rows(1), "accuracy", "one row", None, [(1, 0.1)], [(0, 0)]) != plain


def test_stretch_maps_limits_to_black_and_white() -> None:
    pixels = np.array([[[100, 200, 300, 50]]], dtype=np.uint16)
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
    for nothing in (0.0, NAN):
        assert np.allclose(overlaid(np.full((4, 4, 3), 0.4), np.full((4, 4), nothing)), 0.3)
