"""Transfer against training from scratch on AID: what each part of the recipe gives, and how much.

    python -m bench transfer pack ../shared/data/aid aid.npz
    python -m bench transfer run aid.npz --weights ../shared/data/weights --out runs/transfer
    python -m bench transfer table runs/transfer aid.npz
    python -m bench transfer curve runs/transfer

`run` trains experiment after experiment as the job `train` would, by recipes of its keys and the
same loop, but in process: tiles are held decoded on the device, so that neither Ray nor rasterio
is needed. What is in `results.jsonl` already is left out, so a run cut short is gone on with.
"""

import argparse
import base64
import dataclasses
import io
import json
import multiprocessing
import re
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

SIDE, ALL = 192, 1917
RGB = ("red", "green", "blue")
SHOWN = (
    "pseudo_epoch", "stage", "samples_seen", "learning_rate", "train_loss", "val_loss", "map",
    "accuracy", "baseline_accuracy", "balanced_accuracy", "auc", "images_per_second",
    "seconds_compute", "seconds_evaluate",
)  # fmt: skip
"""Of a history's columns."""


def variant(number: int = 0) -> str:
    """EfficientNet-Lite over red, green and blue, as a key of train."""
    tower = f"{{name: rgb, backbone: tf_efficientnet_lite{number}, bands: [red, green, blue]}}"
    return f"variant={{towers: [{tower}], pooling: avg}}"


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A training: the recipe of `train` without keys but for these."""

    group: str
    name: str
    keys: tuple[str, ...]
    seed: int = 0
    tiles: int = ALL

    @property
    def id(self) -> str:
        """Names it in `results.jsonl`."""
        return f"{self.group}/{self.name}/{self.tiles}/{self.seed}"

    @property
    def usual(self) -> bool:
        """Whether its stages are those of `train` with weights, or these but for some keys."""
        return not any(key == "weights=none" or key.startswith("stages=") for key in self.keys)


LITE0 = (variant(), "weights={lite0}")
PARTS: dict[str, tuple[str, ...]] = {
    "the recipe": (),
    "layer decay: none": ("stages.1.layer_decay=1",),
    "warm-up: none": ("stages.1.schedule.warmup=0",),
    "EMA: none": ("average.ema=0",),
    "mixup 0.2": ("augment.mixup=0.2",),
    "weight decay 0": ("optimizer.weight_decay=0",),
    "224 px": ("input.size=224",),
    "maximum pooling": ("pooling=max",),
    "twice as long": ("stages.1.pseudo_epochs=40",),
    "half as long": ("stages.1.pseudo_epochs=10",),
    "rate 1e-3": ("stages.1.learning_rate=1e-3",),
    "layer decay 0.8": ("stages.1.layer_decay=0.8",),
}
"""Name -> keys that differ."""
CURVE: dict[str, tuple[str, ...]] = {
    "frozen": (*LITE0, "stages=[{{trainable: head, learning_rate: 3e-3, pseudo_epochs: 23}}]"),
    "fine-tuned": LITE0,
    "from scratch": (
        variant(), "weights=none", "stages.0.learning_rate=2e-3", "stages.0.pseudo_epochs={long}",
    ),
}  # fmt: skip
"""Name -> keys; `{long}` is 23 pseudo-epochs below 800 tiles, else 43."""
COLOURS = {"fine-tuned": ("#1b6ca8", 0.96), "frozen": ("#3a9d5d", 1.04),
           "from scratch": ("#b3542d", 1.0)}  # fmt: skip
"""Of the curve, and how far its points stand aside."""


def experiments() -> list[Experiment]:
    """All of them, the most wanted first."""
    found = [Experiment("parts", name, (*LITE0, *keys)) for name, keys in PARTS.items()]
    found += [
        Experiment("curve", name, (*keys, f"pseudo_epoch={ALL}"), seed, tiles)
        for seed in range(3) for tiles in (50, 200, 800, ALL) for name, keys in CURVE.items()
        if (tiles < 800 or seed == 0) and (name, tiles) != ("fine-tuned", ALL)  # of `parts`
    ]  # fmt: skip
    found += [
        Experiment("larger", f"Lite{number} {size} px",
                   (variant(number), f"weights={{lite{number}}}", f"input.size={size}"))
        for number in (2, 1) for size in (SIDE, 224)
    ]  # fmt: skip
    return found + [
        Experiment("parts", name, (*LITE0, *PARTS[name]), seed)
        for seed in (1, 2) for name in ("the recipe", "layer decay: none")
    ]  # fmt: skip


def recipe_of(experiment: Experiment, weights: dict[str, str], base: list[str]) -> list[str]:
    """Keys of train; `base` changes the usual stages, before the experiment does."""
    named = {"long": "23" if experiment.tiles < 800 else "43", **weights}
    keys = [
        key if key.startswith("variant=") else key.format(**named) for key in experiment.keys
    ]  # fmt: skip
    changed = base if experiment.usual else []
    return [f"input.size={SIDE}", f"seed={experiment.seed}", "index=held", *changed, *keys]


class Held:
    """The tiles, decoded, on the device; and their index, as `prepare` would write it."""

    def __init__(self, pixels_NCHW: Any, table: dict[str, Any], device: Any) -> None:
        import torch

        self.device = device
        self.pixels_NCHW = torch.from_numpy(np.array(pixels_NCHW)).to(device)
        self.classes = tuple(str(name) for name in table["classes"])
        self.labels_NK, self.ids = table["labels"], [str(each) for each in table["ids"]]
        self.split = np.array([str(each) for each in table["splits"]])

    def index(self, seed: int, tiles: int) -> tuple[Any, dict[str, Any]]:
        """The index of so many tiles, and where the tiles of its splits are held.

        A draw of fewer train tiles is the first so many of a permutation that the seed gives, all
        classes that the draw misses counted as they come.
        """
        import pyarrow as pa

        from satray.data.index import BandStatistics, IndexMeta, TileIndex, table_with

        train = np.flatnonzero(self.split == "train")
        if tiles < len(train):
            train = np.sort(np.random.default_rng(seed).permutation(train)[:tiles])
        places = {"train": train, "val": np.flatnonzero(self.split == "val")}
        side = self.pixels_NCHW.shape[2]
        rows = [
            {"tile_id": self.ids[i], "uri": self.ids[i], "split": split,
             "labels": self.labels_NK[i].tolist(), "height": side, "width": side,
             "bands": list(RGB), "dtype": "uint8", "crs": None, "transform": None,
             "nodata": None, "bytes": 0, "etag": None}
            for split, part in places.items() for i in part
        ]  # fmt: skip
        statistics = tuple(
            BandStatistics(band, *self._mean_and_std(train, c), 0.0, 255.0, {}, 1)
            for c, band in enumerate(RGB)
        )
        meta = IndexMeta("multilabel", self.classes, RGB, "uint8", (side, side), statistics, {})
        return TileIndex(table_with(meta, pa.Table.from_pylist(rows)), meta), places

    def _mean_and_std(self, rows: Any, band: int) -> tuple[float, float]:
        import torch

        x_NHW = self.pixels_NCHW[:, band][torch.from_numpy(rows).to(self.device)]
        counts = torch.bincount(x_NHW.flatten(), minlength=256).double().cpu().numpy()
        mean = float(np.average(np.arange(256), weights=counts))
        return mean, float(np.average((np.arange(256) - mean) ** 2, weights=counts) ** 0.5)


def pack(options: argparse.Namespace) -> int:
    """Put an archive's files and its table into one file."""
    import pandas as pd

    source = Path(options.source)
    table = pd.read_csv(source / "labels.csv")
    classes = list(table.columns[3:])
    files = [(source / "images" / name).read_bytes() for name in table["image"]]
    np.savez(
        options.target, data=np.frombuffer(b"".join(files), np.uint8),
        sizes=np.array([len(each) for each in files]), ids=np.array(table["image"], dtype=str),
        splits=np.array(table["split"], dtype=str), classes=np.array(classes),
        labels=table[classes].to_numpy(np.uint8),
    )  # fmt: skip
    return 0


def decoded(packed: str) -> Any:
    """Pixels (N, 3, H, W) uint8 of a packed archive."""
    from PIL import Image

    with np.load(packed, allow_pickle=False) as found:
        data, ends = found["data"], np.cumsum(found["sizes"])

    def one(part: tuple[int, int]) -> Any:
        image = Image.open(io.BytesIO(data[part[0] : part[1]].tobytes())).convert("RGB")
        return np.asarray(image).transpose(2, 0, 1)

    with ThreadPoolExecutor(8) as pool:
        return np.stack(list(pool.map(one, zip([0, *ends[:-1]], ends, strict=True))))


def train(experiment: Experiment, keys: list[str], held: Held, log: Path) -> dict[str, Any]:
    """Train one, tell `log` of each pseudo-epoch, and give its row of `results.jsonl`."""
    import torch

    from satray.config.cli import build
    from satray.config.train import TrainRecipe
    from satray.data.order import copies
    from satray.storage import Storage
    from satray.train.loop.precision import takes_bf16
    from satray.train.loop.step import AugmentedTiles
    from satray.train.loop.train import Loop, LoopSettings
    from satray.train.plan.order import train_order
    from satray.train.plan.setup import Tiles, set_up
    from satray.train.workers.initial import prepared

    begun, device = time.perf_counter(), held.device
    given = build(TrainRecipe, keys, lambda *_: b"")
    index, places = held.index(experiment.seed, experiment.tiles)
    setup = set_up(given, Storage(), Tiles(index, "held"))
    network, lines = prepared(setup, Storage())
    network.to(device)
    labels = {split: torch.from_numpy(index.part(split).labels.copy()) for split in places}
    at = {split: torch.from_numpy(rows).to(device) for split, rows in places.items()}
    plan = setup.plan
    order = train_order(given, plan, labels["train"].numpy())

    def batches(split: str, rows: Any, came: Any, size: int) -> Iterator[dict[str, Any]]:
        for start in range(0, len(rows), size):
            some = rows[start : start + size]
            yield {
                "pixels": held.pixels_NCHW[at[split][torch.from_numpy(some).to(device)]],
                "labels": labels[split][some], "row": some, "copy": came[start : start + size],
                "valid": np.ones(len(some), dtype=bool),
            }  # fmt: skip

    def train_batches(pseudo_epoch: int) -> Iterator[dict[str, Any]]:
        rows = order.rows(pseudo_epoch)
        return batches("train", rows, copies(rows), plan.local_batch)

    def val_batches() -> Iterator[dict[str, Any]]:
        rows = np.arange(len(places["val"]), dtype=np.int64)
        return batches("val", rows, np.zeros_like(rows), 161)  # 483 = 3 x 161

    loop = Loop(
        network, plan, device=device,
        settings=LoopSettings.of(
            setup, labels["train"].numpy(), takes_bf16(given.precision, device)
        ),
        train_input=AugmentedTiles.of(given, setup.preprocess(), given.seed),
        eval_input=setup.preprocess(),
    )  # fmt: skip
    rows, logits, top = [], {}, -1.0
    while not loop.done:
        report, _ = loop.step(train_batches, val_batches)
        row = report.row()
        rows.append({name: row[name] for name in SHOWN})
        took = time.perf_counter() - begun
        with log.open("a") as sink:
            name = experiment.id.replace(" ", "_")
            sink.write(f"{name} {len(rows)} {row['map']:.4f} {took:.0f} s\n")
        logits["last"] = report.predictions.logits_NK
        if row[setup.best] > top:
            top, logits["best"] = row[setup.best], report.predictions.logits_NK
    return {
        "id": experiment.id, "group": experiment.group, "name": experiment.name,
        "tiles": experiment.tiles, "seed": experiment.seed,
        "keys": keys, "weights": list(lines), "rates": [s.peak for s in plan.stages],
        "seconds": round(time.perf_counter() - begun, 1), "history": rows,
        "logits": {
            name: base64.b64encode(np.asarray(value, np.float16).tobytes()).decode()
            for name, value in logits.items()
        },
    }  # fmt: skip


_HELD: list[Held] = []


def _begin(data: str, pixels: str, device: str, threads: int) -> None:
    """A worker process, once: tiles to the device."""
    import torch

    torch.set_num_threads(threads)
    table = dict(np.load(data, allow_pickle=False))
    _HELD.append(Held(np.load(pixels, mmap_mode="r"), table, torch.device(device)))


def _one(experiment: Experiment, keys: list[str], out: Path) -> dict[str, Any]:
    """One experiment on a worker; what fails is told in its row."""
    try:
        return train(experiment, keys, _HELD[0], out / "progress.log")
    except Exception as error:
        return {"id": experiment.id, "error": f"{type(error).__name__}: {error}"[:500]}


def results(out: str) -> list[dict[str, Any]]:
    """What has been trained."""
    file = Path(out, "results.jsonl")
    lines = file.read_text().splitlines() if file.exists() else []
    return [row for row in map(json.loads, lines) if "error" not in row]


def run(options: argparse.Namespace) -> int:
    """Train what is not done yet, several at once, until the seconds are over."""
    import torch

    ends = time.monotonic() + options.seconds
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    done = {row["id"] for row in results(options.out)}
    files = sorted(Path(options.weights).absolute().glob("tf_efficientnet_lite*.safetensors"))
    weights = {file.stem.removeprefix("tf_efficientnet_"): str(file) for file in files}
    wanted = [
        one for one in experiments()
        if one.id not in done and re.search(options.only, one.id)
        and all(key[9:-1] in weights for key in one.keys if key.startswith("weights={"))
    ]  # fmt: skip
    device = options.device or ("cuda:0" if torch.cuda.is_available() else "cpu")
    print(f"{len(done)} done, {len(wanted)} to do on {device}, {options.jobs} at once", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        pixels = str(Path(folder) / "pixels.npy")
        np.save(pixels, decoded(options.data))
        begin = (str(Path(options.data).absolute()), pixels, device, options.threads)
        with multiprocessing.get_context("spawn").Pool(options.jobs, _begin, begin) as pool:
            running = [
                pool.apply_async(_one, (one, recipe_of(one, weights, options.base), out))
                for one in wanted
            ]
            while running and time.monotonic() < ends:
                for task in [each for each in running if each.ready()]:
                    running.remove(task)
                    row = task.get()
                    with (out / "results.jsonl").open("a") as sink:
                        sink.write(json.dumps(row) + "\n")
                    last = row["history"][-1] if "history" in row else row
                    print(row["id"], json.dumps(last), flush=True)
                time.sleep(0.05)
            pool.terminate()
    print(f"{len(running)} left", flush=True)
    return 0


def table(options: argparse.Namespace) -> int:
    """A row a training; against the recipe of its seed; bootstrap intervals.

    `but` leaves out the classes of two positives or fewer: one tile moves a sixteenth of the mean.
    """
    from satray.metrics.bootstrap import Interval, bootstrap, paired

    def within(found: Interval, sign: str = "") -> str:
        return f"{found.value:{sign}.3f} ({found.low:{sign}.3f} to {found.high:{sign}.3f})"

    def last(row: dict[str, Any]) -> Any:
        flat = np.frombuffer(base64.b64decode(row["logits"]["last"]), np.float16)
        return flat.astype(np.float32).reshape(labels.shape)

    with np.load(options.data, allow_pickle=False) as found:
        labels, classes = found["labels"][found["splits"] == "val"], found["classes"].tolist()
    many = labels.sum(axis=0) > 2
    rows = {row["id"]: row for row in results(options.out)}
    print("| experiment | mAP, last (95 %) | best | against the recipe | but rarest |"
          " AUC (95 %) | accuracy (majority) | s |\n|---|---|---|---|---|---|---|---|")  # fmt: skip
    for name, row in rows.items():
        logits, apart = last(row), ["", ""]
        whole = bootstrap(logits, labels, classes, "multilabel", 1000)
        base = rows.get(f"parts/the recipe/{ALL}/{row['seed']}")
        if base and base is not row and row["tiles"] == ALL:
            other = last(base)
            for n, at in enumerate((np.ones_like(many), many)):
                some = [each for each, is_in in zip(classes, at, strict=True) if is_in]
                gap = paired(logits[:, at], other[:, at], labels[:, at], some, "multilabel", 1000)
                apart[n] = within(gap["map"], "+")
        end, best = row["history"][-1], max(one["map"] for one in row["history"])
        print(
            f"| {name} | {within(whole['map'])} | {best:.3f} | {apart[0]} | {apart[1]} | "
            f"{within(whole['auc'])} | {end['accuracy']:.3f} ({end['baseline_accuracy']:.3f}) | "
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
    for name, (colour, beside) in COLOURS.items():
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
    axes.set(xscale="log", xlabel="training tiles (AID, 150 px)")
    axes.set_ylabel("validation mAP, 16 classes")
    axes.set_xticks([50, 200, 800, ALL])
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.minorticks_off()
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(options.picture, dpi=130)
    return 0


def main(arguments: list[str]) -> int:
    """Pack, run, or show."""
    parser = argparse.ArgumentParser(
        prog="python -m bench transfer", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    ways = parser.add_subparsers(required=True)
    packing = ways.add_parser("pack", help="images and labels.csv of AID into one file")
    packing.add_argument("source")
    packing.add_argument("target")
    packing.set_defaults(way=pack)
    running = ways.add_parser("run", help="train what is not done yet")
    running.add_argument("data", help="what pack wrote")
    running.add_argument("--weights", required=True, help="folder of NAME.safetensors")
    running.add_argument("--out", default="runs/transfer")
    running.add_argument("--only", default="", help="regular expression of ids")
    running.add_argument("--jobs", type=int, default=1, help="trainings at once")
    running.add_argument("--threads", type=int, default=1, help="CPU threads of each")
    running.add_argument("--seconds", type=float, default=1e9, help="after which it ends")
    running.add_argument(
        "--base", action="append", default=[],
        help="KEY=VALUE of train for all that train by the usual stages; may come several times",
    )  # fmt: skip
    running.add_argument("--device", default="")
    running.set_defaults(way=run)
    showing = ways.add_parser("table", help="results.jsonl as a table")
    showing.add_argument("out")
    showing.add_argument("data", help="what pack wrote")
    showing.set_defaults(way=table)
    drawing = ways.add_parser("curve", help="the learning curve as a picture")
    drawing.add_argument("out")
    drawing.add_argument("--picture", default="bench/transfer.png")
    drawing.set_defaults(way=curve)
    options = parser.parse_args(arguments)
    return int(options.way(options))
