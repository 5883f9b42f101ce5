"""CPU engines against eager torch at equal features, for the networks that an engine is for."""

import argparse
from typing import Any

NAMES = ("mobilenetv2_100", "legacy_xception")


def run(given: argparse.Namespace) -> dict[str, Any]:
    """Measure by `bench.engine`, and print its table."""
    import torch

    from bench import engine
    from satray.scoring.engine.heap import keep_memory

    torch.set_flush_denormal(True)
    keep_memory()
    own = argparse.Namespace(
        engines=engine.ENGINES[:3], side=1024, batch=1, rounds=given.rounds,
        threads=torch.get_num_threads(), folder=None,
    )  # fmt: skip
    found = [engine.measure(name, own) for name in NAMES]
    print(f"{own.threads} threads, a window of {own.side} px, {own.rounds} rounds")
    print(engine.table(found))
    faster = {
        row["backbone"]: {
            other: row["seconds"][other] / row["seconds"]["fused"] for other in ("plain", "eager")
        }
        for row in found
    }
    return {"faster": faster, "rows": found}
