"""What a sweep shows: tables, pictures, and a page that is safe against names."""

import io

import numpy as np
import pytest
from page_checker import checked
from PIL import Image
from sweep_material import LOSS, MAP, record, sweep

from satray.errors import TrainingError
from satray.runs.run import Run
from satray.storage import Storage
from satray.tune import plots
from satray.tune.report import (
    best_lines,
    best_record,
    curves,
    draw,
    edge_lines,
    leaderboard,
    publish,
)
from satray.tune.space import Space

NAN = float("nan")
NASTY = '</title><script>alert("x")</script> & $x_2$ <img src=x onerror=y>'
RATE = "stages.0.learning_rate"


def test_the_leaderboard_holds_all_trials_best_first() -> None:
    ones = [
        record({"variant": "single3", RATE: 1e-3, "batch": 8}, 0.5, 0.7, seconds=3.0),
        record({"variant": {"towers": []}, RATE: 1e-2}, 0.9, 0.1, status="stopped", reason="asha"),
        record({"variant": "single3", RATE: 1}, status="failed", reason="out of memory"),
    ]
    table = leaderboard(ones, MAP)
    wanted = {
        "rank": [1, 2, None],
        "map": [0.9, 0.7, None],
        "status": ["stopped", "done", "failed"],
        "variant": ['{"towers": []}', "single3", "single3"],
        RATE: [1e-2, 1e-3, 1.0],
        "batch": [None, 8, None],
        "val_loss": [2.0, 1.0, None],
        "best_samples": [1000, 2000, None],
        "samples": [2000, 2000, 0],
        "reason": ["asha", None, "out of memory"],
    }
    assert {name: table.column(name).to_pylist() for name in wanted} == wanted
    assert str(table.schema.field("batch").type) == "int64"
    names = leaderboard([], MAP).column_names
    assert names == [name for name in table.column_names if name not in ("variant", RATE, "batch")]
    seeds = leaderboard([record({"seed": 4}, 0.5, seed=4)], MAP)
    assert (seeds.column_names.count("seed"), seeds.column("seed").to_pylist()) == (1, [4])


def test_curves_hold_every_evaluation_of_every_trial() -> None:
    ones = [record({"batch": 8}, 0.5, NAN, 0.7), record({"batch": 16}), record({"batch": 32}, 0.1)]
    table = curves(ones)
    assert table.column("evaluation").to_pylist().count(0) == 2
    rows = [row for row in table.to_pylist() if row["trial"] == ones[0].id]
    assert [row["samples"] for row in rows] == [1000, 2000, 3000]
    assert [row["map"] for row in rows] == pytest.approx([0.5, NAN, 0.7], nan_ok=True)
    assert table.num_rows == 4
    assert set(curves([]).column_names) == {"trial", "evaluation", "samples"}
    assert str(curves(ones)) == str(curves(ones[::-1]))


def test_the_best_or_why_there_is_none() -> None:
    good, bad = record({"batch": 1}, 0.5), record({"batch": 2}, status="failed", reason="no memory")
    assert best_record([bad, good], MAP) is good
    with pytest.raises(TrainingError, match=r"none of 1 trials has a mAP.*no memory"):
        best_record([bad], MAP)


def test_a_best_at_the_end_of_a_range_is_told() -> None:
    space = Space.parse(
        {RATE: {"log_uniform": [1e-4, 1e-1]}, "dropout": {"uniform": [0.0, 0.5]}, "batch": [8, 16]}
    )
    told = edge_lines(space, record({RATE: 0.09, "dropout": 0.01, "batch": 8}, 0.5))
    assert len(told) == 2
    assert "the best stages.0.learning_rate, 0.09, is about the highest that was tried" in told[0]
    assert "dropout, 0.01, is about the lowest" in told[1]
    assert edge_lines(space, record({RATE: 0.01, "dropout": 0.2, "batch": 8}, 0.5)) == ()
    lines = best_lines([record({RATE: 0.1}, 0.25, 0.5)], MAP, space)
    assert lines[0].startswith("best by mAP: 0.5000 after 2,000 samples, trial ")
    assert len(lines) == 2
    # only the range of its own variant counts
    space = Space.parse({"variant": ["a", "b"]}).with_ranges(
        RATE, "variant", [("a", (1e-4, 1e-2)), ("b", (1e-2, 1.0))]
    )
    assert edge_lines(space, record({"variant": "a", RATE: 1e-3}, 0.5)) == ()
    assert len(edge_lines(space, record({"variant": "a", RATE: 1e-2}, 0.5))) == 1


def test_the_page_of_the_default_sweep(tmp_path) -> None:
    done, records = sweep()
    done.notes["refitted: 0.9"] = None
    run = Run("tune", "abc", str(tmp_path), Storage())
    about = {"features": "8 variants, 12,345 vectors"}
    publish(done, records, "stages: trainable: head", run, about=about, tests={})
    assert [one.path for one in run.products] == [
        "plots/curves.png", "plots/parallel.png", "plots/rates.png", "report.html",
    ]  # fmt: skip
    said = " ".join(" ".join(checked((tmp_path / "report.html").read_bytes()).text).split())
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


def test_names_do_no_harm(tmp_path) -> None:
    variants = [
        {"towers": [{"name": "a", "backbone": name, "bands": ["red"]}]} for name in (NASTY, "é")
    ]
    done, records = sweep(space={"variant": variants})
    done.notes[NASTY] = None
    drawn = draw(done, records)
    assert set(drawn) == {"parallel", "curves"}  # there are no rates
    run, tests = Run("tune", "abc", str(tmp_path), Storage()), {NASTY: drawn["curves"]}
    publish(done, records, "", run, about={NASTY: NASTY}, tests=tests)
    said = checked((tmp_path / "report.html").read_bytes())
    assert sum("onerror" in text for text in said.text) > 5
    assert [a for name, a in said.elements if name == "img" and "onerror" in a] == []


@pytest.mark.parametrize(("count", "metric"), [(0, MAP), (1, LOSS), (2, MAP), (40, LOSS)])
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
