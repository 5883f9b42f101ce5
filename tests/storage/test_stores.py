"""What is the stores' alone: credentials, endpoints, odd keys, parts, GDAL, faults.

moto stands for S3; Swift, a real store, where moto is lax; a server with a script gives responses
that a healthy store does not; a proxy before a real one fails a part of all requests.
"""

import pickle
import random
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from fault_proxy import FaultProxy

from satray.config.base import StorageOptions
from satray.errors import InputError, SatrayError
from satray.storage import Storage, forget_connections, objects

STORE = Storage()
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

    def storage(self, **options) -> Storage:
        return Storage(StorageOptions(endpoint=self.endpoint, region="us-east-1", **options))


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
                named = {name.title(): value for name, value in self.headers.items()}
                script.requests.append((self.command, self.path, named))
            answer = answers.pop(0) if len(answers) > 1 else answers[0]
            status, headers, body = answer() if callable(answer) else answer
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_PUT = do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_):
            return

    for name, value in {
        "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret",
        "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.05,)).start()
    script.endpoint = f"http://127.0.0.1:{server.server_port}"
    yield script
    server.shutdown()
    server.server_close()
    forget_connections()


def test_unsigned_requests_carry_no_signature(script):
    script.answers = [(200, DATED, b"abc")]
    assert script.storage(unsigned=True).read("s3://bucket/x") == b"abc"
    script.answers = [(200, {}, PAGE)]
    script.storage(unsigned=True).list("s3://bucket/a")
    script.storage().list("s3://bucket/a")
    signed = ["Authorization" in headers for _, _, headers in script.requests]
    assert signed == [False, False, True]


@pytest.mark.parametrize(
    ("responses", "mine"),
    [
        ([412, "theirs"], False),
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
        whose = script.requests[0][2][token.title()] if what == "mine" else "theirs"
        return 200, {**DATED, token: whose}, b"x"

    script.answers = [lambda what=what: respond(what) for what in responses]
    if mine:
        script.storage().write("s3://bucket/x", b"x", if_absent=True)
    else:
        with pytest.raises(FileExistsError):
            script.storage().write("s3://bucket/x", b"x", if_absent=True)
    assert len(script.requests) == len(responses)
    written = [headers for method, _, headers in script.requests if method == "PUT"]
    assert {headers["If-None-Match"] for headers in written} == {"*"}


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
        assert storage.head(f"{bucket}/big").etag.endswith("-3")  # S3's way to say: three parts
        assert storage.read(f"{bucket}/big") == big.read_bytes()
        storage.delete(f"{bucket}/written")
    assert proxy.faults > 15
    created = sorted(f"created/{number}" for number in range(8))
    assert [entry.key for entry in Storage().list(bucket)] == ["big", *created]


@pytest.mark.parametrize("at", ["opening", "reading"])
def test_refusals_are_told_in_one_line(script, at):
    """At once where all of a bucket is concerned; who may not list may read all the same."""
    for status, code, message in (
        (403, "AccessDenied", "access refused"),
        (301, "PermanentRedirect", ".*region|a b"),
        (400, "ExpiredToken", r"a b \(ExpiredToken\)$"),
    ):
        forget_connections()
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>a\nb</Message></Error>"
        refusal = (status, {"Content-Type": "application/xml"}, body.encode())
        script.answers = [refusal if at == "reading" else (200, DATED, b"abc")]
        script.opening = refusal if at == "opening" else script.opening
        if (at, code) == ("opening", "AccessDenied"):
            assert script.storage().read("s3://bucket/x") == b"abc"
            continue
        for do in (script.storage().read, script.storage().list):
            with pytest.raises(InputError, match=f"^s3://bucket/x: {message}") as caught:
                do("s3://bucket/x")
            assert "\n" not in str(caught.value)


def test_what_can_be_read_need_not_be_listed(script):
    script.opening, script.answers = (404, {}, b""), [(200, DATED, b"abc")]
    assert script.storage(unsigned=True).read("s3://bucket/x") == b"abc"


def test_a_store_that_stays_broken_is_no_input_error(script, monkeypatch):
    quick = {"max_retries": 2, "retry_timeout": timedelta(seconds=5)}
    monkeypatch.setattr(objects, "RETRY", quick)
    script.answers = [(503, {}, b"")]
    with pytest.raises(SatrayError, match="failed, after retries: HTTP status 503") as caught:
        script.storage().read("s3://bucket/x")
    assert not isinstance(caught.value, InputError)
    assert len(script.requests) == 3


def test_an_endpoint_of_the_environment_is_a_url(monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    for endpoint in ("ftp://x", "localhost:9000"):
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        forget_connections()
        with pytest.raises(InputError, match=f"^storage: .*{endpoint}"):
            STORE.read("s3://bucket/x")
    forget_connections()


def test_http_objects_are_read(script):
    script.answers = [(200, DATED, b"abc")]
    assert STORE.read(f"{script.endpoint}/some%20where/x") == b"abc"
    assert script.requests[0][1] == "/some%20where/x"
    script.answers = [(404, {}, b"")]
    with pytest.raises(InputError, match="/none: does not exist"):
        STORE.read(f"{script.endpoint}/none")


def put(server, place: str, *names: str) -> None:
    """Put keys that satray would not write; empty ones that end in a slash."""
    bucket, _, prefix = place.removeprefix("s3://").partition("/")
    for name in names:
        body = b"" if name.endswith("/") or not name else b"x"
        server.client().put_object(Bucket=bucket, Key=f"{prefix}/{name}", Body=body)


@pytest.mark.s3
def test_odd_keys_mean_the_same_to_everybody(s3, prefix):
    bucket, _, folder = prefix.removeprefix("s3://").partition("/")
    odd = ("a b.tif", "p%20q.tif", "h#x", "ü/é.tif", "q?y=1&z", "p+x", "*[~]")
    put(s3, f"{prefix}/others", *odd)
    for key in odd:
        STORE.write(f"{prefix}/{key}", b"own")
        body = s3.client().get_object(Bucket=bucket, Key=f"{folder}/{key}")["Body"]
        assert body.read() == b"own"
        assert STORE.read(f"{prefix}/others/{key}") == b"x"


@pytest.mark.s3
def test_pages_markers_and_keys_that_cannot_be_named(s3, prefix, monkeypatch):
    monkeypatch.setattr(objects, "PAGE", 5)
    names = ["sub//b", *(f"sub/{number}" for number in range(9))]
    put(s3, prefix, "", "sub/", "empty/", *names)
    entries = STORE.list(prefix)
    assert [entry.key for entry in entries] == names
    found = dict(STORE.read_many(entry.uri for entry in entries))
    assert "names with an empty part" in str(found.pop(0))
    assert set(found.values()) == {b"x"}  # it cost itself only
    STORE.delete(prefix)
    bucket, _, folder = prefix.removeprefix("s3://").partition("/")
    assert "Contents" not in s3.client().list_objects_v2(Bucket=bucket, Prefix=folder)


DO = {
    "list": lambda store, uri: store.list(uri),
    "read": lambda store, uri: store.read(uri),
    "write": lambda store, uri: store.write(uri, b"x", if_absent=True),
    "read_many": lambda store, uri: list(store.read_many([uri] * 100)),
    "arrow": lambda store, uri: store.arrow_filesystem(uri),
}
NO_KEYS = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}
STRANGER = "{bucket}/a: The "
NOBODY = "http://127.0.0.1:{port}"


@pytest.mark.s3
@pytest.mark.parametrize(
    ("variables", "options", "uri", "line", "ways"),
    [
        ({}, {}, "s3://no-such/a", "s3://no-such/a: The specified bucket does not exist", list(DO)),
        ({}, {}, "{bucket}", "{bucket}: is a folder, not a file", ["read"]),
        ({"AWS_ACCESS_KEY_ID": "wrong"}, {}, "{bucket}/a", STRANGER, ["list"]),
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, {}, "{bucket}/a", STRANGER, ["list"]),
        (NO_KEYS, {}, "{bucket}/a", "storage: no AWS credentials found;", ["list", "read_many"]),
        ({}, {"profile": "nobody"}, "s3://b/a", "storage: the AWS configuration does", ["list"]),
        ({}, {"endpoint": NOBODY}, "s3://b/a", f"storage: the endpoint {NOBODY} cannot", ["write"]),
    ],
)  # fmt: skip
def test_what_concerns_a_whole_store_is_one_line_and_soon(
    swift, aws, variables, options, uri, line, ways
):
    with socket.socket() as nobody:  # a port that is taken, and where nobody listens
        nobody.bind(("127.0.0.1", 0))
        facts = {"bucket": swift.bucket(), "port": nobody.getsockname()[1]}
        for name, value in variables.items():
            aws.setenv(name, value) if value else aws.delenv(name)
        given = {key: text.format(**facts) for key, text in options.items()}
        for way in ways:
            begun = time.monotonic()
            with pytest.raises(InputError) as caught:
                DO[way](Storage(StorageOptions(**given)), uri.format(**facts))
            assert time.monotonic() - begun < 10
            assert str(caught.value).startswith(line.format(**facts))
            assert "\n" not in str(caught.value)
            assert len(str(caught.value)) < 300


SERVICES = """
[profile there]
region = us-east-1
services = mine
[services mine]
s3 =
  endpoint_url = {endpoint}
"""


@pytest.mark.s3
@pytest.mark.parametrize("by", ["option", "variable"])
def test_a_profile_has_its_endpoint_and_keys_do_not_travel(s3, aws, prefix, tmp_path, by):
    (tmp_path / "config").write_text(SERVICES.format(endpoint=s3.endpoint))
    (tmp_path / "credentials").write_text(
        f"[there]\naws_access_key_id = {s3.access_key}\naws_secret_access_key = {s3.secret_key}\n"
    )
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "AWS_REGION"):
        aws.delenv(name)
    aws.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    aws.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    if by == "variable":
        aws.setenv("AWS_PROFILE", "there")
    store = Storage(StorageOptions(profile="there" if by == "option" else None))
    store.write(f"{prefix}/x", b"x")
    filesystem, path = store.arrow_filesystem(prefix)
    with filesystem.open_input_stream(f"{path}/x") as file:
        assert file.read() == b"x"
    for thing in (store, filesystem):  # both are connected by now
        packed = pickle.dumps(thing)
        assert s3.secret_key.encode() not in packed
        assert s3.access_key.encode() not in packed
    assert pickle.loads(pickle.dumps(store)).read(f"{prefix}/x") == b"x"
