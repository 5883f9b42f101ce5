"""The report of a measured split: for each task, with names that would break a careless page."""

import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import report_material
import scoring_material as material
import torch
from matplotlib.figure import Figure
from page_checker import checked, save_nothing
from PIL import Image

from satray.data.index import BandStatistics, IndexMeta
from satray.evaluate.held import held_back
from satray.evaluate.picks import Pick, ends
from satray.evaluate.pictures import cells_on_picture, looks_of, render
from satray.evaluate.quality import measure
from satray.evaluate.report import Origin, find_origin, publish_report
from satray.evaluate.reproduce import compare
from satray.report.tiles import SIDE, on_pixels
from satray.runs.run import Product, Run, RunRecord
from satray.storage import Storage


@pytest.fixture(autouse=True)
def pictures(request, monkeypatch):
    """All plots are drawn for the report of each kind; else they are empty."""
    if request.function is not test_a_report_of_each_kind:
        monkeypatch.setattr(Figure, "savefig", save_nothing)


def report(found, root, origin=None):
    run = Run("evaluate", "e" * 12, str(root / "out"), Storage())
    publish_report(found, origin, run)
    return checked((root / "out" / "report.html").read_bytes()), run


def texts(page) -> str:
    return " ".join(page.text)


@pytest.mark.parametrize(
    ("task", "classes", "variant"),
    [
        ("binary", ("<b>ship</b>",), material.one_tower("max")),
        ("multilabel", report_material.HOSTILE, material.two_towers()),
        ("multiclass", report_material.HOSTILE, material.one_tower()),
        ("multilabel", report_material.HOSTILE, material.one_tower(head="dense")),
    ],
)
def test_a_report_of_each_kind(tmp_path, task, classes, variant) -> None:
    found = report_material.findings(tmp_path, task=task, classes=classes, variant=variant)
    page, run = report(found, tmp_path)
    paths = {product.path for product in run.products}
    assert {"report.html", "plots/roc.png", "plots/errors.png", "plots/tail_accuracy.png"} <= paths
    said = texts(page)
    for name in classes:
        assert name in said
    assert ("mAP" in said) == (task != "binary")
    pictures = [a for name, a in page.elements if name == "img" and "jpeg" in a["src"]]
    expected = sum(len(e.top) + len(e.bottom) for e in (
        ends(found.quality.scored, k) for k in range(len(classes))
    ))  # fmt: skip
    wrong = (found.quality.scored.given != found.quality.scored.labels).sum()
    if task == "multiclass":
        wrong //= 2
    assert len(pictures) == expected + min(20, wrong)
    assert ("no class activation maps" in said) == (variant.head == "dense")
    assert re.search(r"\bFP\b", said)
    assert re.search(r"\bnan\b|None", said) is None


def test_the_train_run_tells_of_itself(tmp_path) -> None:
    found = report_material.findings(tmp_path, keys={"gallery": []})
    out = tmp_path / "trained"
    (out / "bundle").mkdir(parents=True)
    (out / "curves.png").write_bytes(b"\x89PNG")
    record = RunRecord(
        job="train", run_id="t" * 12, config={"batch": 7, "storage": {"profile": "who"}},
        inputs={"index": "0" * 64}, versions={"torch": "1.2.3"}, started="2026-01-01T00:00:00",
        finished="2026-01-01T01:00:00", summary=("best by map <1>",), seconds={"total": 3600},
        products=(Product("bundle/model.json", 1, ""), Product("metrics.json", 1, "")),
    )  # fmt: skip
    (out / "run.json").write_bytes(record.to_json())
    (out / "metrics.json").write_text(json.dumps({"calibration": {"ece <after>": 0.01}}))
    for place in (out, out / "bundle"):
        origin = find_origin(str(place), Storage())
        assert origin is not None
        assert origin.curves is None  # not among the products
    page, run = report(found, tmp_path, origin)
    said = texts(page)
    for text in ("best by map <1>", "1.2.3", "60.0 min", "ece <after>", '"batch": 7'):
        assert text in said
    assert "who" not in said.split()
    assert '"profile"' not in said
    assert "plots/curves.png" not in {product.path for product in run.products}
    assert find_origin(str(tmp_path / "bundle"), Storage()) is None


@pytest.mark.parametrize(
    ("made_of", "expected", "other"),
    [
        ("checkpoint", "the solid one the evaluation that made the bundle", "of no single"),
        ("swa", "an average of snapshots, of no single evaluation", "the solid one"),
    ],
)
def test_the_curves_are_told_of_as_the_bundle_was_made(tmp_path, made_of, expected, other) -> None:
    found = report_material.findings(tmp_path, tiles=4, keys={"gallery": []})
    record = RunRecord(
        job="train", run_id="t" * 12, config={}, inputs={}, versions={}, started="", finished=""
    )
    picture = io.BytesIO()
    Image.new("RGB", (8, 8)).save(picture, "PNG")
    origin = Origin(record, {"bundle": {"weights_of": made_of}}, picture.getvalue())
    said = texts(report(found, tmp_path, origin)[0])
    assert expected in said
    assert other not in said


def test_without_galleries_errors_are_told_all_the_same(tmp_path) -> None:
    found = report_material.findings(tmp_path, keys={"gallery": []})
    wrong = int((found.quality.scored.given != found.quality.scored.labels).sum())
    assert wrong > 0
    page, _ = report(found, tmp_path)
    assert "No decision is wrong" not in texts(page)
    assert "Tiles by class" not in texts(page)
    pictures = [a for name, a in page.elements if name == "img" and "jpeg" in a["src"]]
    assert len(pictures) == min(20, wrong)


def test_that_nothing_is_wrong_is_said_where_nothing_is(tmp_path) -> None:
    found = report_material.findings(tmp_path, keys={"gallery": []})
    scored = found.quality.scored
    right = replace(found.predicted, labels=scored.given.astype(float))
    quality = measure(right, found.spec, 0)
    page, _ = report(replace(found, predicted=right, quality=quality), tmp_path)
    assert "No decision is wrong" in texts(page)


def test_a_class_that_no_tile_is_given_says_so(tmp_path) -> None:
    found = report_material.findings(tmp_path, tiles=4)
    spec = replace(found.spec, thresholds=(1.0, 0.5, 0.5))
    quality = measure(found.predicted, spec, 0)
    page, _ = report(replace(found, spec=spec, quality=quality), tmp_path)
    assert "No tile is given this class" in texts(page)


def test_the_page_says_what_was_measured_on_the_other_half(tmp_path) -> None:
    found = report_material.findings(tmp_path, tiles=24, keys={"gallery": []})
    calibration = {"seed": 1, "temperature": True, "thresholds": True}
    spec = replace(found.spec, provenance={"index": found.index.digest, "calibration": calibration})
    held = held_back(spec, found.index.digest, "val", found.predicted.ids)
    quality = measure(found.predicted, spec, 20, held)
    page, _ = report(replace(found, spec=spec, quality=quality), tmp_path)
    said = texts(page)
    for text in ("were fitted on 12 of these tiles", "on the other 12", "optimistic",
                 "of the 12 tiles that no threshold was fitted on"):  # fmt: skip
        assert text in said
    whole = texts(report(found, tmp_path)[0])
    assert "other half" not in whole
    assert "does not say which tile index" in whole


def test_the_page_says_which_classes_and_how_many_draws(tmp_path, monkeypatch) -> None:
    from satray.evaluate import report as reporting

    found = report_material.findings(tmp_path, keys={"gallery": [], "bootstrap": 70})
    fewer = replace(found.quality, draws=30)
    monkeypatch.setattr(reporting, "PANELS_MOST", 2)
    page, run = report(replace(found, quality=fewer), tmp_path)
    said = texts(page)
    assert said.count("The 2 of 3 classes with most positives.") == 4
    assert "30 bootstrap draws of tiles (70 would take too long)" in said
    assert "Tail accuracy at quantiles" in said
    assert "plots/tail_quantiles.png" in {product.path for product in run.products}


def test_warnings_stand_at_the_head(tmp_path) -> None:
    found = report_material.findings(tmp_path, keys={"gallery": []})
    before = replace(found.predicted, logits=found.predicted.logits + 1)
    comparison = compare(found.predicted, before, found.spec.classes, 1e-4)
    comparison = replace(comparison, run_id="o" * 12, differs=("weights differ: <a> then, b now",))
    quality = replace(found.quality, warnings=("majority trap: ...",))
    page, _ = report(replace(found, comparison=comparison, failed=3, quality=quality), tmp_path)
    alerts = [a for _, a in page.elements if a.get("role") == "alert"]
    assert len(alerts) == 1
    said = texts(page)
    for text in ("majority trap", "3 tiles could not be predicted", "does not reproduce run oooooo",
                 "weights differ: <a> then, b now"):  # fmt: skip
        assert text in said


def test_where_no_cause_was_found_nothing_is_said_to_be_the_same(tmp_path) -> None:
    found = report_material.findings(tmp_path, tiles=4, keys={"gallery": []})
    before = replace(found.predicted, logits=found.predicted.logits + 1)
    comparison = compare(found.predicted, before, found.spec.classes, 1e-4)
    said = texts(report(replace(found, comparison=comparison), tmp_path)[0])
    assert "No cause was found" in said
    assert "are the same" not in said


def test_unreadable_tiles_are_left_out_of_the_gallery(tmp_path) -> None:
    found = report_material.findings(tmp_path)
    (tmp_path / "tiles" / "a&b1.tif").unlink()
    (tmp_path / "tiles" / "a&b2.tif").write_bytes(b"no tiff")
    page, _ = report(found, tmp_path)
    assert "cannot be read any more" in texts(page)


def test_pictures_of_all_tiles_do_not_depend_on_how_many_are_read_at_once(
    tmp_path, monkeypatch
) -> None:
    from satray.evaluate import pictures

    found = report_material.findings(tmp_path)
    meta = with_statistics(found.index.meta)
    bundle = material.bundle(material.one_tower())
    picks = ends(found.quality.scored, 0).top
    uris = found.index.table.column("uri").to_pylist()
    drawn = []
    for size in (3, 16):
        monkeypatch.setattr(pictures, "AT_ONCE", size)
        drawn.append(render(picks, uris, [None] * len(uris), meta, bundle, Storage()))
    assert drawn[0].keys() == drawn[1].keys() == {(pick.row, 0) for pick in picks}
    for key, picture in drawn[0].items():
        apart = decoded(picture) - decoded(drawn[1][key])
        assert np.abs(apart).max() < 12  # rounding in other batch shapes, and JPEG's


def test_each_picture_has_the_map_of_its_own_class(tmp_path, monkeypatch) -> None:
    found = report_material.findings(tmp_path)
    monkeypatch.setattr("satray.report.tiles.thumbnail", lambda colours, evidence: evidence)
    bundle = material.bundle(material.one_tower())
    pairs = [(0, 2), (0, 0), (1, 2), (3, 0)]
    picks = [Pick(row, klass, 0.5, given=True, right=True) for row, klass in pairs]
    uris = found.index.table.column("uri").to_pylist()
    drawn = render(picks, uris, [None] * len(uris), found.index.meta, bundle, Storage())
    assert set(drawn) == set(pairs)
    weights_KD = bundle.network.cam_weights()["rgb"].numpy()
    expected = {}
    for row, klass in pairs:
        tile = torch.from_numpy(material.pixels(row)[None, [2, 1, 0]])
        features_Dhw = bundle.logits(tile, return_features=True)[1]["rgb"][0].numpy()
        map_hw = np.tensordot(weights_KD[klass], features_Dhw, 1)
        cells = cells_on_picture(bundle.spec, "rgb", map_hw.shape[1], SIDE, SIDE)
        expected[row, klass] = np.clip(on_pixels(map_hw, cells, SIDE, SIDE), 0, None)
    assert not np.allclose(expected[0, 2], expected[0, 0], atol=1e-2)
    for row, klass in pairs:
        top = max(expected[one].max() for one in pairs if one[1] == klass)
        assert top > 0
        assert np.allclose(drawn[row, klass], expected[row, klass] / top, atol=1e-3)


def decoded(picture: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(picture))).astype(int)


def with_statistics(meta: IndexMeta) -> IndexMeta:
    bands = tuple(
        BandStatistics(name, 1.0, 1.0, 0.0, 9.0, {"2": 100.0 * i, "98": 4000.0}, 1)
        for i, name in enumerate(meta.bands)
    )
    return replace(meta, statistics=bands)


def test_looks() -> None:
    meta = IndexMeta("binary", ("a",), material.BANDS, "uint16", (8, 8), (), {})
    assert looks_of(meta).bands == (2, 1, 0)
    assert looks_of(meta).limits is None
    assert looks_of(with_statistics(meta)).limits == ((200, 4000), (100, 4000), (0, 4000))
    eight = replace(meta, dtype="uint8", bands=("b1", "b2", "b3", "b4"))
    assert looks_of(eight).bands == (0, 1, 2)
    assert looks_of(eight).limits == ((0, 255),) * 3
    assert looks_of(replace(meta, bands=("sar", "nir"))).bands == (0,)


def test_d4_reaches_the_pictures(tmp_path) -> None:
    found = report_material.findings(tmp_path)
    bundle = material.bundle(material.one_tower())
    picks, uris = ends(found.quality.scored, 0).top, found.index.table.column("uri").to_pylist()
    one, other = (
        render(picks, uris, [None] * len(uris), found.index.meta, bundle, Storage(), d4=d4)
        for d4 in (False, True)
    )
    assert one.keys() == other.keys()
    assert any(one[key] != other[key] for key in one)


def test_a_gallery_can_be_had_of_some_classes_only(tmp_path) -> None:
    found = report_material.findings(tmp_path, keys={"gallery": ["été"]})
    page, _ = report(found, tmp_path)
    assert sum(name == "summary" for name, _ in page.elements) == 1 + 1  # class, recipe
    assert np.all(found.quality.scored.given.sum(axis=0) > 0)
