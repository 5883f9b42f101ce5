"""What a sweep shows: a page that is well-formed, with what matters on it, safe against names."""

import io

import numpy as np
import pytest
from matplotlib.figure import Figure
from page_checker import checked
from PIL import Image
from sweep_material import LOSS, MAP, record, reported, sweep, tune

from satray.errors import TrainingError
from satray.runs.run import Run
from satray.storage import Storage
from satray.tune import plots
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
@pytest.mark.parametrize("count", [0, 1, 2, 40])
def test_any_number_of_trials_is_drawn(count: int, metric) -> None:
    rng = np.random.default_rng(0)
    ones = [
        record(
            {"$rate": 10.0 ** -rng.integers(1, 5), "_x": ["$a", True, None][i % 3]}
            | ({"n": float(rng.random())} if i % 2 else {}),
            *([] if i % 5 == 3 else rng.random(2)),
            metric=metric,
            **({"status": "failed", "reason": "NaN"} if i % 5 == 3 else {}),
        )
        for i in range(count)
    ]
    for data, width in (
        (plots.parallel(ones, {"$rate": "r", "_x": "x", "n": "n"}, metric), 1024),
        (plots.rates(ones, "$rate", "_x", "n", metric), 768),
        (plots.rates(ones, "$rate", "", "", metric), 768),
        (plots.trial_curves(ones, metric), 768),
    ):
        image = Image.open(io.BytesIO(data))
        image.load()
        assert (image.format, image.width) == ("PNG", width)


@pytest.fixture
def made(monkeypatch) -> list[Figure]:
    """Figures in the order in which they were saved."""
    found: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, sink, **_: found.append(self))
    return found


@pytest.mark.parametrize(("metric", "best"), [(MAP, 0.9), (LOSS, 0.1)])
def test_the_best_trial_ends_at_the_top_and_stands_out(made, metric, best: float) -> None:
    values = {1e-4: (0.1,), 1e-1: (0.9,), 1e-2: (0.5,), 1.0: ()}
    ones = [record({"rate": rate}, *some, metric=metric) for rate, some in values.items()]
    plots.parallel(ones, {"rate": "r"}, metric)
    axis = made[0].axes[0]
    lines = {line.get_ydata()[1]: line for line in axis.lines if list(line.get_xdata()) == [0, 1]}
    finite = [end for end in lines if np.isfinite(end)]
    assert len(lines) == 4
    assert max(finite) == 1.0
    assert lines[1.0].get_linewidth() == max(line.get_linewidth() for line in axis.lines)
    words = {text.get_text(): text.xy for text in axis.texts}
    assert words[f"{best:g}"] == (1, 1.0)
    # numbers stand by the logarithms of their sizes
    assert [words[name] for name in ("0.0001", "0.01", "1")] == [
        (0, 0.0), (0, pytest.approx(0.5)), (0, 1.0),
    ]  # fmt: skip


def test_bad_losses_do_not_flatten_the_good(made) -> None:
    losses = {1e-3: 0.1, 1e-2: 0.2, 0.1: 0.3, 1.0: 1e6}
    ones = [record({"rate": rate}, loss, metric=LOSS) for rate, loss in losses.items()]
    plots.rates(ones, "rate", "", "", LOSS)
    plots.trial_curves(ones, LOSS)
    assert all(figure.axes[0].get_ylim()[1] < 1 for figure in made)
    (legend,) = made[1].legends
    assert [text.get_text()[:6] for text in legend.get_texts()] == [
        "0.1000", "0.2000", "0.3000", "100000",
    ]  # fmt: skip


def test_each_variant_has_a_panel_and_each_schedule_a_colour(made) -> None:
    ones = [
        record({"rate": rate, "variant": variant, "name": name}, 0.5)
        for variant in "ab"
        for rate in (0.1, 0.01)
        for name in ("step", "cosine")
    ]
    plots.rates([*ones, record({"rate": "auto"}, 0.9)], "rate", "variant", "name", MAP)
    shown = {axis.get_title(loc="left"): axis for axis in made[0].axes if axis.get_visible()}
    assert list(shown) == ["a", "b", "–"]
    assert [len(dots.get_offsets()) for dots in shown["a"].collections] == [2, 2]
    (legend,) = made[0].legends
    assert [text.get_text() for text in legend.get_texts()] == ["step", "cosine"]


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
