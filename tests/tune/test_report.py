"""What a sweep shows: a page that is well-formed, with what matters on it, safe against names."""

import pytest
from page_checker import checked
from sweep_material import LOSS, MAP, record, reported, sweep, tune

from satray.errors import TrainingError
from satray.runs.run import Run
from satray.storage import Storage
from satray.tune.report import draw, page, publish
from satray.tune.trials import space_of

NASTY = '</title><script>alert("x")</script> & $x_2$ <img src=x onerror=y>'


def text_of(data: bytes) -> str:
    return " ".join(" ".join(checked(data).text).split())


def test_the_page_of_the_default_sweep(tmp_path) -> None:
    found = sweep(about={"features": "8 variants, 12,345 vectors"}, notes=("refitted: 0.9",))
    run = Run("tune", "abc", str(tmp_path), Storage())
    publish(found, run)
    assert [one.path for one in run.products] == [
        "plots/curves.png", "plots/parallel.png", "plots/rates.png", "report.html",
    ]  # fmt: skip
    said = text_of((tmp_path / "report.html").read_bytes())
    for wanted in (
        "189 of 189 trials by grid search",
        "best by mAP",
        "The first 25 of 189",
        "refitted: 0.9",
        "8 variants, 12,345 vectors",
        "the loss is not finite",
        "split=test",
        "log-uniform 0.0001 to 0.1",
        "where stages.0.schedule.name: step",
        "trainable: head",
    ):
        assert wanted in said, wanted
    assert said.count("single3 3.2e-3 one_cycle") > 1
    assert said.count("looks somewhat better than it is") == 1


@pytest.mark.parametrize("metric", [MAP, LOSS])
@pytest.mark.parametrize("search", ["grid", "random"])
def test_sweeps_of_all_kinds_are_drawn(metric, search: str) -> None:
    found = sweep(metric, keys={"search": search})
    plots = draw(found)
    assert set(plots) == {"parallel", "rates", "curves"}
    checked(page(found, plots, "r"))


def test_without_rates_or_variants_there_is_less_to_draw() -> None:
    found = sweep(keys={"space": {"dropout": [0.1, 0.2]}})
    assert set(draw(found)) == {"parallel", "curves"}
    alone = sweep(keys={"space": {"stages.0.learning_rate": [0.1]}})
    assert set(draw(alone)) == {"parallel", "rates", "curves"}


def test_names_do_no_harm() -> None:
    variants = [
        {"towers": [{"name": "a", "backbone": name, "bands": ["red"]}]} for name in (NASTY, "é")
    ]
    found = sweep(keys={"space": {"variant": variants}}, about={NASTY: NASTY}, notes=(NASTY,),
                  tests={NASTY: draw(sweep())["curves"]})  # fmt: skip
    said = checked(page(found, draw(found), "r"))
    assert sum("onerror" in text for text in said.text) > 5
    assert [a for name, a in said.elements if name == "img" and "onerror" in a] == []


def test_a_sweep_without_any_value_has_no_page() -> None:
    recipe = tune(space={"batch": [8, 16]})
    space = space_of(recipe, ("red",), 100)
    failed = [record({"batch": 8}, status="failed", reason="NaN")]
    nothing = reported(recipe, space, MAP, failed)
    assert set(draw(nothing)) == {"parallel", "curves"}
    with pytest.raises(TrainingError, match="none of 1 trials"):
        page(nothing, {}, "r")
