"""The only place that starts or joins Ray."""

import contextlib
import logging
import os
import pickle
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from satray import sessions
from satray.config.base import Resources
from satray.errors import InputError, SatrayError

T = TypeVar("T")
_log = logging.getLogger("satray")

# Read when Ray is imported or its workers start; a value that the operator set wins.
SETTINGS = {
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # else 2 s are lost at each end of a short run
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}
LOCAL_SETTINGS = {"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0", "RAY_TRAIN_METRICS_ENABLED": "0"}
for _name, _value in (SETTINGS | ({} if "RAY_ADDRESS" in os.environ else LOCAL_SETTINGS)).items():
    os.environ.setdefault(_name, _value)

import ray  # noqa: E402
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy  # noqa: E402


@contextlib.contextmanager
def start(
    resources: Resources | None = None,
    *,
    dashboard: bool = False,
    num_cpus: int | None = None,
    lost: sessions.Lost | None = None,
    began: Callable[[str], None] | None = None,
) -> Iterator[None]:
    """Join the cluster at RAY_ADDRESS where that is set, else start a local one; end with it.

    Inside an open session this does nothing, so that one job may call another's work.

    Args:
        resources: checked against what the cluster can ever give.
        dashboard: start it too (Tune's early stopping needs it); local clusters only.
        num_cpus: logical CPUs of a local cluster; default max(4, cores), since data tasks next
            to a trainer starve on two.
        lost: told, from a thread, that a local cluster died (`sessions.guarded`). With it, what
            workers print comes to standard output and error, which are the job's log.
        began: told the folder of a local cluster's session, which goes at the end of a block that
            raised nothing, and else after a day.

    Raises:
        InputError: RAY_ADDRESS cannot be joined, or the cluster is smaller than `resources`.
        SatrayError: a local cluster does not start.
    """
    if ray.is_initialized():
        yield
        return
    logging.getLogger("ray").setLevel(logging.WARNING)
    common = {"log_to_driver": lost is not None, "logging_level": logging.WARNING}
    with contextlib.ExitStack() as ends:
        address = os.environ.get("RAY_ADDRESS")
        if address and address != "local":
            _join(address, common)
            ends.callback(ray.shutdown)
        else:
            asked = {"num_cpus": num_cpus or max(4, cores()), "include_dashboard": dashboard}
            session = ends.enter_context(_local(common | asked))
            if began is not None:
                began(session)
            if lost is not None:
                ends.enter_context(sessions.guarded(session, lost))
        if resources is not None:
            require(resources)
        yield


def _join(address: str, common: dict[str, Any]) -> None:
    host, _, port = address.rpartition(":")
    try:
        if port.isdigit() and "/" not in host:  # Ray itself asks for minutes where nobody answers
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        ray.init(address=address, **common)
    except Exception as error:  # it is told apart by text only
        ray.shutdown()
        raise InputError(
            f"RAY_ADDRESS={address}: cannot be joined ({_last_line(error)}); accepted: the address "
            "of a running cluster, or unset it for a local one"
        ) from error


@contextlib.contextmanager
def _local(asked: dict[str, Any]) -> Iterator[str]:
    """Start a local cluster and yield the folder of its session."""
    root = sessions.session_root()
    sessions.give_token()
    with sessions.spilling(root) as spill:
        # "local", or Ray would join, against these arguments, whatever `ray start` left behind.
        asked |= {"address": "local", "_temp_dir": str(root), "object_spilling_directory": spill}
        try:
            session = _init(asked)
        except Exception as first:  # of any kind: a crowded machine makes it late everywhere
            _log.warning("Ray did not start, one more try: %s", first)
            ray.shutdown()
            sessions.end_own(root)
            try:
                session = _init(asked)
            except Exception as error:
                ray.shutdown()
                raise SatrayError(
                    f"Ray did not start, twice ({_last_line(error)}); where the machine is crowded "
                    "(memory, processes), give the command again later; where an address is "
                    f"refused, look at its firewall; Ray's logs: {root}"
                ) from error
        try:
            yield session
        except Exception:
            ray.shutdown()
            raise
        # Not for a job that is told to end: half way through its work, Ray's own end may abort it.
        ray.shutdown()
        shutil.rmtree(session, ignore_errors=True)  # where nothing was raised


def _init(asked: dict[str, Any]) -> str:
    context: Any = ray.init(**asked)
    return str(context.address_info["session_dir"])


def require(resources: Resources) -> None:
    """Refuse a request that the cluster can never meet: Ray itself would wait for ever.

    Raises:
        InputError: more workers than CPUs or GPUs, or GPUs asked for where there are none.
    """
    total = ray.cluster_resources()
    gpus, cpus = total.get("GPU", 0.0), total.get("CPU", 0.0)
    if resources.gpus == "yes" and gpus == 0:
        raise InputError("resources.gpus=yes: the cluster has no GPU; accepted: auto, no")
    if use_gpus(resources) and resources.workers > gpus:
        raise InputError(
            f"resources.workers={resources.workers}: more than the cluster's GPUs, {gpus:g}; "
            f"accepted: at most {gpus:g}, or resources.gpus=no"
        )
    # A head alone has no CPUs; its workers are still to come.
    if cpus > 0 and resources.workers > cpus - 1:
        raise InputError(
            f"resources.workers={resources.workers}: the cluster has {cpus:g} CPUs, a worker takes "
            f"one and reading tiles another; accepted: at most {max(0, int(cpus) - 1)}"
        )


def has_gpu() -> bool:
    """Whether any node of the cluster has a GPU."""
    return bool(ray.cluster_resources().get("GPU", 0.0) > 0)


def has_dashboard() -> bool:
    """Whether the cluster has a dashboard, which answers what runs on it."""
    return bool(ray._private.worker.get_dashboard_url())


def gpu_types() -> list[str]:
    """Models of the cluster's accelerators by Ray's names (`H100`); none where it knows none."""
    mark = "accelerator_type:"
    return sorted(
        name.removeprefix(mark) for name in ray.cluster_resources() if name.startswith(mark)
    )


def use_gpus(resources: Resources) -> bool:
    """Whether workers get a GPU each."""
    return resources.gpus == "yes" or (resources.gpus == "auto" and has_gpu())


def node_count() -> int:
    """Number of live nodes."""
    return len([node for node in ray.nodes() if node["Alive"]])


def cores() -> int:
    """Cores that this process may use; fewer than the machine's in many containers."""
    return len(os.sched_getaffinity(0))


def threads_per_worker(workers: int) -> int:
    """Threads for `torch.set_num_threads` in each of `workers` processes of the calling node.

    Ray sets one thread a worker, which leaves the other cores idle.
    """
    return max(1, cores() // max(1, workers))


def use_threads(workers: int) -> None:
    """Have torch use this process's share of its node's cores, and no denormals.

    Args:
        workers: processes of the node that compute at once.
    """
    import torch

    torch.set_num_threads(threads_per_worker(workers))
    torch.set_flush_denormal(True)  # networks make denormals, and CPUs crawl over them


def run_once(function: Callable[..., T], *args: Any, gpu: bool = False) -> T:
    """Call a function on a worker, with a GPU or on all cores of its node, and wait for it.

    Args:
        function: what to call; it travels by name, so it must be importable there.
        args: what it is given; they are pickled.
        gpu: whether it gets a GPU; else it gets a CPU to Ray's mind, and torch all cores.

    Raises:
        SatrayError: what the function raised, as it was; or why the worker died, in one line.
    """
    remote: Any = ray.remote(num_cpus=1, num_gpus=1 if gpu else 0)(_with_threads)
    reference = remote.remote(function, args, gpu)
    try:
        found: T = ray.get(reference)
        return found
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, SatrayError):
            raise error.cause from None
        raise SatrayError(f"a worker failed: {_last_line(error)}") from error
    except ray.exceptions.RayError as error:
        raise SatrayError(f"a worker died: {_last_line(error)}") from error
    except KeyboardInterrupt:
        ray.cancel(reference, force=True)  # a cluster that was joined would go on with it
        raise


def _with_threads(function: Callable[..., T], args: tuple[Any, ...], gpu: bool) -> T:
    if not gpu:
        use_threads(1)
    return function(*args)


def _last_line(error: Exception) -> str:
    cause = getattr(error, "cause", None) or error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return lines[-1] if lines else type(cause).__name__


class _Board:
    """Keeps messages from workers until the driver asks for them.

    They stay pickled: a message may hold types whose module imports torch, seconds of a core.
    """

    def __init__(self) -> None:
        self._messages: list[bytes] = []

    def send(self, message: bytes) -> None:
        self._messages.append(message)

    def take(self) -> list[bytes]:
        messages, self._messages = self._messages, []
        return messages


class ProgressChannel:
    """A zero-CPU actor between workers and driver; pickles, so that workers can be handed it."""

    def __init__(self) -> None:
        # On the driver's node, which is the last to go.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        board: Any = ray.remote(num_cpus=0)(_Board)
        self._actor = board.options(scheduling_strategy=here).remote()

    def send(self, message: dict[str, Any]) -> None:
        """Post a message without waiting for it to arrive."""
        self._actor.send.remote(pickle.dumps(message))

    def take(self) -> list[dict[str, Any]]:
        """Return the messages that came since the last call, in order; they are then forgotten."""
        return [pickle.loads(message) for message in ray.get(self._actor.take.remote())]

    @contextlib.contextmanager
    def watch(
        self,
        show: Callable[[dict[str, Any]], None],
        say: Callable[[str], None] = _log.warning,
        seconds: float = 0.5,
    ) -> Iterator[None]:
        """Call `show` on each message, from a thread of the driver, while the block runs.

        Args:
            show: should not wait long: at the end of the block it gets a minute.
            say: told, once, what `show` raised, or that no message can be had any more; the work
                itself goes on.
            seconds: between looks.
        """
        stop = threading.Event()

        def poll() -> None:
            told = last = False
            while not last:
                last = stop.wait(seconds)
                try:
                    messages = self.take()
                except ray.exceptions.RayError as error:
                    say(f"note: no more progress can be shown: {_last_line(error)}")
                    return
                for message in messages:
                    try:
                        show(message)
                    except Exception as error:  # else all that follow would be lost
                        if not told:
                            what = f"{type(error).__name__}: {_last_line(error)}"
                            say(f"note: progress could not be shown ({what})")
                        told = True

        thread = threading.Thread(target=poll, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(timeout=60)


def progress_channel() -> ProgressChannel:
    """Open a channel for progress messages."""
    return ProgressChannel()
