"""Transfer against training from scratch on AID: what each part of the recipe gives, and how much.

    python -m bench transfer pack ../shared/data/aid aid.npz
    python -m bench transfer run aid.npz --weights ../shared/data/weights --out runs/transfer
    python -m bench transfer table runs/transfer aid.npz
    python -m bench transfer curve runs/transfer
    python -m bench transfer bundle runs/transfer aid.npz --weights ../shared/data/weights

`run` trains experiment after experiment as the job `train` would, by recipes of its keys and the
same loop, but in process: tiles are held decoded on the device, so that neither Ray nor rasterio
is needed. What is in `results.jsonl` already is left out, so a run cut short is gone on with.
"""

import argparse
import base64
import dataclasses
import functools
import json
import multiprocessing
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bench.held import Held, decoded, pack

SIDE, ALL = 192, 1917


def variant(number: int = 0, pooling: str = "avg") -> str:
    """EfficientNet-Lite over red, green and blue, as a key of train."""
    tower = f"{{name: rgb, backbone: tf_efficientnet_lite{number}, bands: [red, green, blue]}}"
    return f"variant={{towers: [{tower}], pooling: {pooling}}}"


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A training: the recipe of `train` without keys but for these."""

    group: str
    name: str
    keys: tuple[str, ...]
    trick: str = ""
    """What no key says: `decay_all`: weight decay on norms and biases too; `drop_path`: 0.1;
    `no_head`: without the stage of the head."""
    seed: int = 0
    tiles: int = ALL
    ship: bool = False

    @property
    def id(self) -> str:
        """Names it in `results.jsonl`."""
        return f"{self.group}/{self.name}/{self.tiles}/{self.seed}"

    @property
    def usual(self) -> bool:
        """Whether its stages are those of `train` with weights, or these but for some keys."""
        return not any(key == "weights=none" or key.startswith("stages=") for key in self.keys)


LITE0 = (variant(), "weights={lite0}")
SCRATCH = ("weights=none", "stages.0.learning_rate=2e-3")
PARTS: dict[str, tuple[tuple[str, ...], str]] = {
    "the recipe": ((), ""),
    "layer decay: none": (("stages.1.layer_decay=1",), ""),
    "head first: no": ((), "no_head"),
    "warm-up: none": (("stages.1.schedule.warmup=0",), ""),
    "EMA: none": (("average.ema=0",), ""),
    "mixup 0.2": (("augment.mixup=0.2",), ""),
    "weight decay on all": ((), "decay_all"),
    "weight decay 0": (("optimizer.weight_decay=0",), ""),
    "drop-path 0.1": ((), "drop_path"),
    "224 px": (("input.size=224",), ""),
    "maximum pooling": (("pooling=max",), ""),
    "twice as long": (("stages.1.pseudo_epochs=40",), ""),
    "half as long": (("stages.1.pseudo_epochs=10",), ""),
}
"""Name -> keys and trick."""


def experiments() -> list[Experiment]:
    """All of them, the most wanted first."""
    found = [
        Experiment("parts", name, (*LITE0, *keys), trick) for name, (keys, trick) in PARTS.items()
    ]
    found += [
        Experiment("rates", f"rate {rate} decay {decay}",
                   (*LITE0, f"stages.1.learning_rate={rate}", f"stages.1.layer_decay={decay}"))
        for rate, decay in ((0.002, 0.8), (0.003, 0.8), (0.001, 0.7))
    ]  # fmt: skip
    frozen = "stages=[{trainable: head, learning_rate: 3e-3, pseudo_epochs: 23}]"
    curve = [
        Experiment("curve", name, (*keys, f"pseudo_epoch={ALL}"), tiles=tiles, seed=seed)
        for seed in range(3) for tiles in (50, 200, 800, ALL)
        for name, keys in (
            ("frozen", (*LITE0, frozen)),
            ("fine-tuned", LITE0),
            ("from scratch", (variant(), *SCRATCH,
                              f"stages.0.pseudo_epochs={23 if tiles < 800 else 43}")),
        )
        if (tiles < 800 or seed == 0) and (name, tiles) != ("fine-tuned", ALL)  # of `parts`
    ]  # fmt: skip
    found += [one for one in curve if not one.seed] + ship_experiments()
    found += [
        Experiment("larger", f"Lite{number} {size} px",
                   (variant(number), f"weights={{lite{number}}}", f"input.size={size}"))
        for number in (2, 1) for size in (SIDE, 224)
    ]  # fmt: skip
    found += [
        Experiment("parts", name, (*LITE0, *PARTS[name][0]), PARTS[name][1], seed=seed)
        for seed in (1, 2) for name in ("the recipe", "layer decay: none", "weight decay on all")
    ]  # fmt: skip
    found += [one for one in curve if one.seed]
    # The recipe of `train` without weights but for size, rate and length.
    old = ("variant=single3", "input.size=128", *SCRATCH, "stages.0.pseudo_epochs=50")
    return found + [
        Experiment("scratch", name, old, trick, seed=seed)
        for seed in range(3)
        for name, trick in (("decay groups", ""), ("weight decay on all", "decay_all"))
    ]


def ship_experiments() -> list[Experiment]:
    """The first document's: `ship` or not; batches of 40; heads, last blocks, cycles."""
    found = []
    head = "trainable: head, learning_rate: 1e-3, schedule: {name: constant}, pseudo_epochs: "
    last = "trainable: blocks.5, pseudo_epochs: 12, learning_rate: "

    def one(name: str, pooling: str, dropout: float, *parts: str) -> None:
        stages = f"stages=[{', '.join('{' + part + '}' for part in parts)}]"
        keys = ("weights={lite0}", "batch=40", f"dropout={dropout}", stages)
        found.append(Experiment("ship", name, (variant(0, pooling), *keys), ship=True))

    for pooling in ("max", "avg"):
        for dropout in (0, 0.5):
            one(f"frozen head {pooling} dropout {dropout}", pooling, dropout, head + "20")
        slow = last + "3e-5, schedule: {name: constant}"
        one(f"last blocks at 3e-5 {pooling}", pooling, 0.5, head + "8", slow)
    for schedule in ("constant", "triangular", "one_cycle"):
        # The rate is what a range test (valley) finds, of the head and of the last blocks alike.
        way = f"9.11e-4, schedule: {{name: {schedule}, cycle: 4}}"
        whole = f"trainable: head, pseudo_epochs: 20, learning_rate: {way}"
        one(f"head {schedule}", "max", 0.5, whole)
        one(f"last blocks {schedule}", "max", 0.5, head + "8", last + way)
    for pooling in ("max", "avg"):
        keys = (variant(0, pooling), "weights={lite0}")
        found.append(Experiment("ship", f"the recipe {pooling}", keys, ship=True))
    scratch = (variant(), *SCRATCH, "stages.0.pseudo_epochs=43")
    return [*found, Experiment("ship", "from scratch", scratch, ship=True)]


def recipe_of(experiment: Experiment, weights: dict[str, str], base: list[str]) -> list[str]:
    """Keys of train; `base` changes the usual stages, before the experiment does."""
    keys = [
        key.format(**weights) if key.startswith("weights={") else key for key in experiment.keys
    ]
    changed = base if experiment.usual else []
    return [f"input.size={SIDE}", f"seed={experiment.seed}", "index=held", *changed, *keys]


def train(
    experiment: Experiment, keys: list[str], held: Held, device: Any, state: Path | None, log: Path
) -> dict[str, Any]:
    """Train one, and give its row of `results.jsonl`.

    `state` is where the best weights go, `log` is told of each pseudo-epoch.
    """
    import torch

    from satray.config.parse import build
    from satray.config.train import TrainRecipe
    from satray.data.order import copies
    from satray.storage import Storage
    from satray.training.loop.inputs import AugmentedTiles
    from satray.training.loop.precision import takes_bf16
    from satray.training.loop.train import Loop, LoopSettings
    from satray.training.plan.order import train_order
    from satray.training.plan.setup import Tiles, set_up
    from satray.training.workers.initial import prepared

    begun = time.perf_counter()
    given = build(TrainRecipe, keys, lambda *_: b"")
    if experiment.trick == "no_head":
        given = given.model_copy(update={"stages": given.stages[1:]})
    index, places = held.index(experiment.seed, experiment.tiles, experiment.ship)
    setup = set_up(given, Storage(), Tiles(index, "held"))
    network, lines = prepared(setup, Storage())
    network.to(device)
    labels = {split: torch.from_numpy(index.part(split).labels.copy()) for split in places}
    at = {split: torch.from_numpy(rows).to(device) for split, rows in places.items()}

    def batch(split: str, rows: Any, came: Any) -> dict[str, Any]:
        return {
            "pixels": held.pixels_NCHW[at[split][torch.from_numpy(rows).to(device)]],
            "labels": labels[split][rows], "row": rows, "copy": came,
            "valid": np.ones(len(rows), dtype=bool),
        }  # fmt: skip

    settings = LoopSettings.of(setup, labels["train"].numpy(), takes_bf16(given.precision, device))
    inputs = AugmentedTiles.of(given, setup.preprocess(), given.seed)
    plan = setup.plan
    order, size = train_order(given, plan, labels["train"].numpy()), plan.local_batch

    def train_batches(pseudo_epoch: int) -> Iterator[dict[str, Any]]:
        rows = order.rows(pseudo_epoch)
        came = copies(rows)
        for start in range(0, len(rows), size):
            yield batch("train", rows[start : start + size], came[start : start + size])

    def val_batches() -> Iterator[dict[str, Any]]:
        rows = np.arange(len(places["val"]), dtype=np.int64)
        for start in range(0, len(rows), 161):  # 483 = 3 x 161
            some = rows[start : start + 161]
            yield batch("val", some, np.zeros_like(some))

    loop = Loop(
        network, plan, settings=settings, train_input=inputs, eval_input=setup.preprocess(),
        device=device,
    )  # fmt: skip
    rows, logits, top, kept = [], {}, -1.0, None
    while not loop.done:
        report, now = loop.step(train_batches, val_batches)
        row = report.row()
        rows.append({name: row[name] for name in SHOWN})
        took = time.perf_counter() - begun
        with log.open("a") as sink:
            name = experiment.id.replace(" ", "_")
            sink.write(f"{name} {len(rows)} {row['map']:.4f} {took:.0f} s\n")
        logits["last"] = report.predictions.logits_NK
        if row[setup.best] > top:
            top, logits["best"] = row[setup.best], report.predictions.logits_NK
            kept = {n: v.clone() for n, v in now.kept.items()} if state is not None else None
    if state is not None:
        torch.save(kept, state)
    return {
        "id": experiment.id, "group": experiment.group, "name": experiment.name,
        "tiles": experiment.tiles, "seed": experiment.seed, "ship": experiment.ship,
        "keys": keys, "weights": list(lines), "rates": [s.peak for s in plan.stages],
        "seconds": round(time.perf_counter() - begun, 1), "history": rows,
        "logits": {name: _packed(value) for name, value in logits.items()},
    }  # fmt: skip


SHOWN = (
    "pseudo_epoch", "stage", "samples_seen", "learning_rate", "train_loss", "val_loss", "map",
    "accuracy", "baseline_accuracy", "balanced_accuracy", "auc", "images_per_second",
    "seconds_compute", "seconds_evaluate",
)  # fmt: skip
"""Of a history's columns."""


def _packed(values: Any) -> str:
    return base64.b64encode(np.asarray(values, np.float16).tobytes()).decode()


def unpacked(text: str, classes: int) -> Any:
    """Logits (N, K) as `results.jsonl` has them."""
    return np.frombuffer(base64.b64decode(text), np.float16).astype(np.float32).reshape(-1, classes)


_HELD: dict[str, Any] = {}


def _begin(data: str, pixels: str, device: str, threads: int) -> None:
    """A worker process, once: tiles to the device."""
    import torch

    torch.set_num_threads(threads)
    table = dict(np.load(data, allow_pickle=False))
    place = torch.device(device)
    _HELD.update(held=Held(np.load(pixels, mmap_mode="r"), table, place), device=place)


def _one(experiment: Experiment, keys: list[str], out: Path) -> dict[str, Any]:
    """One experiment on a worker; what fails is told in its row."""
    import timm

    from satray.training.loop import trainer

    groups, create = trainer.parameter_groups, timm.create_model
    try:
        if experiment.trick == "decay_all":
            trainer.parameter_groups = lambda *given: [
                {k: v for k, v in group.items() if k != "weight_decay"} for group in groups(*given)
            ]
        if experiment.trick == "drop_path":
            timm.create_model = functools.partial(create, drop_path_rate=0.1)
        keep = experiment.group == "ship" and experiment.name.startswith("the recipe")
        state = out / f"{experiment.name.replace(' ', '-')}.pt" if keep else None
        return train(experiment, keys, state=state, log=out / "progress.log", **_HELD)
    except Exception as error:
        return {"id": experiment.id, "error": f"{type(error).__name__}: {error}"[:500]}
    finally:
        trainer.parameter_groups, timm.create_model = groups, create


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
    if device != "cpu":
        print(torch.cuda.get_device_name(), torch.__version__, flush=True)
    print(f"{len(done)} done, {len(wanted)} to do on {device}, {options.jobs} at once", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        pixels = str(Path(folder) / "pixels.npy")
        np.save(pixels, decoded(options.data))
        context = multiprocessing.get_context("spawn")
        begin = (str(Path(options.data).absolute()), pixels, device, options.threads)
        with context.Pool(options.jobs, _begin, begin) as pool:
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
                    print(said(row), flush=True)
                time.sleep(0.05)
            pool.terminate()
    print(f"{len(running)} left", flush=True)
    return 0


def said(row: dict[str, Any]) -> str:
    """A result in one line."""
    if "error" in row:
        return f"{row['id']}: {row['error']}"
    last, maps = row["history"][-1], [one["map"] for one in row["history"]]
    return (
        f"{row['id']}: mAP {last['map']:.4f} (best {max(maps):.4f} at {int(np.argmax(maps)) + 1} "
        f"of {len(maps)}), AUC {last['auc']:.4f}, accuracy {last['accuracy']:.4f}, loss "
        f"{last['train_loss']:.4f}/{last['val_loss']:.4f}, {last['images_per_second']:.0f}/s, "
        f"{row['seconds']:.0f} s"
    )


def main(arguments: list[str]) -> int:
    """Pack, run, or show."""
    from bench import transferred

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
    showing.set_defaults(way=transferred.table)
    drawing = ways.add_parser("curve", help="the learning curve as a picture")
    drawing.add_argument("out")
    drawing.add_argument("--picture", default="bench/transfer.png")
    drawing.set_defaults(way=transferred.curve)
    bundling = ways.add_parser("bundle", help="bundles of the two networks of `ship`")
    bundling.add_argument("out")
    bundling.add_argument("data", help="what pack wrote")
    bundling.add_argument("--weights", required=True, help="folder of NAME.safetensors")
    bundling.set_defaults(way=transferred.bundle)
    options = parser.parse_args(arguments)
    return int(options.way(options))
