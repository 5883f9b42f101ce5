"""Whole scenes: `python -m bench score [part ...]`, each part a table and one line of JSON.

- `dense`: windows against overlapping tiles one by one: seconds and memory.
- `huge`: 20,000 x 20,000 px through `jobs/score.py`: seconds by activity and memory by process.
- `demo`: detections on scenes whose ships are known; windows against tiles on trained bundles.
- `stitched`: windows put together against one forward over the whole scene.
- `engines`: CPU engines against eager torch (see `bench engine`).
- `schedule`: a pass of `only_new` over scenes that are all scored.
"""

import argparse
import importlib
import json
from pathlib import Path

PARTS = ("dense", "huge", "demo", "stitched", "engines", "schedule")
NETWORKS = ("single3", "mobilenet_v2", "resnet50_v2", "xception", "inception_v3")


def main(arguments: list[str]) -> int:
    """Run the parts asked for; all without any."""
    parser = argparse.ArgumentParser(
        "python -m bench score", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("parts", nargs="*", metavar="part", help=", ".join(PARTS))
    parser.add_argument("--rounds", type=int, default=3)
    group = parser.add_argument_group("dense")
    group.add_argument("--networks", nargs="+", default=list(NETWORKS), metavar="NETWORK")
    group.add_argument(
        "--overlaps", nargs="+", type=int, default=[4, 8, 1], choices=(4, 8, 1),
        help="strides: a tile's side over these",
    )  # fmt: skip
    group.add_argument("--size", type=int, default=256, help="of a tile, px")
    group.add_argument("--side", type=int, default=8192, help="of the scene, px")
    group.add_argument("--window", type=int, help="px; default by network")
    group.add_argument("--windows", type=int, default=2, help="windows that are timed at most")
    group.add_argument("--sample", type=int, default=64, help="tiles that are timed")
    group.add_argument("--child", choices=("tiles", "eager", "fused"), help=argparse.SUPPRESS)
    group = parser.add_argument_group("huge and schedule")
    group.add_argument("--px", type=int, default=20_000, help="side of the scene")
    group.add_argument("--work", type=Path, default=Path("runs/huge"), help="removed at the end")
    group.add_argument("--bundle", help="default single4 with random weights")
    group.add_argument("--keys", action="append", help="keys of one run of score; repeatable")
    group = parser.add_argument_group("demo")
    group.add_argument("--demo", type=Path, default=Path("runs/demo"), help="`out` of a demo run")
    group.add_argument("--scenes", type=int, default=6, help="scenes of other coasts")
    group.add_argument("--out", type=Path, default=Path("runs/score-demo"))
    group.add_argument(
        "--trained", action="append", default=[], metavar="BUNDLE=SCENES",
        help="windows against tiles of a bundle; SCENES: prefix, demo, mosaic:IMAGES; repeatable",
    )  # fmt: skip
    group = parser.add_argument_group("schedule")
    group.add_argument("--scored", type=int, default=10_000, help="scenes")
    given = parser.parse_args(arguments)
    strange = sorted(set(given.parts) - set(PARTS))
    if strange:
        parser.error(f"no part {strange[0]}; there are {', '.join(PARTS)}")
    if given.child:
        return int(importlib.import_module("bench.scenes.dense").child(given))
    for part in given.parts or PARTS:
        print(f"\n## {part}\n", flush=True)
        figures = importlib.import_module(f"bench.scenes.{part}").run(given)
        print(json.dumps({"bench": "score", "part": part, **figures}), flush=True)
    return 0
