"""A real S3 server for tests: OpenStack Swift with `s3api`, four processes on loopback ports.

Swift is a production object store: it checks signatures, writes to disk, speaks multipart and
honours `If-None-Match`. No memcached is needed: a WSGI filter keeps the proxy's cache in its
memory. Everything lives in one folder and ends with the process that started it.

    with S3Server(Path("/tmp/x")) as server:
        print(server.endpoint)
"""

import ctypes
import getpass
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

ACCESS_KEY = "test:tester"
SECRET_KEY = "testing"
REGION = "us-east-1"
BACKENDS = ("account", "container", "object")
START_LIMIT = 60.0  # seconds
START_TRIES = 3  # a port may be taken between choosing and binding

SWIFT_CONF = """
[swift-hash]
swift_hash_path_prefix = satray
swift_hash_path_suffix = tests
[storage-policy:0]
name = only
default = yes
"""

# Waits are generous: the machine that tests is a busy one.
BACKEND_CONF = """
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
user = {user}
swift_dir = {root}
devices = {root}/dev
mount_check = false
disable_fallocate = true
fallocate_reserve = 0
log_level = WARNING
[pipeline:main]
pipeline = {kind}-server
[app:{kind}-server]
use = egg:swift#{kind}
conn_timeout = 10
node_timeout = 60
container_update_timeout = 60
"""

PROXY_CONF = """
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
user = {user}
swift_dir = {root}
log_level = WARNING
[pipeline:main]
pipeline = catch_errors healthcheck memory_cache s3api tempauth bulk slo dlo copy proxy-server
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:healthcheck]
use = egg:swift#healthcheck
[filter:memory_cache]
paste.filter_factory = s3_server:memory_cache
[filter:s3api]
use = egg:swift#s3api
location = {region}
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = {secret} .admin
[filter:bulk]
use = egg:swift#bulk
[filter:slo]
use = egg:swift#slo
[filter:dlo]
use = egg:swift#dlo
[filter:copy]
use = egg:swift#copy
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
conn_timeout = 10
node_timeout = 60
recoverable_node_timeout = 60
client_timeout = 60
"""


class S3Server:
    """The server as a context manager; `endpoint` is known once it is entered."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.endpoint = ""
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> "S3Server":
        for attempt in range(START_TRIES):
            try:
                self._start()
                break
            except PortTakenError:
                self.stop()
                if attempt == START_TRIES - 1:
                    raise
            except BaseException:
                self.stop()
                raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def swift_account(self) -> str:
        """URL of the account in Swift's own interface, where anonymous readers come in."""
        return f"{self.endpoint}/v1/AUTH_test"

    def log(self, kind: str) -> str:
        return (self.root / f"{kind}.log").read_text(errors="replace")

    def stop(self) -> None:
        """End our own processes, by their ids."""
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)
        self.processes.clear()

    def _start(self) -> None:
        ports = dict(zip((*BACKENDS, "proxy"), free_ports(4), strict=True))
        (self.root / "dev" / "d1").mkdir(parents=True, exist_ok=True)
        (self.root / "swift.conf").write_text(SWIFT_CONF)
        for kind in BACKENDS:
            make_ring(self.root / f"{kind}.ring.gz", ports[kind])
        for kind, port in ports.items():
            text = PROXY_CONF if kind == "proxy" else BACKEND_CONF
            values = {"kind": kind, "port": port, "root": self.root, "user": getpass.getuser()}
            conf = self.root / f"{kind}.conf"
            conf.write_text(text.format(**values, region=REGION, secret=SECRET_KEY))
            with (self.root / f"{kind}.log").open("wb") as log:
                self.processes[kind] = subprocess.Popen(
                    [sys.executable, __file__, f"{kind}-server", str(conf)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    cwd=self.root,
                    start_new_session=True,  # Ctrl-C is for pytest, which then stops us
                )
        self.endpoint = f"http://127.0.0.1:{ports['proxy']}"
        deadline = time.monotonic() + START_LIMIT
        for kind, port in ports.items():
            self._wait(kind, port, deadline)

    def _wait(self, kind: str, port: int, deadline: float) -> None:
        """Wait until one process answers on its port, a tenth of a second at a time."""
        url = f"http://127.0.0.1:{port}/{'healthcheck' if kind == 'proxy' else 'recon/version'}"
        while True:
            if self.processes[kind].poll() is not None:
                log = self.log(kind)
                if "bind" in log:
                    raise PortTakenError(log)
                raise RuntimeError(f"swift's {kind}-server ended at once:\n{log}")
            try:
                if kind == "proxy":
                    urlopen(url, timeout=5).close()
                else:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                return
            except OSError as error:
                if time.monotonic() > deadline:
                    raise TimeoutError(
                        f"swift's {kind}-server did not answer in {START_LIMIT:.0f} s ({error}):\n"
                        + self.log(kind)
                    ) from error
                time.sleep(0.1)


class PortTakenError(RuntimeError):
    """Somebody else got the port first; choose others."""


def free_ports(count: int) -> list[int]:
    """Let the kernel choose free loopback ports, all different."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def make_ring(path: Path, port: int) -> None:
    """Write a ring of one device and one replica."""
    from swift.common.ring.builder import RingBuilder

    builder = RingBuilder(6, 1, 0)
    builder.add_dev(
        {
            "id": 0,
            "region": 1,
            "zone": 1,
            "ip": "127.0.0.1",
            "port": port,
            "replication_ip": "127.0.0.1",
            "replication_port": port,
            "device": "d1",
            "weight": 1.0,
            "meta": "",
        }
    )
    builder.rebalance(seed="satray")
    builder.get_ring().save(str(path))


class MemoryCache:
    """What Swift wants of memcached, in a dictionary: values with a time to live."""

    def __init__(self) -> None:
        self._items: dict[str, tuple[float, object]] = {}

    def set(self, key, value, serialize=True, time=0, min_compress_len=0, raise_on_error=False):
        self._items[key] = (_now() + time if time else float("inf"), value)

    def get(self, key, raise_on_error=False):
        until, value = self._items.get(key, (0.0, None))
        return value if until > _now() else None

    def incr(self, key, delta=1, time=0):
        value = max(0, int(self.get(key) or 0) + int(delta))
        self.set(key, value, time=time)
        return value

    def decr(self, key, delta=1, time=0):
        return self.incr(key, -delta, time)

    def delete(self, key, server_key=None):
        self._items.pop(key, None)

    def set_multi(self, mapping, server_key, serialize=True, time=0, min_compress_len=0):
        for key, value in mapping.items():
            self.set(key, value, time=time)

    def get_multi(self, keys, server_key):
        return [self.get(key) for key in keys]


def memory_cache(global_conf, **_):
    """Make the WSGI filter that hands the cache to the proxy's pipeline."""
    cache = MemoryCache()

    def wrap(app):
        def call(environ, start_response):
            environ["swift.cache"] = cache
            return app(environ, start_response)

        return call

    return wrap


def _now() -> float:
    return time.monotonic()


def serve(section: str, conf: str) -> int:
    """Run one of the four processes, until it is told to stop or its parent is gone."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG: no orphans after a crash
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    from swift.common import utils
    from swift.common.wsgi import run_wsgi

    utils.SWIFT_CONF_FILE = os.path.join(os.path.dirname(conf), "swift.conf")
    utils.validate_hash_conf()
    return run_wsgi(conf, section)


if __name__ == "__main__":
    sys.exit(serve(sys.argv[1], sys.argv[2]))
