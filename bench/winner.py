"""The default sweep on the demo's archive, and its winner against the default recipe.

`tune` without a space over the demo's index, then `train` without keys; both networks are evaluated
on the demo's test split, which neither of them saw and by which nothing was chosen, and compared
with a paired bootstrap: the same draws of tiles for both.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from bench.ablation import read, run


def main(arguments: list[str]) -> int:
    """Measure and print a table, then one line of JSON."""
    from satray.metrics.bootstrap import bootstrap, paired

    parser = argparse.ArgumentParser(prog="python -m bench winner", description=__doc__)
    parser.add_argument("demo", help="the `out` of a demo run")
    parser.add_argument("--out", default="runs/winner", help="folder of the sweep and the training")
    parser.add_argument("--sweep", action="append", default=[], help="a key of tune; repeatable")
    parser.add_argument("--recipe", action="append", default=[], help="a key of train; repeatable")
    options = parser.parse_args(arguments)
    index, out = f"index={Path(options.demo).absolute()}/prepare", Path(options.out).absolute()
    ways = {"sweep": ("tune", options.sweep), "default": ("train", options.recipe)}
    found, seconds = {}, {}
    for name, (job, keys) in ways.items():
        run(job, index, f"out={out}/{name}", *keys)
        record = json.loads((out / name / "run.json").read_text())
        seconds[name] = record["seconds"]["total"]
        quality = out / f"{name}-test"
        run("evaluate", f"bundle={out}/{name}", index, "split=test", f"out={quality}")
        found[name] = read(quality)
    document = json.loads((out / "sweep-test" / "metrics.json").read_text())
    task, classes = document["task"], document["classes"]
    sweep = json.loads((out / "sweep" / "sweep.json").read_text())
    figures: dict[str, Any] = {
        "bench": "winner", "trials": sweep["trials"], "best": sweep["best"], "seconds": seconds,
    }  # fmt: skip
    print(f"winner of {sum(sweep['trials'].values())} trials: {sweep['best']['configuration']}")
    for name, (logits, labels) in found.items():
        one = bootstrap(logits, labels, classes, task, 1000)["map"]
        print(f"{name:10} mAP {one.value:.4f} ({one.low:.4f} to {one.high:.4f}), "
              f"{len(labels)} test tiles, {seconds[name]:.0f} s")  # fmt: skip
        figures[name] = [one.value, one.low, one.high]
    (logits, labels), (base, _) = found["sweep"], found["default"]
    apart = paired(logits, base, labels, classes, task, 1000)["map"]
    beats = "beats" if apart.low > 0 else "is beaten by" if apart.high < 0 else "is not apart from"
    print(f"the winner {beats} the default recipe: {apart.value:+.4f} "
          f"({apart.low:+.4f} to {apart.high:+.4f})")  # fmt: skip
    figures["difference"] = [apart.value, apart.low, apart.high]
    print(json.dumps(figures))
    return 0
