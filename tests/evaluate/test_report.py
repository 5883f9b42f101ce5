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

from satray.evaluate.gallery import ends
from satray.evaluate.plots import bars, draw, matrix, reliability, tails
from satray.evaluate.quality import Predicted, held_back, measure
from satray.evaluate.report import find_training
from satray.evaluate.reproduce import compare
from satray.runs.run import Product, Run, RunRecord
from satray.storage import Storage

NAN = float("nan")
WORDS_ONLY = {"gallery": [], "bootstrap": 20}


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
    names = ("average_precision", "precision_recall", "roc", "reliability", "scores", "errors",
             "tail_accuracy", "tail_quantiles")  # fmt: skip
    assert {"report.html", *(f"plots/{name}.png" for name in names)} == paths
    for name in classes:
        assert name in said
    assert ("mAP" in said) == (task != "binary")
    shelves = [ends(found.quality.scored, k) for k in range(len(classes))]
    wrong = (found.quality.scored.predicted != found.quality.scored.labels).sum()
    if task == "multiclass":
        wrong //= 2
    assert photographs(page) == sum(len(e.top) + len(e.bottom) for e in shelves) + min(20, wrong)
    assert ("no class activation maps" in said) == (variant.head == "dense")
    assert re.search(r"\bFP\b", said)
    assert re.search(r"\bnan\b|None", said) is None
    assert "by itself" not in said
    assert "does not say which tile index" in said
    assert "Training curves" not in said


def test_the_page_says_what_there_is_to_say(tmp_path, undrawn) -> None:
    found = report_material.findings(tmp_path, keys=WORDS_ONLY)
    scored = found.quality.scored
    page, said, _ = report(found, tmp_path)
    assert "Tiles by class" not in said
    assert photographs(page) == min(20, (scored.predicted != scored.labels).sum()) > 0

    right = replace(found.predicted, labels=scored.predicted.astype(float))
    rule = replace(found.spec, thresholds=(1.0, 0.5, 0.5))
    before = replace(found.predicted, logits=found.predicted.logits + 1)
    other = compare(found.predicted, before, found.spec.classes, 1e-4, "o" * 12)
    some = replace(found, recipe=found.recipe.model_copy(update={"gallery": ("ship",)}))
    warned = replace(found.quality, warnings=("majority trap: ...",))
    causes = replace(other, differs=("torch differs: <a> then, b now",))
    for case, expected, alerts in (
        (replace(found, predicted=right, quality=measure(right, found.spec, 0)),
         ["No decision is wrong"], 0),
        (replace(some, spec=rule, quality=measure(found.predicted, rule, 0), comparison=other),
         ["No tile is given this class", "does not reproduce run oooooo", "No cause was found"], 1),
        (replace(found, failed=3, quality=warned, comparison=causes),
         ["3 tiles could not be predicted", "majority trap", "torch differs: <a> then, b now"], 1),
    ):  # fmt: skip
        page, told, _ = report(case, tmp_path)
        assert [text for text in expected if text not in told or text in said] == []
        assert sum(a.get("role") == "alert" for _, a in page.elements) == alerts


def test_the_page_says_what_was_measured_on_the_other_half(tmp_path, undrawn) -> None:
    found = report_material.findings(tmp_path, tiles=24, keys=WORDS_ONLY)
    calibration = {"seed": 1, "temperature": True, "thresholds": True}
    spec = replace(found.spec, provenance={"index": found.index.digest, "calibration": calibration})
    held = held_back(spec, found.index.digest, "val", found.predicted.ids)
    quality = measure(found.predicted, spec, 20, held)
    _, said, _ = report(replace(found, spec=spec, quality=quality), tmp_path)
    for text in ("were fitted on 12 of these tiles", "on the other 12", "optimistic",
                 "of the 12 tiles that no threshold was fitted on"):  # fmt: skip
        assert text in said


def test_many_classes_are_cut_and_few_draws_are_told(tmp_path, undrawn) -> None:
    classes = tuple(f"c{k}" for k in range(23))
    found = report_material.findings(
        tmp_path, tiles=6, classes=classes, keys={"gallery": [], "bootstrap": 70}
    )
    fewer = replace(found.quality, document=found.quality.document | {"bootstrap_draws": 30})
    _, said, _ = report(replace(found, quality=fewer), tmp_path)
    assert said.count("The 20 of 23 classes with most positives.") == 4
    assert "30 bootstrap draws of tiles (70 would take too long)" in said


def test_the_training_tells_of_itself(tmp_path, undrawn) -> None:
    found = report_material.findings(tmp_path / "bundle", keys=WORDS_ONLY)  # beside run.json
    folder = tmp_path / "bundle"
    picture = io.BytesIO()
    Image.new("RGB", (8, 8)).save(picture, "PNG")
    record = RunRecord(
        job="train", run_id="t" * 12, config={"storage": {"profile": "who"}}, inputs={},
        versions={}, started="2026-01-01T00:00:00", finished="2026-01-01T01:00:00",
        summary=("best by map <1>",), seconds={"total": 3600},
        products=(Product("bundle/model.json", 1, ""), Product("curves.png", 1, "")),
    )  # fmt: skip
    assert find_training(str(folder / "bundle"), Storage()) is None
    (folder / "curves.png").write_bytes(picture.getvalue())
    (folder / "run.json").write_bytes(record.to_json())
    for place in (folder, folder / "bundle"):
        assert find_training(str(place), Storage()) == (record, picture.getvalue())
    for made_of, caption in (
        ("checkpoint", "the solid one the evaluation that made the bundle"),
        ("swa", "an average of snapshots, of no single evaluation"),
    ):
        spec = replace(found.spec, provenance={"weights_of": made_of})
        _, said, paths = report(replace(found, spec=spec), tmp_path)
        for text in ("best by map <1>", "60.0 min", "tttttt", caption):
            assert text in said
        assert "who" not in said.split()
        assert "plots/curves.png" in paths


# Plots


def size(data: bytes) -> tuple[int, int]:
    image = Image.open(io.BytesIO(data))
    assert image.format == "PNG"
    image.load()
    return image.size


@pytest.mark.parametrize(("task", "count"), [("binary", 1), ("multilabel", 6)])
def test_all_plots_draw_and_stay_readable_on_a_phone(task: str, count: int) -> None:
    rng = np.random.default_rng(0)
    labels = rng.random((60, count)) < 0.3
    if count > 1:
        labels[:, -1] = False  # nothing is known of a class
    names = tuple(f"${k}_x{'y' * 3 * k}" for k in range(count))  # not TeX, and ever longer
    spec = replace(material.bundle(material.one_tower()).spec, task=task, classes=names,
                   thresholds=(0.5,) * count)  # fmt: skip
    tiles = Predicted(tuple(map(str, range(60))), rng.normal(size=labels.shape), labels, "m")
    found = draw(measure(tiles, spec, 0), names, spec.thresholds)
    assert len(found) == 8
    for data in found.values():
        width, height = size(data)
        assert width == 768  # 4.8 in at 160 dpi: 7.5 pt letters are 7.8 px on a phone of 360 px
        assert 0.3 < height / width < 1.9


def test_plots_of_nothing_draw() -> None:
    empty = {"counts": [0] * 15, "mean_score": [NAN] * 15, "mean_label": [NAN] * 15}
    above = {name: [NAN, NAN] for name in ("mean", "fixed", "micro")}
    row = {"ap": NAN, "ap_interval": {"low": NAN, "high": NAN}, "prevalence": 0.2}
    for data in (
        reliability(np.linspace(0, 1, 16), empty, "E"),
        tails({"at": [0.5, 0.9], "classes": [1, 0], **above}, "t"),
        bars({"_a": row, "b": row | {"ap_interval": None}}, NAN),
        matrix(np.full((2, 2), NAN), ["_a", "$b"], "said", "is"),
    ):
        assert size(data)[0] == 768
