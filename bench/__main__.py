"""`python -m bench NAME [options]`: run one measurement."""

import importlib
import sys

NAMES = {
    "ingest": "tiles a second that the streaming room delivers",
    "rows": "prepare's own time and memory a row",
    "training": "images a second through Ray, against a bare PyTorch loop",
    "gpu": "a GPU kept busy: the step alone, fed from disk, fed through the full line",
    "sweep": "many heads over cached features, against extraction alone and the naive way",
    "score": "scenes and tiles scored: many, small, one huge",
    "faults": "jobs killed, cut off or starved at bad moments, right or wrong",
    "field": "small inputs after public bug reports, right or wrong",
}


def main() -> int:
    """Run the measurement named on the command line; 2 where there is none of that name."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in NAMES:
        known = "\n".join(f"  {name:10} {meaning}" for name, meaning in NAMES.items())
        print(f"usage: python -m bench NAME [--help]\n{known}", file=sys.stderr)
        return 2
    return int(importlib.import_module(f"bench.{name}").main(sys.argv[2:]))


if __name__ == "__main__":
    sys.exit(main())
