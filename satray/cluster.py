"""The only place that starts or joins Ray, and what jobs take of it: GPUs, CPUs, readers."""

import contextlib
import logging
import math
import os
import pickle
import secrets
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from satray import sessions
from satray.config.base import Resources
from satray.errors import InputError, SatrayError, counted, one_line
from satray.sessions import cores

T = TypeVar("T")
_log = logging.getLogger("satray")

# Read when Ray is imported or its workers start; a value that the operator set wins.
SETTINGS = {
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # else 2 s are lost at each end of a short run
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}
LOCAL_SETTINGS = {
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # Ray's 15 is a twentieth of a core beside any other program
}
for _name, _value in (SETTINGS | ({} if sessions.address() else LOCAL_SETTINGS)).items():
    os.environ.setdefault(_name, _value)

import ray  # noqa: E402
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy  # noqa: E402

LOCAL = "satray.local"
"""Resource that marks a Ray which was started for one job, for all of its processes to see."""
NODE = "CPU node"
"""What else is waited for, beside Ray's resources."""
SPARE = 2.0
"""CPUs that workers leave: Ray Data gives each of two streams what is left, rounded down."""
LOCAL_READ_CPUS = 0.5
READERS_OF_A_GPU = 8
"""Read tasks that feed a fast consumer: it takes 4,000 tiles a second, a reader gives 500."""


@contextlib.contextmanager
def start(
    resources: Resources | None = None,
    *,
    dashboard: bool = False,
    num_cpus: int | None = None,
    output: bool = False,
) -> Iterator[None]:
    """Join the cluster at RAY_ADDRESS where that is set, else start a local one; end with it.

    Inside an open session nothing is started, so that one job may call another's work.

    Args:
        resources: refused at once where a local cluster can never give them.
        dashboard: start it too (Tune's early stopping needs it); local clusters only.
        num_cpus: logical CPUs of a local cluster; default: the cores, and `SPARE` for data tasks,
            which would starve next to a trainer that takes all cores.
        output: whether what workers print comes to standard output and error (a job's log).

    Raises:
        InputError: RAY_ADDRESS cannot be joined, or `resources` are more than a local cluster has.
        SatrayError: a local cluster does not start.
    """
    logging.getLogger("ray").setLevel(logging.WARNING)
    options: dict[str, Any] = {"log_to_driver": output, "logging_level": logging.WARNING}
    with contextlib.ExitStack() as ends:
        if ray.is_initialized():
            pass
        elif (address := sessions.address()) is not None:
            _join(address, options)
            ends.callback(ray.shutdown)
        else:
            options |= {
                "num_cpus": num_cpus or cores() + int(SPARE),
                "include_dashboard": dashboard,
                "resources": {LOCAL: 1.0},
            }
            ends.enter_context(_local(options))
        if resources is not None and is_local():
            _refuse_impossible(resources)
        yield


def _join(address: str, options: dict[str, Any]) -> None:
    host, _, port = address.rpartition(":")
    try:
        if port.isdigit() and "/" not in host:  # Ray itself asks for minutes where nobody answers
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        ray.init(address=address, **options)
    except Exception as error:  # it is told apart by text only
        ray.shutdown()
        raise InputError(
            f"RAY_ADDRESS={address}: cannot be joined ({one_line(error)}); accepted: the address "
            "of a running cluster, or unset it for a local one"
        ) from error


@contextlib.contextmanager
def _local(options: dict[str, Any]) -> Iterator[None]:
    """Start a local cluster within the block; its session's folder goes where nothing is raised."""
    if "RAY_AUTH_TOKEN_PATH" not in os.environ:  # Ray would keep one in a home it may not write
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    with sessions.folders() as (root, spill):
        # "local", or Ray would join, against these arguments, whatever `ray start` left behind.
        options |= {"address": "local", "_temp_dir": str(root), "object_spilling_directory": spill}
        try:
            try:
                context: Any = ray.init(**options)
            except Exception:  # a crowded machine makes it late everywhere: once more
                ray.shutdown()
                context = ray.init(**options)
        except Exception as error:
            ray.shutdown()
            raise SatrayError(
                f"Ray did not start, twice ({one_line(error)}); where the machine is crowded "
                "(memory, processes), give the command again later; where an address is "
                f"refused, look at its firewall; Ray's logs: {root}"
            ) from error
        try:
            yield
        except Exception:
            ray.shutdown()
            raise
        # Not for a job that is told to end: half way through its work, Ray's own end may abort it.
        ray.shutdown()
        shutil.rmtree(context.address_info["session_dir"], ignore_errors=True)


# What a job takes


@dataclass(frozen=True)
class Readers:
    """Tasks that read and decode tiles."""

    at_once: int | None
    """Most at once; None: Ray Data starts as many as their consumers take and CPUs are free."""
    cpus: float = LOCAL_READ_CPUS
    """CPUs that each asks for."""

    @property
    def expected(self) -> int:
        """How many to cut the work for."""
        return self.at_once or READERS_OF_A_GPU


@dataclass(frozen=True)
class Workers:
    """What a job's train workers or scoring actors get."""

    count: int
    """How many."""
    gpu: bool
    """Whether each has a GPU, or a share of one."""
    cpus: int
    """CPUs that each asks for; without a GPU, the threads that it computes with."""
    readers: Readers
    """What reads for them."""
    gpu_share: float = 1.0
    """Of a GPU, where they have any."""

    @property
    def each(self) -> dict[str, float]:
        """Resources of one, in Ray's words."""
        return {"CPU": float(self.cpus)} | ({"GPU": self.gpu_share} if self.gpu else {})


def readers(resources: Resources, busy: float = 0.0) -> Readers:
    """What reads tiles for a job, by `resources.read_tasks`. Ray is up.

    On a cluster no figure bounds them: Ray Data holds them back where their consumers are fed, and
    nodes may still come. One machine's cores decode no faster for more processes than cores.

    Args:
        resources: what the job asks for.
        busy: CPUs that its workers or actors hold.
    """
    wanted = resources.read_tasks
    if not is_local():
        return Readers(None if wanted == "auto" else wanted, 1.0)
    free = int((_total("CPU") - busy) / LOCAL_READ_CPUS)
    return Readers(min(max(1, free), max(2, cores())) if wanted == "auto" else wanted)


def await_readers(resources: Resources, say: Callable[[str], None]) -> Readers:
    """What reads for a job that has no workers; a cluster's first CPU is waited for. Ray is up.

    Args:
        resources: what the job asks for.
        say: told what is waited for.

    Raises:
        SatrayError: it did not come within `resources.wait`.
    """
    if not is_local():
        _await({"CPU": 1}, [{"CPU": 1.0}], resources.wait, say)
    return readers(resources)


def cpus_of(nodes: Sequence[float], count: int) -> int:
    """Most CPUs that each of `count` workers can hold: they fit on the nodes, and `SPARE` is left.

    Args:
        nodes: CPUs of each node.
        count: workers.
    """
    most = int((sum(nodes) - SPARE) // count)
    fitting = (n for n in range(most, 1, -1) if sum(int(node // n) for node in nodes) >= count)
    return next(fitting, 1)


def allot(
    resources: Resources,
    say: Callable[[str], None] = _log.info,
    *,
    count: int | None = None,
    gpu_share: float = 1.0,
) -> Workers:
    """Decide what each worker gets; what a cluster lacks is asked for and waited for. Ray is up.

    Args:
        resources: what the job asks for.
        say: told what is waited for, and what was taken where the key leaves it open.
        count: workers, where it is not `resources.workers`.
        gpu_share: of a GPU that each takes.

    Raises:
        SatrayError: it did not come within `resources.wait`.
    """
    count = count or resources.workers
    gpu = use_gpus(resources, say)
    if not is_local():
        each = {"CPU": 1.0} | ({"GPU": gpu_share} if gpu else {})
        # a worker takes one CPU, and reading tiles another: else they wait for each other
        wanted, bundles, strategy = {"CPU": count + 1}, [each] * count + [{"CPU": 1.0}], "PACK"
        if gpu:  # a share never spans two
            wanted["GPU"] = math.ceil(count / math.floor(1 / gpu_share + 1e-9))
        elif count > max(1, len(cpu_nodes())) and _can_start([{"CPU": 2.0}] * count):
            # a node each, since it takes all its CPUs: else they would share what is up first
            wanted[NODE], bundles, strategy = count, [{"CPU": 2.0}] * count, "STRICT_SPREAD"
        _await(wanted, bundles, resources.wait, say, strategy)
    cpus = 1 if gpu else cpus_of(cpu_nodes(), count)
    if is_local():
        cpus = min(cpus, cores())
    elif not gpu:
        say(f"{counted(count, 'worker')} without GPUs: {counted(cpus, 'CPU')} each")
    return Workers(count, gpu, cpus, readers(resources, busy=count * cpus), gpu_share)


def use_gpus(resources: Resources, say: Callable[[str], None] = _log.info) -> bool:
    """Whether workers get GPUs: as asked, or where the cluster has them or can start some.

    Args:
        resources: what the job asks for.
        say: told what was taken where the key leaves it open and no GPU is up.
    """
    if resources.gpus != "auto":
        return resources.gpus == "yes"
    if _total("GPU") > 0 or is_local():
        return _total("GPU") > 0
    gpu = _can_start([{"GPU": 1.0}])
    found = "a GPU, which the cluster can start" if gpu else "CPUs: the cluster can start no GPU"
    say(f"resources.gpus=auto: no GPU is up; taking {found}")
    return gpu


def is_local() -> bool:
    """Whether Ray was started for this job alone; seen from all of its processes."""
    return LOCAL in ray.cluster_resources()


def spans_machines() -> bool:
    """Whether work may run on another machine than the driver's, now or once nodes are started."""
    return node_count() > 1 or (not is_local() and _can_start([{"CPU": 0.001}] * 2))


def cpu_nodes() -> list[float]:
    """CPUs of each live node that has any."""
    cpus = (node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"])
    return [each for each in cpus if each > 0]


def node_count() -> int:
    """Number of live nodes."""
    return sum(node["Alive"] for node in ray.nodes())


def gpu_types() -> list[str]:
    """Models of the cluster's accelerators by Ray's names (`H100`); none where it knows none."""
    mark = "accelerator_type:"
    names = ray.cluster_resources()
    return sorted(name.removeprefix(mark) for name in names if name.startswith(mark))


def use_threads(count: int) -> None:
    """Have torch compute with as many threads as CPUs were asked for, and without denormals."""
    import torch

    torch.set_num_threads(max(1, min(count, cores())))
    torch.set_flush_denormal(True)  # networks make denormals, and CPUs crawl over them


def _total(resource: str) -> float:
    if resource == NODE:
        return len(cpu_nodes())
    return float(ray.cluster_resources().get(resource, 0.0))


def _refuse_impossible(resources: Resources) -> None:
    """Refuse more workers than one machine has GPUs or CPUs for."""
    gpus, cpus, workers = _total("GPU"), _total("CPU"), resources.workers
    most = int(min(gpus, cpus - 1) if use_gpus(resources) else cpus - 1)
    if workers > most:
        raise InputError(
            f"resources.workers={workers} resources.gpus={resources.gpus}: this machine has "
            f"{gpus:g} GPUs, and Ray {cpus:g} CPUs here, of which a worker takes one and reading "
            f"tiles another; accepted: at most {most} such workers"
        )


def _await(
    wanted: dict[str, int],
    bundles: list[dict[str, float]],
    minutes: float,
    say: Callable[[str], None],
    strategy: str = "PACK",
) -> None:
    """Wait until the cluster has what is wanted; `bundles` ask its autoscaler for it."""

    def lacking() -> str:
        short = [(name, n, _total(name)) for name, n in wanted.items() if _total(name) < n]
        return " and ".join(f"{counted(n, name)} (it has {has:g})" for name, n, has in short)

    if not (line := lacking()):
        return
    say(f"waiting for the cluster to have {line}, {minutes:g} minutes at most (resources.wait)")
    begun = time.monotonic()
    with _asking(bundles, strategy):
        while line := lacking():
            if time.monotonic() - begun > 60 * minutes:
                raise SatrayError(
                    f"resources.wait={minutes:g}: the cluster still lacks {line}; more nodes, "
                    "fewer resources.workers or resources.gpus=no may help"
                )
            time.sleep(1.0)
    say(f"the cluster has them after {time.monotonic() - begun:.0f} s")


@contextlib.contextmanager
def _asking(bundles: list[dict[str, float]], strategy: str) -> Iterator[Any]:
    """Ask for resources within the block, and not beyond this driver's life.

    `request_resources` would outlive a driver that is killed, and so would its nodes.
    """
    group = ray.util.placement_group(bundles, strategy=strategy)
    try:
        yield group
    finally:
        ray.util.remove_placement_group(group)


def _can_start(bundles: list[dict[str, float]], seconds: float = 60.0) -> bool:
    """Whether the cluster has, or has node types for, these bundles on a node each.

    Its autoscaler (version 2: of `ray up` and KubeRay) is asked, and says what it cannot do. In
    Ray 2.60 neither its node types nor that verdict is public; these private names tell the latter.
    Where there is none, nothing can be started.
    """
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.core.generated import autoscaler_pb2

    client = GcsClient(address=ray.get_runtime_context().gcs_address)

    def status() -> Any:
        reply: Any = autoscaler_pb2.GetClusterStatusReply()  # type: ignore[attr-defined]
        reply.ParseFromString(client.get_cluster_status(timeout_s=10))
        return reply

    with _asking(bundles, "STRICT_SPREAD") as group:
        asked = status().cluster_resource_state.cluster_resource_state_version
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            found = status().autoscaling_state
            seen = found.last_seen_cluster_resource_state_version
            if seen == 0:
                return False
            if seen > asked:
                refused = [gang.details for gang in found.infeasible_gang_resource_requests]
                return not any(group.id.hex() in details for details in refused)
            time.sleep(0.5)
    return False


def executions(context: Any) -> int:
    """How often a dataset, whose Ray Data context this is, was executed before.

    Ray Data shuffles its own sources anew by this figure at each execution. In Ray 2.60 it has a
    private name only, and no other that a source of ours could see.
    """
    return int(context._execution_idx)


# Calls and messages


def run_once(function: Callable[..., T], *args: Any, workers: Workers) -> T:
    """Call a function on a worker and wait for it.

    Args:
        function: what to call; it travels by name, so it must be importable there.
        args: what it is given; they are pickled.
        workers: what it gets (`allot`, a count of one).

    Raises:
        SatrayError: what the function raised, as it was; or why the worker died, in one line.
    """
    threads = 0 if workers.gpu else workers.cpus
    gpus = workers.gpu_share if workers.gpu else 0
    with tasks(function, workers.cpus, gpus=gpus, threads=threads) as submit:
        return submit(*args).result()


def call_anywhere(function: Callable[..., T], *args: Any) -> T:
    """Call a function on some node of a cluster, on one CPU; in this process where Ray is local.

    Raises:
        SatrayError: as `run_once`.
    """
    if is_local():
        return function(*args)
    with tasks(function, cpus=1) as submit:
        return submit(*args).result()


@contextlib.contextmanager
def tasks(
    function: Callable[..., T], cpus: float, *, gpus: float = 0, threads: int = 0
) -> Iterator[Callable[..., "Future[T]"]]:
    """Ray tasks that call a function; at the end of the block those not done are cancelled.

    Args:
        function: what to call; pickled once.
        cpus: that a task asks for.
        gpus: likewise.
        threads: that torch computes with; 0: it is left alone, and not imported.

    Yields:
        what takes a call's arguments and gives its future.

    Raises:
        SatrayError: where a future's result is taken within the block: what the function raised,
            as it was, or why it could not be done, in one line.
    """
    call: Any = ray.remote(num_cpus=cpus, num_gpus=gpus)(_called)
    travelling = ray.put(function)
    under_way: set[Any] = set()

    def submit(*args: Any) -> "Future[T]":
        reference = call.remote(travelling, threads, *args)
        under_way.add(reference)
        future: Future[T] = reference.future()
        future.add_done_callback(lambda _: under_way.discard(reference))
        return future

    try:
        yield submit
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, SatrayError):
            raise error.cause from None
        raise SatrayError(f"a worker failed: {cause(error)}") from error
    except ray.exceptions.RayError as error:
        raise SatrayError(f"a worker died: {cause(error)}") from error
    finally:
        for reference in list(under_way):
            ray.cancel(reference)


def _called(function: Callable[..., T], threads: int, *args: Any) -> T:
    if threads:
        use_threads(threads)
    return function(*args)


def cause(error: Exception) -> str:
    """What ended a task or actor, in one line, from whatever Ray wrapped it in."""
    return one_line(getattr(error, "cause", None) or error)


class ProgressChannel:
    """A mailbox between workers and driver; pickles, so that workers can be handed it."""

    def __init__(self) -> None:
        """Open it on the driver's node, which is the last to go. Ray is up."""
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        actor: Any = ray.remote(_Mailbox)
        self._mail = actor.options(num_cpus=0, scheduling_strategy=here).remote()

    def send(self, message: dict[str, Any]) -> None:
        """Post a message without waiting for it to arrive."""
        self._mail.post.remote(pickle.dumps(message))

    @contextlib.contextmanager
    def watch(
        self,
        show: Callable[[dict[str, Any]], None],
        say: Callable[[str], None] = _log.warning,
    ) -> Iterator[None]:
        """Call `show` on each message, in order, from a thread of the driver, within the block.

        Args:
            show: should not wait long: at the end of the block it gets a minute.
            say: told why no more is shown, where `show` raised or no message can be had any more;
                the work itself goes on.
        """
        stop = threading.Event()

        def poll() -> None:
            last = False
            try:
                while not last:
                    last = stop.wait(0.5)
                    for message in ray.get(self._mail.take.remote()):
                        show(pickle.loads(message))
            except Exception as error:
                say(f"note: no more progress can be shown: {cause(error)}")

        thread = threading.Thread(target=poll, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(timeout=60)


class _Mailbox:
    """Messages, pickled: one may hold types whose module imports torch, seconds of a core."""

    def __init__(self) -> None:
        self._messages: list[bytes] = []

    def post(self, message: bytes) -> None:
        self._messages.append(message)

    def take(self) -> list[bytes]:
        messages, self._messages = self._messages, []
        return messages
