"""S3 servers for tests, each in a process of its own: GDAL may wait for it with Python's lock.

moto is light. OpenStack Swift with `s3api` is a production object store: it checks signatures,
writes to disk, speaks multipart and honours `If-None-Match`. Its four servers are one process, and
no memcached is needed: a WSGI filter keeps the proxy's cache in its memory. Everything lives in one
folder and ends with the process that started it.

    with S3Server(Path("/tmp/x")) as server:
        print(server.endpoint)
"""

import ctypes
import getpass
import logging
import os
import signal
import subprocess
import sys
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

    def __init__(self, root: Path, kind: str = "swift") -> None:
        self.root, self.kind = root, kind
        self.endpoint = ""

    def __enter__(self) -> "S3Server":
        with (self.root / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, __file__, self.kind, str(self.root)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,  # Ctrl-C is for pytest, which then stops us
            )
        assert self._process.stdout is not None
        self.endpoint = self._process.stdout.readline().strip()
        if not self.endpoint:
            log_text = (self.root / "log").read_text(errors="replace")
            raise RuntimeError(f"{self.kind} does not start:\n{log_text}")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait(30)


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


def serve_moto(_: Path) -> None:
    """Run moto's server, and say where."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    print(f"http://127.0.0.1:{server.get_host_and_port()[1]}", flush=True)  # noqa: T201
    signal.pause()


def serve_swift(root: Path) -> None:
    """Run the four servers, and say where the proxy is."""
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    import eventlet
    from swift.common import utils, wsgi

    utils.monkey_patch()
    use_hub, hubs = eventlet.hubs.use_hub, eventlet.hubs._threadlocal
    use_hub(utils.get_hub())  # each server would begin with another, and lose those before it
    eventlet.hubs.use_hub = lambda hub=None: None if hasattr(hubs, "hub") else use_hub(hub)
    utils.SWIFT_CONF_FILE = str(root / "swift.conf")
    (root / "swift.conf").write_text(SWIFT_CONF)
    (root / "dev" / "d1").mkdir(parents=True)
    sockets = {kind: eventlet.listen(("127.0.0.1", 0)) for kind in (*BACKENDS, "proxy")}
    ports = {kind: listener.getsockname()[1] for kind, listener in sockets.items()}
    for kind in BACKENDS:
        make_ring(root / f"{kind}.ring.gz", ports[kind])
    for kind, port in ports.items():
        text = COMMON_CONF + (PROXY_CONF if kind == "proxy" else BACKEND_CONF)
        values = {"kind": kind, "port": port, "root": root, "user": getpass.getuser()}
        path = root / f"{kind}.conf"
        path.write_text(text.format(**values, region=REGION, secret=SECRET_KEY))
        conf, logger, _ = wsgi._initrp(str(path), f"{kind}-server", verbose=True)
        eventlet.spawn(wsgi.run_server, conf, logger, sockets[kind])
    print(f"http://127.0.0.1:{ports['proxy']}", flush=True)  # noqa: T201
    while True:
        eventlet.sleep(3600)


if __name__ == "__main__":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: no orphans after a crash
    {"moto": serve_moto, "swift": serve_swift}[sys.argv[1]](Path(sys.argv[2]))
