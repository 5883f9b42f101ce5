"""What storage does when a store misbehaves.

A server with a script stands in for responses that a healthy store does not give; a proxy before a
real one fails a part of all requests.
"""

import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from fault_proxy import FaultProxy

from satray.config.base import StorageOptions
from satray.errors import InputError, SatrayError
from satray.storage import Storage, forget_connections, objects

DATED = {"Last-Modified": "Sun, 22 Nov 2026 04:22:00 GMT", "ETag": '"e"'}
PAGE = b"""<?xml version="1.0"?><ListBucketResult><IsTruncated>false</IsTruncated>
<Contents><Key>a/x</Key><Size>3</Size><ETag>"e"</ETag>
<LastModified>2026-11-22T04:22:00.000Z</LastModified></Contents></ListBucketResult>"""


@dataclass
class Script:
    """Responses in order (the last one again and again), and the requests that came.

    The short listing with which a bucket is opened has its own, and is not counted.
    """

    endpoint: str = ""
    answers: list = field(default_factory=list)
    requests: list = field(default_factory=list)
    opening: tuple = (200, {}, PAGE)

    @property
    def storage(self) -> Storage:
        return Storage(StorageOptions(endpoint=self.endpoint, region="us-east-1"))

    @property
    def unsigned(self) -> Storage:
        return Storage(StorageOptions(endpoint=self.endpoint, unsigned=True))


@pytest.fixture
def script(monkeypatch) -> Iterator[Script]:
    script = Script()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            answers = script.answers
            if "max-keys=1&" in f"{self.path}&":
                answers = [script.opening]
            else:
                script.requests.append((self.command, self.path, dict(self.headers)))
            answer = answers.pop(0) if len(answers) > 1 else answers[0]
            status, headers, body = answer() if callable(answer) else answer
            self.send_response(status)
            headers = {"Content-Length": str(len(body)), **headers}
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)
            self.close_connection = int(headers["Content-Length"]) != len(body)

        do_PUT = do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_):
            return

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    script.endpoint = f"http://127.0.0.1:{server.server_port}"
    yield script
    server.shutdown()
    thread.join()
    server.server_close()
    forget_connections()


def test_unsigned_requests_carry_no_signature(script):
    script.answers = [(200, DATED, b"abc")]
    assert script.unsigned.read("s3://bucket/x") == b"abc"
    script.answers = [(200, {}, PAGE)]
    script.unsigned.list("s3://bucket/a")
    script.storage.list("s3://bucket/a")
    read, listed, signed = ({name.title() for name in headers} for _, _, headers in script.requests)
    assert "Authorization" not in read | listed
    assert "Authorization" in signed


@pytest.mark.parametrize(
    ("responses", "mine"),
    [
        ([412, "theirs"], False),
        ([409, "theirs"], False),
        ([409, 404, 200], True),  # two at once, and the store refused both
        ([500, 412, "mine"], True),  # the first was done, and its response lost
        ([500, 412, "theirs"], False),
    ],
)
def test_a_conditional_write_knows_its_own(script, responses, mine):
    token = "x-amz-meta-satraytoken"

    def respond(what):
        if isinstance(what, int):
            return what, DATED if what == 200 else {}, b""
        whose = script.requests[0][2][token] if what == "mine" else "theirs"
        return 200, {**DATED, token: whose}, b"x"

    script.answers = [lambda what=what: respond(what) for what in responses]
    if mine:
        script.storage.write("s3://bucket/x", b"x", if_absent=True)
    else:
        with pytest.raises(FileExistsError):
            script.storage.write("s3://bucket/x", b"x", if_absent=True)
    assert len(script.requests) == len(responses)
    written = [headers for method, _, headers in script.requests if method == "PUT"]
    for headers in ({name.title(): value for name, value in each.items()} for each in written):
        assert headers["If-None-Match"] == "*"


@pytest.mark.s3
def test_a_fifth_of_all_requests_fails(swift, tmp_path):
    """Cut before and after the store acted, 503, half an answer: all that is done is right."""
    bucket, big = swift.bucket("faults"), tmp_path / "big"
    big.write_bytes(random.Random(0).randbytes(20 << 20))
    with FaultProxy(swift.endpoint, 0.2, seed=3) as proxy:
        storage = Storage(StorageOptions(endpoint=proxy.endpoint))
        for number in range(8):
            data = random.Random(number).randbytes(20_000)
            storage.write(f"{bucket}/written/{number}", data)
            storage.write(f"{bucket}/created/{number}", data, if_absent=True)
            with pytest.raises(FileExistsError):
                storage.write(f"{bucket}/created/{number}", data, if_absent=True)
            assert storage.read(f"{bucket}/written/{number}") == data
            assert not storage.exists(f"{bucket}/none")
            assert len(storage.list(f"{bucket}/created")) == number + 1
        storage.upload(big, f"{bucket}/big")
        storage.download(f"{bucket}/big", tmp_path / "back")
        storage.delete(f"{bucket}/written")
    assert proxy.faults > 15
    assert (tmp_path / "back").read_bytes() == big.read_bytes()
    created = sorted(f"created/{number}" for number in range(8))
    assert [entry.key for entry in Storage().list(bucket)] == ["big", *created]


@pytest.mark.parametrize("at", ["opening", "reading"])
def test_refusals_are_told_in_one_line(script, at):
    """At once where all of a bucket is concerned; who may not list may read all the same."""
    for status, code, message in (
        (403, "AccessDenied", "access refused"),
        (403, "RequestTimeTooSkewed", "this machine's clock is wrong"),
        (400, "ExpiredToken", "the credentials have expired; log in again"),
        (301, "PermanentRedirect", "the bucket is in another region"),
        (400, "AuthorizationHeaderMalformed", "the bucket is in another region"),
        (400, "SomethingNew", r"the store refused the request \(SomethingNew\)"),
    ):
        forget_connections()
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>a\nb</Message></Error>"
        refusal = (status, {"Content-Type": "application/xml"}, body.encode())
        script.answers = [refusal if at == "reading" else (200, DATED, b"abc")]
        script.opening = refusal if at == "opening" else script.opening
        if (at, code) == ("opening", "AccessDenied"):
            assert script.storage.read("s3://bucket/x") == b"abc"
            continue
        for do in (script.storage.read, script.storage.list):
            with pytest.raises(InputError, match=f"^s3://bucket/x: {message}") as caught:
                do("s3://bucket/x")
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize("opening", [(200, {}, b"no XML"), (404, {}, b"")])
def test_what_can_be_read_need_not_be_listed(script, opening):
    script.opening, script.answers = opening, [(200, DATED, b"abc")]
    assert script.unsigned.read("s3://bucket/x") == b"abc"


def test_a_store_that_stays_broken_is_no_input_error(script, monkeypatch):
    quick = {"max_retries": 2, "retry_timeout": timedelta(seconds=5)}
    monkeypatch.setattr(objects, "RETRY", quick)
    script.answers = [(503, {}, b"")]
    with pytest.raises(
        SatrayError, match="the store failed, after retries: HTTP status 503"
    ) as caught:
        script.storage.read("s3://bucket/x")
    assert not isinstance(caught.value, InputError)
    assert len(script.requests) == 3


def test_http_objects_are_read(script):
    script.answers = [(200, DATED, b"abc")]
    assert Storage().read(f"{script.endpoint}/some%20where/x") == b"abc"
    assert script.requests[0][1] == "/some%20where/x"
    script.answers = [(404, {}, b"")]
    with pytest.raises(InputError, match="/none: does not exist"):
        Storage().read(f"{script.endpoint}/none")
