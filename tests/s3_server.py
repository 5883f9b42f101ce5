"""A real S3 server for tests: OpenStack Swift with `s3api`, four processes on loopback ports.

Swift is a production object store: it checks signatures, writes to disk, speaks multipart and
honours `If-None-Match`. No memcached is needed: a WSGI filter keeps the proxy's cache in its
memory. Everything lives in one folder and ends with the process that started it.

    with S3Server(Path("/tmp/x")) as server:
        print(server.endpoint)
"""

import contextlib
import ctypes
import getpass
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from time import monotonic

ACCESS_KEY = "test:tester"
SECRET_KEY = "testing"
REGION = "us-east-1"
BACKENDS = ("account", "container", "object")

SWIFT_CONF = """
[swift-hash]
swift_hash_path_prefix = satray
swift_hash_path_suffix = tests
[storage-policy:0]
name = only
default = yes
"""

# Waits are generous: the machine that tests is a busy one.
COMMON_CONF = """
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
conn_timeout = 10
node_timeout = 60
container_update_timeout = 60
recoverable_node_timeout = 60
client_timeout = 60
"""

BACKEND_CONF = """
[pipeline:main]
pipeline = {kind}-server
[app:{kind}-server]
use = egg:swift#{kind}
"""

PROXY_CONF = """
[pipeline:main]
pipeline = catch_errors memory_cache s3api tempauth bulk slo dlo copy proxy-server
[filter:memory_cache]
paste.filter_factory = s3_server:memory_cache
[filter:s3api]
use = egg:swift#s3api
location = {region}
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = {secret} .admin
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
""" + "".join(
    f"[filter:{name}]\nuse = egg:swift#{name}\n"
    for name in ("catch_errors", "bulk", "slo", "dlo", "copy")
)


class S3Server:
    """The server as a context manager; `endpoint` is known once it is entered."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.endpoint = ""
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> "S3Server":
        for _ in range(2):
            with contextlib.suppress(RuntimeError):  # a port was taken between choosing and binding
                return self._start()
        return self._start()

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.wait(30)
        self._processes.clear()

    def _start(self) -> "S3Server":
        self.__exit__()
        ports = dict(zip((*BACKENDS, "proxy"), free_ports(4), strict=True))
        (self.root / "dev" / "d1").mkdir(parents=True, exist_ok=True)
        (self.root / "swift.conf").write_text(SWIFT_CONF)
        for kind in BACKENDS:
            make_ring(self.root / f"{kind}.ring.gz", ports[kind])
        for kind, port in ports.items():
            text = COMMON_CONF + (PROXY_CONF if kind == "proxy" else BACKEND_CONF)
            values = {"kind": kind, "port": port, "root": self.root, "user": getpass.getuser()}
            conf = self.root / f"{kind}.conf"
            conf.write_text(text.format(**values, region=REGION, secret=SECRET_KEY))
            with (self.root / f"{kind}.log").open("wb") as log:
                process = subprocess.Popen(
                    [sys.executable, __file__, f"{kind}-server", str(conf)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    cwd=self.root,
                    start_new_session=True,  # Ctrl-C is for pytest, which then stops us
                )
            self._processes.append(process)
        for process, (kind, port) in zip(self._processes, ports.items(), strict=True):
            self._wait(process, kind, port)
        self.endpoint = f"http://127.0.0.1:{ports['proxy']}"
        return self

    def _wait(self, process: subprocess.Popen[bytes], kind: str, port: int) -> None:
        """Wait until one process answers on its port, a tenth of a second at a time."""
        deadline = monotonic() + 60
        while process.poll() is None and monotonic() < deadline:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), 1).close()
                return
            time.sleep(0.1)
        log = (self.root / f"{kind}.log").read_text(errors="replace")
        raise RuntimeError(f"swift's {kind}-server does not start:\n{log}")


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

    here = {"ip": "127.0.0.1", "port": port}
    there = {f"replication_{name}": value for name, value in here.items()}
    place = {"id": 0, "region": 1, "zone": 1, "device": "d1", "weight": 1.0, "meta": ""}
    builder = RingBuilder(6, 1, 0)
    builder.add_dev(place | here | there)
    builder.rebalance(seed="satray")
    builder.get_ring().save(str(path))


class MemoryCache:
    """What Swift wants of memcached, in a dictionary: values with a time to live."""

    def __init__(self) -> None:
        self._items: dict[str, tuple[float, object]] = {}

    def set(self, key, value, serialize=True, time=0, min_compress_len=0, raise_on_error=False):
        self._items[key] = (monotonic() + time if time else float("inf"), value)

    def get(self, key, raise_on_error=False):
        until, value = self._items.get(key, (0.0, None))
        return value if until > monotonic() else None

    def incr(self, key, delta=1, time=0):
        value = max(0, int(self.get(key) or 0) + int(delta))
        self.set(key, value, time=time)
        return value

    def decr(self, key, delta=1, time=0):
        return self.incr(key, -delta, time)

    def delete(self, key, server_key=None):
        self._items.pop(key, None)


def memory_cache(global_conf, **_):
    """Make the WSGI filter that hands the cache to the proxy's pipeline."""
    cache = MemoryCache()

    def wrap(app):
        def call(environ, start_response):
            environ["swift.cache"] = cache
            return app(environ, start_response)

        return call

    return wrap


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
