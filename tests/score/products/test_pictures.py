"""Quick-looks show what lies where; the page holds nothing from elsewhere and escapes all."""

import io

import numpy as np
import pytest
from affine import Affine
from page_checker import checked
from PIL import Image

from satray.score.closing import run_page, small
from satray.score.products.quicklook import (
    LEGEND,
    LONGEST,
    Evidence,
    picture_size,
    quicklook,
)
from satray.score.results import SceneResult

CELLS = Affine.translation(0.5 - 16, 0.5 - 16) @ Affine.scale(32)
NASTY = '</title><script>alert("x")</script> & \x00\u202e <img src=x onerror=y>'


View = tuple[np.ndarray, np.ndarray, tuple[int, int]]
"""Pixels, where they are data, and the scene's size."""


def view(H: int = 200, W: int = 300, bands: int = 3, valid: np.ndarray | None = None) -> View:
    pixels = np.random.default_rng(0).integers(0, 4000, (bands, H, W)).astype(np.uint16)
    return pixels, np.ones((H, W), bool) if valid is None else valid, (H * 2, W * 2)


def dot(row: int, col: int) -> Evidence:
    values = np.full((13, 19), -2, np.float32)
    values[row, col] = 5
    return Evidence("ship", values, CELLS, 0.97)


def opened(data: bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(data))
    assert image.format == "PNG"
    return np.asarray(image.convert("RGB")).astype(int)


def drawn(shown: View, evidence: Evidence | None = None, *points: float, name="a") -> np.ndarray:
    """The picture with its legend; points are rows and columns, one after the other."""
    places = np.array(points[::2]), np.array(points[1::2])
    return opened(quicklook(*shown, evidence, *places, name, {}))


@pytest.mark.parametrize(
    ("height", "width"), [(20000, 20000), (10, 9000), (9000, 10), (1, 1), (300, 400)]
)
def test_pictures_fit(height: int, width: int) -> None:
    H, W = picture_size(height, width)
    assert 1 <= H <= LONGEST - LEGEND
    assert 1 <= W <= LONGEST
    assert max(H / (LONGEST - LEGEND), W / LONGEST) > 0.99
    shown = np.zeros((1, H, W), np.uint8), np.ones((H, W), bool), (height, width)
    assert max(drawn(shown).shape) <= LONGEST


def test_evidence_glows_where_its_affine_says() -> None:
    """Also where it has more cells than the picture has pixels, and beside cells without data."""
    glow = drawn(view(), dot(6, 9))[:200, :, 0].reshape(10, 20, 15, 20).mean((1, 3))
    # cell (6, 9) has its centre at stored px (192.5, 288.5), so at 96, 144 of the picture
    assert np.unravel_index(glow.argmax(), glow.shape) == (96 // 20, 144 // 20)
    values = np.full((600, 600), np.nan, np.float32)
    values[:, 200:] = 0
    values[301, 299] = 5
    flat = np.zeros((1, 100, 100), np.uint8), np.ones((100, 100), bool), (19200, 19200)
    glow = drawn(flat, Evidence("x", values, Affine.scale(32), 1.0))[:100, 100:200, 0]
    i, j = np.unravel_index(glow.argmax(), glow.shape)
    assert (i, j) == (pytest.approx(301 / 6, abs=1.5), pytest.approx(299 / 6, abs=1.5))


def test_detections_are_ringed_and_pixels_without_data_are_pale() -> None:
    valid = np.ones((200, 300), bool)
    valid[:, 200:] = False
    picture, plain = (drawn(view(valid=valid), dot(6, 9), *p) for p in ((100.0, 120.0), ()))
    assert np.array_equal(plain, drawn(view(valid=valid), dot(6, 9)))
    rows, cols = np.nonzero((picture != plain)[:200].any(2))
    assert (rows.mean(), cols.mean()) == pytest.approx((50, 60), abs=1)
    assert (plain[:200, 205:] == round(0.93 * 255)).all()


@pytest.mark.parametrize("bands", [1, 3])
def test_hostile_names_odd_pixels_and_no_data(bands: int) -> None:
    shown = view(bands=bands, valid=np.zeros((200, 300), bool))
    evidence = Evidence(NASTY + "$x_é", np.full((13, 19), np.nan, np.float32), CELLS, float("nan"))
    assert drawn(shown, evidence, name=NASTY + "\n海\n").shape == (200 + LEGEND, 300, 3)
    wild = np.full((3, 50, 60), np.nan)
    wild[:, 10:] = np.inf
    assert drawn((wild, np.ones((50, 60), bool), (50, 60))).size


# ---- the page


def result(name: str, status: str = "done", **more) -> SceneResult:
    given = {"height": 384, "width": 480, "taken": "2024-05-06", "tiles": 12, "detections": 3}
    return SceneResult(0, name, "", status, **(given if status == "done" else {}) | more)


def test_the_page_shows_what_was_found_and_what_failed() -> None:
    results = (
        result("a/1.tif"),
        result("b 2.tif", detections=1, notes=("drift 2.1: nir",)),
        result("broken.tif", "failed", stage="open", error="truncated at row 7"),
        result("old.tif", "skipped", error="another run has taken it over"),
    )
    jpeg = small(quicklook(*view(), None, np.empty(0), np.empty(0), "x", {}))
    page = run_page("r1", results, {"b 2.tif": jpeg}, "s")
    found = checked(page, beside=("../quicklooks/",))
    links = [a["href"] for name, a in found.elements if name == "a" and a["href"][0] != "#"]
    assert links.count("../quicklooks/a/1.tif.png") == 1
    assert links.count("../quicklooks/b%25202.tif.png") == 3  # its picture, its note, the list
    assert not [link for link in links if "broken" in link or "old" in link]
    assert [name for name, _ in found.elements].count("img") == 1
    words = " ".join(found.text)
    for said in (
        "4 scenes: 2 scored, 1 failed, 1 skipped; 4 detections in 24 tiles.", "2 scenes scored",
        "and 1 scene more", "truncated at row 7", "another run has taken it over", "drift 2.1",
    ):  # fmt: skip
        assert said in words
