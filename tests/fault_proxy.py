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

import http.client
import json
import random
import socket
import struct
import subprocess
import sys
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

FAULTS = ("busy", "reset", "lost", "part", "cut")


class FaultProxy:
    """The proxy as a context manager; `endpoint` is known once it is entered."""

    def __init__(self, upstream: str, rate: float = 0.2, seed: int = 0) -> None:
        self._arguments = [upstream, str(rate), str(seed)]
        self.endpoint = ""
        self.told: dict[str, int] = {}
        """How many requests of each kind met which fault; known when it is left."""

    def __enter__(self) -> "FaultProxy":
        self._process = subprocess.Popen(
            [sys.executable, __file__, *self._arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        self.endpoint = self._process.stdout.readline().strip()
        return self

    def __exit__(self, *_: object) -> None:
        said, _ = self._process.communicate("")
        self.told = json.loads(said)

    @property
    def faults(self) -> int:
        """How many requests met one."""
        return sum(count for kind, count in self.told.items() if " " in kind)


class _Proxy(ThreadingHTTPServer):
    daemon_threads, request_queue_size = True, 128

    def __init__(self, upstream: str, rate: float, seed: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream, self.rate = urlsplit(upstream).netloc, rate
        self.random, self.lock = random.Random(seed), threading.Lock()
        self.told: Counter[str] = Counter()

    def handle_error(self, *_: object) -> None:
        return

    def fault(self, method: str) -> str:
        """Draw what happens to a request; empty for nothing."""
        with self.lock:
            drawn = self.random.choice(FAULTS) if self.random.random() < self.rate else ""
            if method == "HEAD" and drawn in ("part", "cut"):
                drawn = "lost"  # there is no body
            self.told[f"{method} {drawn}".strip()] += 1
        return drawn


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Proxy

    def do_GET(self) -> None:
        chunked = "chunked" in self.headers.get("Transfer-Encoding", "")
        body = (
            self.chunks() if chunked else self.rfile.read(int(self.headers["Content-Length"] or 0))
        )
        fault = self.server.fault(self.command)
        if fault == "busy":
            self.send_response(503)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if fault == "reset":
            self.reset()
            return
        upstream = http.client.HTTPConnection(self.server.upstream, timeout=120)
        try:
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in ("expect", "connection"):
                    upstream.putheader(name, value)
            upstream.endheaders(body if chunked else body or None, encode_chunked=chunked)
            answer = upstream.getresponse()
            data = answer.read()
        finally:
            upstream.close()
        if fault == "lost":
            self.reset()
            return
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "content-length", "connection"):
                self.send_header(name, value)
        length = answer.getheader("Content-Length") if self.command == "HEAD" else None
        self.send_header("Content-Length", length or str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if fault else data)
        if fault:
            self.wfile.flush()
            self.close_connection = True
        if fault == "cut" or (fault and not data):
            self.reset()

    do_PUT = do_POST = do_HEAD = do_DELETE = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        return

    def chunks(self) -> bytes:
        """Read a body that came in chunks, as AWS's own SDK sends large ones."""
        parts = []
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(parts)

    def reset(self) -> None:
        """Cut the connection so that the other side sees a reset."""
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.close_connection = True
        self.connection.close()


def main(upstream: str, rate: str, seed: str) -> None:
    """Serve until the standard input ends, then say what was drawn."""
    proxy = _Proxy(upstream, float(rate), int(seed))
    threading.Thread(target=proxy.serve_forever, args=(0.05,), daemon=True).start()
    sys.stdout.write(f"http://127.0.0.1:{proxy.server_port}\n")
    sys.stdout.flush()
    sys.stdin.read()
    sys.stdout.write(json.dumps(proxy.told))


if __name__ == "__main__":
    main(*sys.argv[1:])
