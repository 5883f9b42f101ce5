"""A proxy before an S3 server that fails some requests: by a seeded rate, each in one of five ways.

    with FaultProxy(server.endpoint, rate=0.2) as proxy:
        print(proxy.endpoint)

- busy: 503, and the request never reaches the server;
- reset: the connection is cut before the server hears of it;
- lost: the server does what is asked, and the connection is cut before its answer;
- part: half of the answer's body, then the connection is closed;
- cut: half of the answer's body, then it is reset.

In a process of its own: GDAL may wait for it with Python's lock in hand.
"""

import contextlib
import http.client
import random
import socket
import struct
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

FAULTS = ("busy", "reset", "lost", "part", "cut")


class FaultProxy:
    """The proxy as a context manager; `endpoint` is known once it is entered."""

    def __init__(self, upstream: str, rate: float = 0.2, seed: int = 0) -> None:
        self._arguments = [upstream, str(rate), str(seed)]
        self.endpoint = ""
        self.faults = 0
        """How many requests met a fault; known when it is left."""

    def __enter__(self) -> "FaultProxy":
        command, pipe = [sys.executable, __file__, *self._arguments], subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
        assert self._process.stdout is not None
        self.endpoint = self._process.stdout.readline().strip()
        return self

    def __exit__(self, *_: object) -> None:
        self.faults = int(self._process.communicate("")[0])


class _Proxy(ThreadingHTTPServer):
    daemon_threads, request_queue_size = True, 128

    def __init__(self, upstream: str, rate: float, seed: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream, self.rate, self.faults = urlsplit(upstream).netloc, rate, 0
        self.random, self.lock = random.Random(seed), threading.Lock()

    def handle_error(self, *_: object) -> None:
        return

    def fault(self, method: str) -> str:
        """Draw what happens to a request; empty for nothing."""
        with self.lock:
            if self.random.random() >= self.rate:
                return ""
            self.faults += 1
            drawn = self.random.choice(FAULTS)
        return "lost" if method == "HEAD" and drawn in ("part", "cut") else drawn  # has no body


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Proxy

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        fault = self.server.fault(self.command)
        if fault == "reset":
            self.reset()
            return
        if fault == "busy":
            self.answer(503, [], b"")
            return
        upstream = http.client.HTTPConnection(self.server.upstream, timeout=120)
        with contextlib.closing(upstream):
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in ("expect", "connection"):
                    upstream.putheader(name, value)
            upstream.endheaders(body or None)
            found = upstream.getresponse()
            data = found.read()
        if fault == "lost":
            self.reset()
            return
        self.answer(found.status, found.getheaders(), data, half=bool(fault))
        if fault:
            self.wfile.flush()
            self.close_connection = True
        if fault == "cut" or (fault and not data):
            self.reset()

    do_PUT = do_POST = do_HEAD = do_DELETE = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        return

    def answer(
        self, status: int, headers: list[tuple[str, str]], data: bytes, half: bool = False
    ) -> None:
        """Send a response, or the first half of its body."""
        self.send_response_only(status)
        length = str(len(data))
        for name, value in headers:
            if name.lower() == "content-length" and self.command == "HEAD":
                length = value
            elif name.lower() not in ("transfer-encoding", "content-length", "connection"):
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if half else data)

    def reset(self) -> None:
        """Cut the connection so that the other side sees a reset."""
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.close_connection = True
        self.connection.close()


if __name__ == "__main__":
    proxy = _Proxy(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]))
    threading.Thread(target=proxy.serve_forever, args=(0.05,), daemon=True).start()
    print(f"http://127.0.0.1:{proxy.server_port}", flush=True)  # noqa: T201
    sys.stdin.read()
    print(proxy.faults)  # noqa: T201
