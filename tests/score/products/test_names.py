"""Names of products: safe, apart, and linked."""

from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from satray.score.products.names import (
    cam_name,
    detections_name,
    encoded,
    item_name,
    link_between,
    page_name,
    quicklook_name,
)


@pytest.mark.parametrize(
    ("scene", "path"),
    [
        ("a/b-1.tif", "cam/a/b-1.tif.tif"),
        ("haze & fog/é.jp2", "cam/haze%20%26%20fog/%C3%A9.jp2.tif"),
        ("../../etc", "cam/%2E./%2E./etc.tif"),
        ("/x", "cam/%2E%2E/x.tif"),
        ('a"<b>?.tif', "cam/a%22%3Cb%3E%3F.tif.tif"),
    ],
)
def test_paths_are_safe(scene: str, path: str) -> None:
    assert cam_name(scene) == path
    assert cam_name(scene, "nir") == path.removesuffix(".tif") + "__nir.tif"


def test_kinds_and_links() -> None:
    assert item_name("a b.tif") == "items/a%20b.tif.json"
    assert quicklook_name("a.tif") == "quicklooks/a.tif.png"
    assert detections_name("a.tif", "gpkg") == "detections/a.tif.gpkg"
    page, picture = page_name("r"), quicklook_name("x y/#1.tif")
    assert page == "runs/r.html"
    href = link_between(page, picture, url=True)
    assert href == "../quicklooks/x%2520y/%25231.tif.png"
    assert unquote(href) == f"../{picture}"
    href = link_between(item_name("a/b.tif"), cam_name("a/b.tif"), url=False)
    assert href == "../../cam/a/b.tif.tif"


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60))
def test_no_name_leaves_its_folder(scene: str) -> None:
    parts = encoded(scene).split("/")
    assert all(part and not part.startswith(".") for part in parts)
    assert len(parts) == scene.count("/") + 1
    assert all(c.isascii() and (c.isalnum() or c in "-._~%/") for c in encoded(scene))


@given(st.lists(st.text("ab/. %é", min_size=1, max_size=6), min_size=2, max_size=2, unique=True))
def test_two_scenes_have_two_names(scenes: list[str]) -> None:
    empty = any("" in scene.split("/") for scene in scenes)  # `a//b`: no listing has an empty part
    assert encoded(scenes[0]) != encoded(scenes[1]) or empty
