"""What `bench transfer run` left, as tables, a picture and bundles."""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from bench.held import Held, decoded
from bench.transfer import ALL, results, unpacked


def labels_of(data: str, ship: bool) -> tuple[Any, list[str]]:
    """Validation's labels (N, K) and class names, in the order of the logits."""
    with np.load(data, allow_pickle=False) as found:
        val, classes = found["splits"] == "val", [str(each) for each in found["classes"]]
        labels = found["labels"][val]
    return (labels[:, [classes.index("ship")]], ["ship"]) if ship else (labels, classes)


def table(options: argparse.Namespace) -> int:
    """A row a training; parts and rates against the recipe of their seed; bootstrap intervals.

    `but` leaves out the classes of two positives or fewer: one tile moves a sixteenth of the mean.
    """
    from satray.metrics.bootstrap import Interval, bootstrap, paired

    def within(found: Interval, sign: str = "") -> str:
        return f"{found.value:{sign}.3f} ({found.low:{sign}.3f} to {found.high:{sign}.3f})"

    rows = {row["id"]: row for row in results(options.out)}
    print("| experiment | mAP, last (95 %) | best | against the recipe | but rarest |"
          " AUC (95 %) | accuracy (majority) | s |\n|---|---|---|---|---|---|---|---|")  # fmt: skip
    for name, row in rows.items():
        labels, classes = labels_of(options.data, row["ship"])
        task, ship = ("binary" if row["ship"] else "multilabel"), row["ship"]
        logits = unpacked(row["logits"]["last"], len(classes))
        found, apart = bootstrap(logits, labels, classes, task, 1000), ["", ""]
        base = rows.get(f"parts/the recipe/{ALL}/{row['seed']}")
        if base and base is not row and not ship and row["tiles"] == ALL:
            other = unpacked(base["logits"]["last"], len(classes))
            many = labels.sum(axis=0) > 2
            for n, at in enumerate((np.ones_like(many), many)):
                names = [each for each, is_in in zip(classes, at, strict=True) if is_in]
                gap = paired(logits[:, at], other[:, at], labels[:, at], names, task, 1000)
                apart[n] = within(gap["map"], "+")
        end, best = row["history"][-1], max(one["map"] for one in row["history"])
        print(
            f"| {name} | {within(found['map'])} | {best:.3f} | {apart[0]} | {apart[1]} | "
            f"{within(found['auc'])} | {end['accuracy']:.3f} ({end['baseline_accuracy']:.3f}) | "
            f"{row['seconds']:.0f} |", flush=True,
        )  # fmt: skip
    return 0


def curve(options: argparse.Namespace) -> int:
    """Validation mAP against train tiles; hollow: cut short, as `progress.log` has it."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    ended = {row["id"]: row["history"][-1]["map"] for row in results(options.out)}
    log = Path(options.out, "progress.log").read_text().splitlines()
    cut = {line.split()[0].replace("_", " "): float(line.split()[2]) for line in log}
    figure, axes = pyplot.subplots(figsize=(6, 3.6), layout="constrained")
    for name, colour, beside in (("fine-tuned", "#1b6ca8", 0.96), ("frozen", "#3a9d5d", 1.04),
                                 ("from scratch", "#b3542d", 1)):  # fmt: skip
        points: dict[int, list[float]] = {}
        for key, value in (cut | ended).items():
            what, tiles = key.rsplit("/", 1)[0].rsplit("/", 1)
            if what == f"curve/{name}" or (what, name) == ("parts/the recipe", "fine-tuned"):
                points.setdefault(int(tiles), []).append(value)
                kept = colour if key in ended else "white"
                axes.plot(int(tiles) * beside, value, "o", ms=5, mec=colour, mfc=kept, zorder=3)
        counts = sorted(points)
        means = [float(np.mean(points[count])) for count in counts]
        axes.plot(counts, means, color=colour, label=name)
    default = ended.get(f"parts/layer decay: none/{ALL}/0")
    if default:
        axes.plot(ALL, default, "*", ms=11, color="#1b6ca8", label="fine-tuned, no layer decay")
    axes.set_xscale("log")
    axes.set_xticks([50, 200, 800, ALL])
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.minorticks_off()
    axes.set_xlabel("training tiles (AID, 150 px)")
    axes.set_ylabel("validation mAP, 16 classes")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(options.picture, dpi=130)
    return 0


def bundle(options: argparse.Namespace) -> int:
    """Bundles of the two `ship` networks, below `ship-max/` and `ship-avg/`."""
    import torch

    from satray.config.parse import build
    from satray.config.train import TrainRecipe
    from satray.runs.run import Run
    from satray.storage import Storage
    from satray.training import products
    from satray.training.calibrate import calibrate
    from satray.training.loop.evaluation import Predictions
    from satray.training.plan.setup import Tiles, set_up
    from satray.training.workers.choice import Choice

    held = Held(decoded(options.data), dict(np.load(options.data)), torch.device("cpu"))
    for row in results(options.out):
        if row["group"] != "ship" or not row["name"].startswith("the recipe"):
            continue
        file = next(key for key in row["keys"] if key.startswith("weights="))
        weights = Path(options.weights).absolute() / Path(file.partition("=")[2]).name
        keys = [key for key in row["keys"] if key != file]
        given = build(TrainRecipe, [*keys, f"weights={weights}"], lambda *_: b"")
        index, _ = held.index(row["seed"], ALL, ship=True)
        setup = set_up(given, Storage(), Tiles(index, "held"))
        val = index.part("val")
        logits = unpacked(row["logits"]["best"], 1)
        found = calibrate(
            logits, val.labels, val.table["tile_id"].to_pylist(), ["ship"], "binary",
            given.calibrate, given.seed,
        )  # fmt: skip
        best = max(row["history"], key=lambda one: one["map"])
        kept = Path(options.out, f"{row['name'].replace(' ', '-')}.pt")
        state = torch.load(kept, map_location="cpu", weights_only=True)
        predictions = Predictions(np.arange(len(logits)), logits, val.labels, 0)
        choice = Choice("checkpoint", (state,), best, predictions, None)
        place = Path(options.out, f"ship-{row['name'].split()[-1]}")
        place.mkdir(exist_ok=True)
        made = Run("transfer", row["id"], str(place), Storage())
        for name, data in products.bundle(setup, made, choice, found).items():
            (place / name).write_bytes(data)
        print(f"{place}: {found.line()}")
    return 0
