"""A cluster of several nodes, on this machine: jobs ask it for what they need, and wait.

The nodes are Ray's own processes; those that its autoscaler starts come from Ray's provider for
tests. Drivers are processes of their own, since this one may hold another Ray.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.pipeline
HEAD = "f" * 51 + "00000"
"""Node id of a head whose workers Ray's provider for tests starts."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def ended(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
    process.wait()


class Cluster:
    """Nodes that `ray start` made."""

    def __init__(self, folder: Path) -> None:
        from ray.util import get_node_ip_address

        self.address = f"{get_node_ip_address()}:{free_port()}"
        self._folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self, *options: str, **environment: str) -> None:
        """Start a node, and come back when it is up."""
        log = self._folder / f"{len(self._processes)}.log"
        command = [str(Path(sys.executable).parent / "ray"), "start", "--block", *options]
        command += ["--disable-usage-stats", "--min-worker-port=0", "--max-worker-port=0"]
        here = os.environ | {"RAY_AUTH_MODE": "disabled", "RAY_enable_autoscaler_v2": "1"}
        here |= {"AUTOSCALER_UPDATE_INTERVAL_S": "1", **environment}
        with log.open("wb") as sink:
            process = subprocess.Popen(
                command, env=here, stdout=sink, stderr=sink, start_new_session=True
            )
        self._processes.append(process)
        until = time.monotonic() + 90
        while "Ray runtime started" not in log.read_text():
            assert process.poll() is None, log.read_text()[-2000:]
            assert time.monotonic() < until, log.read_text()[-2000:]
            time.sleep(0.2)

    def start_head(self, *options: str, **environment: str) -> None:
        """Start the first node."""
        temporary = f"--temp-dir=/tmp/satray-test-{os.getpid()}"
        port = f"--port={self.address.rpartition(':')[2]}"
        self.start(
            "--head", port, temporary, "--include-dashboard=false",
            f"--ray-client-server-port={free_port()}", *options, **environment,
        )  # fmt: skip

    def run(self, text: str) -> "subprocess.Popen[str]":
        """Start a driver of these lines, in which `said` is a list and `say` adds to it."""
        begin = (
            "import json, time\n"
            "from satray import cluster\n"
            "from satray.config.base import Resources\n"
            "from satray.errors import SatrayError\n"
            "said = []\nsay = said.append\n"
            "with cluster.start():\n"
        )
        body = "".join(f"    {line}\n" for line in text.strip().splitlines())
        return subprocess.Popen(
            [sys.executable, "-c", begin + body],
            env=os.environ | {"RAY_ADDRESS": self.address, "RAY_AUTH_MODE": "disabled"},
            stdout=subprocess.PIPE,
            text=True,
        )

    def told(self, text: str) -> list[object]:
        """What a driver prints, as JSON."""
        return told(self.run(text))

    def end(self) -> None:
        """End all nodes."""
        for process in reversed(self._processes):
            ended(process)


def told(driver: "subprocess.Popen[str]") -> list[object]:
    out, _ = driver.communicate(timeout=150)
    assert driver.returncode == 0
    return json.loads(out.splitlines()[-1])


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Cluster]:
    found = Cluster(tmp_path)
    yield found
    found.end()


BLOCKS = """
import os
from satray.runs.executor import each_block
speak = lambda line: print(line, flush=True)
alone = not cluster.spans_machines()
done = list(each_block(abs, [-1, -2], Resources(wait=2), ray=True, ordered=True, say=speak))
print(json.dumps([alone, done, cluster.call_anywhere(os.getpid) != os.getpid()]))
"""

TAKE = """
workers = cluster.allot(Resources(workers={workers}, gpus="{gpus}", wait={wait}), say)
print(json.dumps([workers.gpu, workers.count, workers.cpus, cluster.spans_machines(), said]))
"""


def test_auto_takes_gpus_that_the_cluster_can_start(nodes: Cluster, tmp_path: Path) -> None:
    """Its head alone is up; the autoscaler's node types have GPUs. Without: a node a worker."""
    kinds = {
        "ray.head.default": {"resources": {"CPU": 0}, "max_workers": 0},
        "reader": {"resources": {"CPU": 4}, "min_workers": 0, "max_workers": 2},
        "gpu": {"resources": {"CPU": 2, "GPU": 1}, "min_workers": 0, "max_workers": 2},
    }
    provider = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
    config = {
        "cluster_name": "test",
        "max_workers": 4,
        "provider": {
            "type": "external",
            "module": provider,
            "gcs_address": nodes.address,
            "launch_multiple": True,
            "head_node_id": HEAD,
        },
        "available_node_types": {name: {**kind, "node_config": {}} for name, kind in kinds.items()},
        "head_node_type": "ray.head.default",
        "idle_timeout_minutes": 5,
        **{f"{each}setup_commands": [] for each in ("", "head_", "worker_")},
        **{f"{each}_start_ray_commands": [] for each in ("head", "worker")},
        "initialization_commands": [],
        "file_mounts": {},
        "cluster_synced_files": [],
        "auth": {},
        "docker": {},
        "upscaling_speed": 1.0,
        "file_mounts_sync_continuously": False,
        "rsync_exclude": [],
        "rsync_filter": [],
    }
    (tmp_path / "cluster.json").write_text(json.dumps(config))
    nodes.start_head(
        "--num-cpus=0", f"--autoscaling-config={tmp_path / 'cluster.json'}",
        RAY_FAKE_CLUSTER="1", RAY_CLOUD_INSTANCE_ID=HEAD, RAY_OVERRIDE_NODE_ID_FOR_TESTING=HEAD,
    )  # fmt: skip
    gpu, count, cpus, several, said = nodes.told(TAKE.format(workers=2, gpus="no", wait=2))
    assert (gpu, count, cpus, several) == (False, 2, 3, True)  # two nodes of 4, and 2 for readers
    assert "2 CPU nodes (it has " in said[0]
    assert said[2:] == ["2 workers without GPUs: 3 CPUs each"]
    gpu, count, cpus, several, said = nodes.told(TAKE.format(workers=2, gpus="auto", wait=2))
    assert (gpu, count, cpus, several) == (True, 2, 1, True)
    taken, waiting, there = said
    assert taken == "resources.gpus=auto: no GPU is up; taking a GPU, which the cluster can start"
    assert waiting.startswith("waiting for the cluster to have 2 GPUs (it has ")
    assert "2 minutes at most (resources.wait)" in waiting
    assert there.startswith("the cluster has them after ")


LACKING = """
lines = []
for asked in ({"gpus": "yes"}, {"workers": 2, "gpus": "no"}):
    try:
        cluster.allot(Resources(wait=0.02, **asked), say)
    except SatrayError as error:
        lines.append(str(error))
print(json.dumps(lines))
"""

READ = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from data.tile_archive import source_of
from satray.data.order import WholeOrder
from satray.data.read import errors_of
from satray.data.stream import tile_dataset
from satray.errors import InputError
from satray.storage import Storage
class Slow(Storage):
    def read(self, uri, version=None):
        begun = time.time()
        time.sleep(3)
        raise InputError(f"{{os.getpid()}} {{begun}} {{time.time()}}")
source, errors = source_of("nowhere", storage=Slow()), {{}}
order, readers = WholeOrder(len(source)), cluster.readers(Resources())
dataset = tile_dataset(source, order, batch=1, readers=readers, deterministic=True)
for table in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
    errors |= errors_of(table)
reads = [tuple(map(float, line.split())) for line in errors.values()]
busy = [len({{task for task, begun, ended in reads if begun <= at < ended}}) for _, at, _ in reads]
print(json.dumps([len(reads) == len(source), max(busy)]))
"""
"""A stream whose consumer takes whatever comes, of tiles that are slow; printed: whether all were
read, and the most read tasks at once."""


def test_a_cluster_without_an_autoscaler_is_waited_for_and_read_from(nodes: Cluster) -> None:
    nodes.start_head("--num-cpus=0")
    driver = nodes.run(BLOCKS)
    assert driver.stdout is not None
    line = driver.stdout.readline()
    assert line.startswith("waiting for the cluster to have 1 CPU (it has 0), 2 minutes at most")
    nodes.start(f"--address={nodes.address}", "--num-cpus=2")
    assert told(driver) == [True, [1, 2], True]
    gpu, _, cpus, several, said = nodes.told(TAKE.format(workers=1, gpus="auto", wait=0.1))
    assert (gpu, cpus, several) == (False, 1, True)
    assert said == [
        "resources.gpus=auto: no GPU is up; taking CPUs: the cluster can start no GPU",
        "1 worker without GPUs: 1 CPU each",
    ]
    gpus, cpus = nodes.told(LACKING)
    assert gpus.startswith("resources.wait=0.02: the cluster still lacks 1 GPU (it has 0)")
    assert cpus.startswith("resources.wait=0.02: the cluster still lacks 3 CPUs (it has 2)")
    driver = nodes.run(TAKE.format(workers=1, gpus="yes", wait=2))
    time.sleep(5)
    nodes.start(f"--address={nodes.address}", "--num-cpus=4", "--num-gpus=1")
    gpu, _, _, several, said = told(driver)
    assert (gpu, several) == (True, True)
    assert said[0].startswith("waiting for the cluster to have 1 GPU (it has 0), 2 minutes")
    assert said[1].startswith("the cluster has them after ")
    whole, most = nodes.told(READ)
    assert whole
    assert 4 <= most <= 6  # as many as there are CPUs; a process more may be late
