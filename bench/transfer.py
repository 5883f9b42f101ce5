"""Transfer against training from scratch on AID: what each part of the recipe gives, and how much.

    python -m bench transfer pack ../shared/data/aid aid.npz
    python -m bench transfer run aid.npz --weights ../shared/data/weights --out runs/transfer
    python -m bench transfer table runs/transfer aid.npz
    python -m bench transfer curve runs/transfer

`run` trains experiment after experiment as the job `train` would, by recipes of its keys and the
same loop, but in process: tiles are held decoded on the device, so that neither Ray nor rasterio
is needed. What is in `results.jsonl` already is left out, so a run cut short is gone on with. The
first group, `rates`, searches the rate and layer decay that the others, which name them `{best}`,
are trained by.
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
from pathlib import Path
from typing import Any

import numpy as np

RGB = ("red", "green", "blue")
LITE = "tf_efficientnet_lite{}"
SIDE, SEEDS = 192, (0, 1, 2)
ALL, TRIAL = 1917, 48


def variant(backbone: str = LITE.format(0), pooling: str = "avg") -> str:
    """A tower over red, green and blue, as a key of train."""
    tower = f"{{name: rgb, backbone: {backbone}, bands: [red, green, blue]}}"
    return f"variant={{towers: [{tower}], pooling: {pooling}}}"


def stages(*parts: str) -> str:
    """Stages, as a key of train."""
    return f"stages=[{', '.join('{' + part + '}' for part in parts)}]"


HEAD = (
    "trainable: head, learning_rate: {head}, pseudo_epochs: {first}, schedule: {{name: constant}}"
)
BODY = (
    "trainable: all, learning_rate: {rate}, layer_decay: {decay}, pseudo_epochs: {length}, "
    "schedule: {{name: cosine, warmup: {warmup}}}"
)


def recipe(
    rate: float = 1e-3,
    decay: float = 0.8,
    head: float = 3e-3,
    first: float = 3,
    length: float = 20,
    warmup: float = 1,
) -> str:
    """Head first, then all of it, slower towards the first block."""
    numbers = {
        "rate": rate, "decay": decay, "head": head, "first": first, "length": length,
        "warmup": warmup,
    }  # fmt: skip
    parts = (HEAD, BODY) if first else (BODY,)
    return stages(*(part.format(**numbers) for part in parts))


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A training; `{best}` in its keys stands for what `rates` found, as recipe's arguments."""

    group: str
    name: str
    keys: tuple[str, ...]
    changes: tuple[tuple[str, float], ...] = ()
    """Arguments of `recipe` beside the best ones; None where keys give stages."""
    fixed: bool = False
    """The stages are in the keys."""
    seed: int = 0
    tiles: int = ALL
    ship: bool = False
    trial: bool = False
    """A few tiles, and a pseudo-epoch a stage: to see that it runs."""
    trick: str = ""
    """`decay_all`: weight decay on norms and biases too; `drop_path=0.1`; `range`: find rates."""

    @property
    def id(self) -> str:
        """Names it in `results.jsonl`."""
        return f"{self.group}/{self.name}/{self.tiles}/{self.seed}"


LITE0 = (variant(), "weights={lite0}")
SCRATCH = "trainable: all, learning_rate: {}, pseudo_epochs: {}"


def experiments() -> list[Experiment]:
    """All of them, the most wanted first."""
    found = [
        Experiment("rates", f"rate {rate:g} decay {decay:g}", LITE0,
                   (("rate", rate), ("decay", decay)))
        for rate, decay in ((1e-3, 0.8), (3e-4, 1.0), (1e-3, 1.0), (3e-3, 0.8), (3e-4, 0.8),
                            (1e-3, 0.65), (3e-3, 0.65), (2e-3, 0.7), (2e-3, 0.8), (5e-4, 0.9))
    ]  # fmt: skip
    ways: dict[str, dict[str, Any]] = {
        "the recipe": {},
        "head first: no": {"changes": (("first", 0),)},
        "layer decay: none": {"changes": (("decay", 1.0),)},
        "warm-up: none": {"changes": (("warmup", 0),)},
        "EMA: none": {"keys": ("average.ema=0",)},
        "mixup 0.2": {"keys": ("augment.mixup=0.2",)},
        "weight decay on all": {"trick": "decay_all"},
        "weight decay 0": {"keys": ("optimizer.weight_decay=0",)},
        "drop-path 0.1": {"trick": "drop_path=0.1"},
        "dropout 0.2": {"keys": ("dropout=0.2",)},
        "224 px": {"keys": ("input.size=224",)},
        "maximum pooling": {"keys": ("pooling=max",)},
        "D4 alone": {"keys": ("augment.crop=centre", "augment.brightness=0",
                              "augment.contrast=0")},
        "twice as long": {"changes": (("length", 40),)},
        "half as long": {"changes": (("length", 10),)},
        "batch 64": {"keys": ("batch=64",)},
        "label smoothing 0.05": {"keys": ("loss.smoothing=0.05",)},
        "asymmetric loss": {"keys": ("loss.name=asymmetric",)},
    }  # fmt: skip
    found += [
        Experiment("parts", name, (*LITE0, *way.get("keys", ())), way.get("changes", ()),
                   trick=way.get("trick", ""), seed=seed)
        for seed in SEEDS for name, way in ways.items()
        if seed < 2 or name in ("the recipe", "weight decay on all")
    ]  # fmt: skip
    frozen = stages("trainable: head, learning_rate: 3e-3, pseudo_epochs: 23")
    for tiles, seeds in ((50, SEEDS), (200, SEEDS), (800, (0,)), (ALL, (0,))):
        for seed in seeds:
            length = 23 if tiles < 800 else 43
            rest = {"seed": seed, "tiles": tiles}
            found += [
                Experiment("curve", "frozen", (*LITE0, frozen, f"pseudo_epoch={ALL}"),
                           fixed=True, **rest),
                Experiment("curve", "fine-tuned", (*LITE0, f"pseudo_epoch={ALL}"), **rest),
                Experiment("curve", "from scratch",
                           (variant(), "weights=none", f"pseudo_epoch={ALL}",
                            stages(SCRATCH.format(2e-3, length))), fixed=True, **rest),
            ]  # fmt: skip
    found += ship_experiments()
    found += [
        Experiment("larger", f"Lite{number} {size} px",
                   (variant(LITE.format(number)), f"weights={{lite{number}}}",
                    f"input.size={size}"))
        for number, size in ((2, SIDE), (2, 224), (1, SIDE), (1, 224))
    ]  # fmt: skip
    # README's 0.775: the recipe of `train` but for size, rate and length.
    old = ("variant=single3", "weights=none", "input.size=128", stages(SCRATCH.format(2e-3, 50)))
    found += [
        Experiment("scratch", name, old, fixed=True, trick=trick, seed=seed)
        for seed in SEEDS
        for name, trick in (("decay groups", ""), ("weight decay on all", "decay_all"))
    ]
    return sorted(found, key=_wanted)


def _wanted(experiment: Experiment) -> int:
    """The most wanted first: what a time that is too short leaves out are other seeds."""
    first = ("rates", "parts", "curve", "ship", "scratch", "larger").index(experiment.group)
    return first + (0 if experiment.group == "curve" else 10 * experiment.seed)


def ship_experiments() -> list[Experiment]:
    """The first document's: `ship` or not; batches of 40; heads, last blocks, cycles."""
    found = []
    gmp = variant(pooling="max")
    head = "trainable: head, learning_rate: 1e-3, schedule: {name: constant}, pseudo_epochs: "
    last = "trainable: blocks.5, pseudo_epochs: 12, learning_rate: "
    rest: dict[str, Any] = {"fixed": True, "ship": True}
    common = ("weights={lite0}", "batch=40")
    for pooling in ("max", "avg"):
        for dropout in (0, 0.5):
            keys = (variant(pooling=pooling), *common, f"dropout={dropout}", stages(head + "20"))
            name = f"frozen head {pooling} dropout {dropout}"
            found.append(Experiment("ship", name, keys, **rest))
        keys = (variant(pooling=pooling), *common, "dropout=0.5")
        tuned = stages(head + "8", last + "3e-5, schedule: {name: constant}")
        found.append(Experiment("ship", f"last blocks at 3e-5 {pooling}", (*keys, tuned), **rest))
    for schedule in ("constant", "triangular", "triangular2", "one_cycle"):
        way = f"schedule: {{name: {schedule}, cycle: 4}}"
        for name, stage in (("head", "trainable: head, pseudo_epochs: 20, learning_rate: auto"),
                            ("last blocks", last + "auto")):  # fmt: skip
            first = () if name == "head" else (head + "8",)
            keys = (gmp, *common, "dropout=0.5", stages(*first, f"{stage}, {way}"))
            found.append(Experiment("ship", f"{name} {schedule}", keys, trick="range", **rest))
    found += [
        Experiment("ship", f"the recipe {pooling}", (variant(pooling=pooling), "weights={lite0}"),
                   ship=True)
        for pooling in ("max", "avg")
    ]  # fmt: skip
    scratch = stages(SCRATCH.format(2e-3, 43))
    found.append(Experiment("ship", "from scratch", (variant(), "weights=none", scratch), **rest))
    return found


class Held:
    """The tiles, decoded, on the device; and their index, as `prepare` would write it."""

    def __init__(self, pixels_NCHW: Any, table: dict[str, Any], device: Any) -> None:
        import torch

        self.pixels_NCHW = torch.from_numpy(np.array(pixels_NCHW)).to(device)
        self.classes = [str(name) for name in table["classes"]]
        self.labels_NK, self.ids = table["labels"], [str(each) for each in table["ids"]]
        self.split = np.array([str(each) for each in table["splits"]])

    def index(self, experiment: Experiment) -> tuple[Any, dict[str, Any]]:
        """The index of an experiment's tiles, and where the tiles of its splits are held.

        A draw of fewer train tiles is the first so many of a permutation that the seed gives, all
        classes that the draw misses counted as they come.
        """
        import pyarrow as pa

        from satray.tiles.index import BandStatistics, IndexMeta, TileIndex, table_with

        rng = np.random.default_rng(experiment.seed)
        train = np.flatnonzero(self.split == "train")
        wanted = TRIAL if experiment.trial else experiment.tiles
        if wanted < len(train):
            train = np.sort(rng.permutation(train)[:wanted])
        val = np.flatnonzero(self.split == "val")
        val = val[:: len(val) // TRIAL] if experiment.trial else val
        place = self.classes.index("ship")
        labels = self.labels_NK[:, place : place + 1] if experiment.ship else self.labels_NK
        classes = ("ship",) if experiment.ship else tuple(self.classes)
        side = self.pixels_NCHW.shape[2]
        rows = [
            {"tile_id": self.ids[i], "uri": self.ids[i], "split": split,
             "labels": labels[i].tolist(), "height": side, "width": side, "bands": list(RGB),
             "dtype": "uint8", "crs": None, "transform": None, "nodata": None, "bytes": 0,
             "etag": None}
            for split, part in (("train", train), ("val", val)) for i in part
        ]  # fmt: skip
        statistics = tuple(
            BandStatistics(band, *self._mean_and_std(train, c), 0.0, 255.0, {}, 1)
            for c, band in enumerate(RGB)
        )
        task = "binary" if experiment.ship else "multilabel"
        meta = IndexMeta(task, classes, RGB, "uint8", (side, side), statistics, {})
        return TileIndex(table_with(meta, pa.Table.from_pylist(rows)), meta), {
            "train": train, "val": val,
        }  # fmt: skip

    def _mean_and_std(self, rows: Any, band: int) -> tuple[float, float]:
        import torch

        x_NHW = self.pixels_NCHW[:, band][torch.from_numpy(rows).to(self.pixels_NCHW.device)]
        counts = torch.bincount(x_NHW.flatten(), minlength=256).double().cpu().numpy()
        mean = float(np.average(np.arange(256), weights=counts))
        return mean, float(np.average((np.arange(256) - mean) ** 2, weights=counts) ** 0.5)


def train(
    experiment: Experiment,
    held: Held,
    weights: dict[str, str],
    best: dict[str, float],
    device: Any,
    state: Path | None = None,
    log: Path | None = None,
) -> dict[str, Any]:
    """Train one, and give its row of `results.jsonl`.

    `state` is where the best weights go, `log` is told of each pseudo-epoch.
    """
    import torch

    from satray.config.parse import build
    from satray.config.train import TrainRecipe
    from satray.storage import Storage
    from satray.tiles.order import copies
    from satray.training.loop.inputs import AugmentedTiles
    from satray.training.loop.precision import takes_bf16
    from satray.training.loop.train import Loop, LoopSettings
    from satray.training.plan.order import train_order
    from satray.training.plan.setup import Tiles, set_up
    from satray.training.workers.initial import prepared

    begun = time.perf_counter()
    keys = [key.format(**weights) if key.startswith("weights=") else key for key in experiment.keys]
    keys = [f"input.size={SIDE}", f"seed={experiment.seed}", "index=held", *keys]
    if not experiment.fixed:
        keys.append(recipe(**(best | dict(experiment.changes))))
    if experiment.trial:
        keys = [re.sub(r"(pseudo_epochs|cycle): [0-9.]+", r"\1: 1", key) for key in keys]
        keys = [re.sub(r"warmup: [0-9.]+", "warmup: 0", key) for key in keys]
        keys = [re.sub(r"pseudo_epoch=\d+", f"pseudo_epoch={TRIAL}", key) for key in keys]
        keys += ["landscape.steps=20"] if experiment.trick == "range" else []
    given = build(TrainRecipe, keys, lambda *_: b"")
    index, places = held.index(experiment)
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
    if experiment.trick == "range":
        plan = plan.with_rates(_range_test(setup, network, batch, inputs, settings))
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
        if log is not None:
            with log.open("a") as sink:
                took = time.perf_counter() - begun
                sink.write(
                    f"{experiment.id.replace(' ', '_')} {len(rows)} {row['map']:.4f} {took:.0f} s\n"
                )
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


def _range_test(setup: Any, network: Any, batch: Any, inputs: Any, settings: Any) -> list[Any]:
    """Rates of the stages that ask for `auto`, as the job `landscape` finds them, by one sweep."""
    import torch

    from satray.tiles.order import copies, window
    from satray.training.landscape.range_test import suggest
    from satray.training.landscape.sweep import sweep
    from satray.training.loop.losses import make_loss
    from satray.training.loop.optimizers import make_optimizer, parameter_groups

    given, device = setup.recipe, next(network.parameters()).device
    size = given.batch
    rows_N = window(given.seed, 0, given.landscape.steps * size, setup.train_tiles, True)
    came_N = copies(rows_N)

    def batches() -> Iterator[Any]:
        for start in range(0, len(rows_N), size):
            rows, came = rows_N[start : start + size], came_N[start : start + size]
            found = batch("train", rows, came)
            yield inputs(found["pixels"], rows, came, 0), found["labels"].to(device).float()

    rates: list[float | None] = []
    for stage in given.stages:
        if stage.learning_rate != "auto":
            rates.append(None)
            continue
        network.set_trainable(stage.trainable)
        optimizer = make_optimizer(given.optimizer, parameter_groups(network, stage.layer_decay))
        loss = make_loss(settings.loss, settings.task, settings.positive_weight)
        torch.manual_seed(given.seed)
        curve = sweep(network, optimizer, batches(), loss, given.landscape, bf16=settings.bf16)
        rates.append(suggest(curve).valley)
    network.set_trainable("all")
    return rates


def _packed(values: Any) -> str:
    return base64.b64encode(np.asarray(values, np.float16).tobytes()).decode()


def unpacked(text: str, classes: int) -> Any:
    """Logits (N, K) as `results.jsonl` has them."""
    return np.frombuffer(base64.b64decode(text), np.float16).astype(np.float32).reshape(-1, classes)


_HELD: dict[str, Any] = {}


def _begin(data: str, pixels: str, weights: dict[str, str], device: str, threads: int) -> None:
    """A worker process, once: tiles to the device."""
    import torch

    torch.set_num_threads(threads)
    table = dict(np.load(data, allow_pickle=False))
    place = torch.device(device)
    _HELD.update(held=Held(np.load(pixels, mmap_mode="r"), table, place), weights=weights,
                 device=place)  # fmt: skip


def _one(experiment: Experiment, best: dict[str, float], states: str) -> dict[str, Any]:
    """One experiment on a worker; what fails is told in its row."""
    import functools

    import timm

    from satray.training.loop import trainer

    groups, create = trainer.parameter_groups, timm.create_model
    try:
        if experiment.trick == "decay_all":
            trainer.parameter_groups = lambda *given: [
                {k: v for k, v in group.items() if k != "weight_decay"} for group in groups(*given)
            ]
        if experiment.trick.startswith("drop_path="):
            rate = float(experiment.trick.partition("=")[2])
            timm.create_model = functools.partial(create, drop_path_rate=rate)
        keep = experiment.group == "ship" and experiment.name.startswith("the recipe")
        state = Path(states, f"{experiment.name.replace(' ', '-')}.pt") if keep else None
        log = Path(states, "progress.log")
        return train(experiment, state=state, best=best, log=log, **_HELD)
    except Exception as error:
        return {"id": experiment.id, "error": f"{type(error).__name__}: {error}"[:500]}
    finally:
        trainer.parameter_groups, timm.create_model = groups, create


def best_of(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Rate and layer decay of the `rates` that ended highest, by the mean of their last three."""
    found = [row for row in rows if row.get("group") == "rates" and row["tiles"] == ALL]
    if not found:
        return {}
    top = max(found, key=lambda row: np.mean([one["map"] for one in row["history"][-3:]]))
    rate, decay = re.fullmatch(r"rate (\S+) decay (\S+)", top["name"]).groups()  # type: ignore[union-attr]
    return {"rate": float(rate), "decay": float(decay)}


def run(options: argparse.Namespace) -> int:
    """Train what is not done yet, several at once, until the seconds are over."""
    import torch

    ends = time.monotonic() + options.seconds
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    file = out / "results.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    done = {row["id"] for row in rows if "error" not in row}
    wanted = [one for one in experiments() if re.search(options.only, one.id)]
    wanted = [dataclasses.replace(one, trial=options.trial) for one in wanted]
    wanted = [one for one in wanted if one.id not in done]
    weights = {
        f"lite{number}": str(found)
        for number in range(3)
        if (
            found := Path(options.weights).absolute() / f"{LITE.format(number)}.safetensors"
        ).exists()
    }
    wanted = [
        one for one in wanted
        if all(name in weights for key in one.keys for name in re.findall(r"=\{(lite\d)\}", key))
    ]  # fmt: skip
    device = options.device or ("cuda:0" if torch.cuda.is_available() else "cpu")
    if device != "cpu":
        print(torch.cuda.get_device_name(), torch.__version__, flush=True)
    print(f"{len(done)} done, {len(wanted)} to do on {device}, {options.jobs} at once", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        pixels = str(Path(folder) / "pixels.npy")
        np.save(pixels, decoded(options.data))
        context = multiprocessing.get_context("spawn")
        begin = (str(Path(options.data).absolute()), pixels, weights, device, options.threads)
        with context.Pool(options.jobs, _begin, begin) as pool:
            running: list[Any] = []
            left = list(wanted)
            while (left or running) and time.monotonic() < ends:
                searching = any(one.group == "rates" for one in [*left, *(r[0] for r in running)])
                # Those that need what the search finds wait for it; others fill the gap.
                free = [one for one in left if one.group == "rates" or one.fixed or not searching]
                if free and len(running) < options.jobs:
                    one = free[0]
                    left.remove(one)
                    task = pool.apply_async(_one, (one, best_of(rows), str(out)))
                    running.append((one, task))
                    continue
                for one, task in [each for each in running if each[1].ready()]:
                    running.remove((one, task))
                    row = task.get()
                    rows.append(row)
                    with file.open("a") as sink:
                        sink.write(json.dumps(row) + "\n")
                    print(said(row), flush=True)
                time.sleep(0.05)
            pool.terminate()
    print(f"best of rates: {best_of(rows)}; {len(left) + len(running)} left", flush=True)
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


def labels_of(data: str, ship: bool) -> tuple[Any, list[str]]:
    """Validation's labels (N, K) and class names, in the order of the logits."""
    with np.load(data, allow_pickle=False) as found:
        val, classes = found["splits"] == "val", [str(each) for each in found["classes"]]
        labels = found["labels"][val]
    return (labels[:, [classes.index("ship")]], ["ship"]) if ship else (labels, classes)


def table(options: argparse.Namespace) -> int:
    """A row an experiment, its seeds together, against the recipe's; bootstrap intervals."""
    from satray.metrics.bootstrap import bootstrap, paired

    lines = Path(options.out, "results.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if "error" not in row]
    base = next((row for row in rows if row["id"] == f"parts/the recipe/{ALL}/0"), None)
    print("| experiment | tiles | seeds | mAP, last (95 %) | best | against the recipe (95 %) |"
          " AUC | accuracy (majority) | s |\n|---|---|---|---|---|---|---|---|---|")  # fmt: skip
    named: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    for row in rows:
        named.setdefault((row["group"], row["name"], row["tiles"]), []).append(row)
    for (group, name, tiles), seeds in named.items():
        first = min(seeds, key=lambda row: row["seed"])
        labels, classes = labels_of(options.data, first["ship"])
        task = "binary" if first["ship"] else "multilabel"
        logits = unpacked(first["logits"]["last"], len(classes))
        found = bootstrap(logits, labels, classes, task, 1000)
        ends = [row["history"][-1] for row in seeds]
        mean = {key: float(np.mean([end[key] for end in ends])) for key in ("map", "accuracy")}
        best = np.mean([max(one["map"] for one in row["history"]) for row in seeds])
        apart = "-"
        if group == "parts" and base is not None and first is not base:
            other = unpacked(base["logits"]["last"], len(classes))
            gap = paired(logits, other, labels, classes, task, 1000)["map"]
            apart = f"{gap.value:+.3f} ({gap.low:+.3f} to {gap.high:+.3f})"
        area, low, high = found["auc"], found["map"].low, found["map"].high
        print(
            f"| {group}: {name} | {tiles} | {len(seeds)} | {mean['map']:.3f} ({low:.3f} to "
            f"{high:.3f}) | {best:.3f} | {apart} | {area.value:.3f} ({area.low:.3f} to "
            f"{area.high:.3f}) | {mean['accuracy']:.3f} ({ends[0]['baseline_accuracy']:.3f}) | "
            f"{np.mean([row['seconds'] for row in seeds]):.0f} |"
        )
    return 0


def curve(options: argparse.Namespace) -> int:
    """Validation mAP against train tiles: frozen, fine-tuned, from scratch."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    lines = Path(options.out, "results.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if row.get("group") == "curve"]
    figure, axes = pyplot.subplots(figsize=(6, 3.6), layout="constrained")
    for name, colour in (("fine-tuned", "#1b6ca8"), ("frozen", "#3a9d5d"),
                         ("from scratch", "#b3542d")):  # fmt: skip
        by_tiles: dict[int, list[float]] = {}
        for row in rows:
            if row["name"] == name:
                by_tiles.setdefault(row["tiles"], []).append(row["history"][-1]["map"])
        counts = sorted(by_tiles)
        means = [np.mean(by_tiles[count]) for count in counts]
        axes.plot(counts, means, color=colour, label=name, marker="o")
        for count in counts:
            axes.plot([count] * len(by_tiles[count]), by_tiles[count], ".", color=colour, alpha=0.5)
    axes.set_xscale("log")
    axes.set_xticks(sorted({row["tiles"] for row in rows}))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.minorticks_off()
    axes.set_xlabel("training tiles (AID, 150 px)")
    axes.set_ylabel("validation mAP, 16 classes")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(options.picture, dpi=150)
    return 0


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
    from concurrent.futures import ThreadPoolExecutor

    from PIL import Image

    with np.load(packed, allow_pickle=False) as found:
        data, ends = found["data"], np.cumsum(found["sizes"])

    def one(part: tuple[int, int]) -> Any:
        image = Image.open(io.BytesIO(data[part[0] : part[1]].tobytes())).convert("RGB")
        return np.asarray(image).transpose(2, 0, 1)

    with ThreadPoolExecutor(8) as pool:
        return np.stack(list(pool.map(one, zip([0, *ends[:-1]], ends, strict=True))))


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
    running.add_argument("--trial", action="store_true", help="see that all of it runs")
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
