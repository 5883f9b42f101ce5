"""Readers beside a fast consumer: `resources.read_tasks=auto` on a cluster that grows.

    python -m bench readers

Nodes of four CPUs each join one by one (logical ones, all on this machine). Reading is played: a
task sleeps for its tiles at 500 a second, what a core decodes, so that only what Ray Data starts at
once is measured. The consumer takes 4,000 tiles a second, what a GPU does. A line a size: tiles a
second, beside what the CPUs can read and what the consumer takes; the first 2 s are left out.
"""

import argparse
import os
import time
from typing import Any

EACH, CONSUMER, BLOCK = 500, 4000, 250


def read(batch: dict[str, Any]) -> dict[str, Any]:
    """A block of tiles."""
    time.sleep(len(batch["id"]) / EACH)
    return batch


def rate(tiles: int) -> float:
    """Tiles a second that reach the consumer."""
    import ray

    from satray import cluster
    from satray.config.base import Resources

    readers = cluster.readers(Resources())
    data = ray.data.range(tiles, override_num_blocks=tiles // BLOCK).map_batches(
        read, batch_size=None, num_cpus=readers.cpus, concurrency=readers.at_once
    )
    begun, counted, start = time.perf_counter(), 0, None
    for batch in data.iter_batches(batch_size=BLOCK):
        time.sleep(len(batch["id"]) / CONSUMER)
        if start is None and time.perf_counter() - begun > 2:
            start = time.perf_counter()
        elif start is not None:
            counted += len(batch["id"])
    return counted / (time.perf_counter() - (start or begun))


def main(arguments: list[str]) -> int:
    """Grow the cluster, and print a line a size."""
    parser = argparse.ArgumentParser(
        prog="python -m bench readers", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--nodes", type=int, default=4)
    options = parser.parse_args(arguments)
    from ray.cluster_utils import Cluster

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 4})
    os.environ["RAY_ADDRESS"] = nodes.address
    from satray import cluster

    with cluster.start():
        for count in range(1, options.nodes + 1):
            if count > 1:
                nodes.add_node(num_cpus=4)
                nodes.wait_for_nodes()
            rate(20 * BLOCK)  # its processes start
            seconds = [rate(40 * 4 * count * BLOCK) for _ in range(3)]
            print(
                f"{4 * count} CPUs: {sorted(seconds)[1]:,.0f} tiles a second; they read "
                f"{4 * count * EACH:,}, the consumer takes {CONSUMER:,}",
                flush=True,
            )
    nodes.shutdown()
    return 0
