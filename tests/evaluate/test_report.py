"""The report of a measured split: for each task, with names that would break a careless page."""

import io
import re
from dataclasses import replace

import numpy as np
import pytest
import report_material
import scoring_material as material
from matplotlib.figure import Figure
from page_checker import checked, save_nothing
from PIL import Image
from sklearn.metrics import precision_recall_curve, roc_curve

from satray.evaluate.gallery import ends
from satray.evaluate.plots import corners, draw
from satray.evaluate.quality import Predicted, measure
from satray.evaluate.reproduce import compare
from satray.metrics.scored import Ranking
from satray.runs.run import Run
from satray.storage import Storage


@pytest.fixture
def undrawn(monkeypatch):
    """Plots are empty where a page's words matter: matplotlib takes seconds."""
    monkeypatch.setattr(Figure, "savefig", save_nothing)


def report(found, root):
    run = Run("evaluate", "e" * 12, str(root / "out"), Storage())
    found.publish(run)
    page = checked((root / "out" / "report.html").read_bytes())
    return page, " ".join(page.text), {product.path for product in run.products}


def photographs(page) -> int:
    return sum(name == "img" and "jpeg" in a["src"] for name, a in page.elements)


@pytest.mark.parametrize(
    ("task", "classes", "variant"),
    [
        ("binary", ("<b>ship</b>",), material.one_tower("max")),
        ("multilabel", report_material.HOSTILE, material.two_towers()),
        ("multiclass", report_material.HOSTILE, material.one_tower()),
        ("multilabel", report_material.HOSTILE, material.one_tower(head="dense")),
    ],
)
def test_a_report_of_each_kind(tmp_path, undrawn, task, classes, variant) -> None:
    found = report_material.findings(tmp_path, task=task, classes=classes, variant=variant)
    page, said, paths = report(found, tmp_path)
    names = ("average_precision", "precision_recall", "roc", "reliability", "errors",
             "tail_accuracy", "tail_quantiles")  # fmt: skip
    assert {"report.html", *(f"plots/{name}.png" for name in names)} == paths
    assert [name for name in (*classes, "eager fp32") if name not in said] == []
    assert ("mAP" in said) == (task != "binary")
    shelves = [ends(found.quality.scored, k) for k in range(len(classes))]
    wrong = (found.quality.scored.predicted != found.quality.scored.labels).sum()
    wrong //= 2 if task == "multiclass" else 1
    assert photographs(page) == sum(len(e.top) + len(e.bottom) for e in shelves) + min(20, wrong)
    assert ("no class activation maps" in said) == (variant.head == "dense")
    assert re.search(r"\bFP\b", said)
    assert re.search(r"\bnan\b|None", said) is None
    assert "does not say which tile index" in said


def test_the_page_says_what_there_is_to_say(tmp_path, undrawn) -> None:
    found = report_material.findings(tmp_path, keys={"bootstrap": 20})
    scored = found.quality.scored
    page, said, _ = report(found, tmp_path)
    assert "No tile is given this class" not in said

    right = replace(found.predicted, labels=scored.predicted.astype(float))
    rule = replace(found.spec, thresholds=(1.0, 0.5, 0.5))
    before = replace(found.predicted, logits=found.predicted.logits + 1)
    other = compare(found.predicted, before, found.spec.classes, 1e-4, "o" * 12)
    warned = replace(found.quality, warnings=("majority trap: ...",))
    causes = replace(other, differs=("torch differs: <a> then, b now",))
    for case, expected, alerts in (
        (replace(found, predicted=right, quality=measure(right, found.spec, 0)),
         ["No decision is wrong"], 0),
        (replace(found, spec=rule, quality=measure(found.predicted, rule, 0), comparison=other),
         ["No tile is given this class", "does not reproduce run oooooo", "No cause was found"], 1),
        (replace(found, merged=replace(found.merged, failed=3), quality=warned, comparison=causes),
         ["3 tiles could not be predicted", "majority trap", "torch differs: <a> then, b now"], 1),
    ):  # fmt: skip
        page, told, _ = report(case, tmp_path)
        assert [text for text in expected if text not in told or text in said] == []
        assert sum(a.get("role") == "alert" for _, a in page.elements) == alerts


def test_many_classes_are_cut_and_few_draws_are_told(tmp_path, undrawn) -> None:
    classes = tuple(f"c{k}" for k in range(23))
    keys = {"bootstrap": 70}
    found = report_material.findings(tmp_path, tiles=6, classes=classes, keys=keys)
    fewer = replace(found.quality, document=found.quality.document | {"bootstrap_draws": 30})
    _, said, _ = report(replace(found, quality=fewer), tmp_path)
    assert said.count("The 20 of 23 classes with most positives.") == 4
    assert "30 bootstrap draws of tiles (70 would take too long)" in said


@pytest.mark.parametrize(
    ("task", "count", "tiles"), [("binary", 1, 60), ("multilabel", 6, 60), ("multilabel", 2, 1)]
)
def test_all_plots_draw_and_stay_readable_on_a_phone(task, count, tiles) -> None:
    rng = np.random.default_rng(0)
    labels = rng.random((tiles, count)) < 0.3
    labels[:, 1:][:, -1:] = False  # nothing is known of a class, and nothing at all of one tile
    names = tuple(f"${k}_x{'y' * 3 * k}" for k in range(count))  # not TeX, and ever longer
    spec = replace(material.bundle(material.one_tower()).spec, task=task, classes=names,
                   thresholds=(0.5,) * count)  # fmt: skip
    ids = tuple(map(str, range(tiles)))
    predicted = Predicted(ids, rng.normal(size=labels.shape), labels, "m")
    found = draw(measure(predicted, spec, 20 if tiles == 1 else 0), names)
    assert len(found) == 7
    for data in found.values():
        image = Image.open(io.BytesIO(data))
        image.load()
        assert (image.format, image.width) == ("PNG", 768)
        # 4.8 in at 160 dpi: 7.5 pt letters are 7.8 px on a phone of 360 px
        assert 0.3 < image.height / image.width < 1.9


@pytest.mark.parametrize(("tiles", "digits"), [(2, 1), (3, 0), (40, 1), (500, 1), (500, 6)])
def test_curves_are_scikit_learns(tiles, digits) -> None:
    rng = np.random.default_rng(tiles + digits)
    scores = rng.normal(size=tiles).round(digits)
    labels = rng.random(tiles) < 0.4
    labels[:2] = False, True
    ranking = Ranking.of(scores, labels)
    precision, recall, _ = precision_recall_curve(labels, scores, drop_intermediate=True)
    precision[-1] = precision[-2]  # theirs ends at 1, whatever was found
    for found, expected in zip(corners(ranking, "ap"), (recall, precision), strict=True):
        np.testing.assert_array_equal(found, expected)
    for found, expected in zip(corners(ranking, "auc"), roc_curve(labels, scores)[:2], strict=True):
        np.testing.assert_array_equal(found, expected)
