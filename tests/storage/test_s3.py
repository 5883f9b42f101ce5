"""The storage room on a real S3 server, over HTTP."""

import hashlib
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier
from urllib.request import Request, urlopen

import pytest

from satray.config.base import StorageOptions
from satray.errors import InputError
from satray.storage import ChangedError, Storage, Version, connect, s3_listing

pytestmark = pytest.mark.s3

STORE = Storage()
ODD = [
    "a b.tif",
    "p%20q.tif",
    "h#x.tif",
    "ü/é.tif",
    "q?y=1&z.tif",
    "plus+x",
    "star*[x]{y}|~^`\"<>'\\",
]


@pytest.fixture(scope="module")
def bucket(s3):
    return s3.bucket()


@pytest.fixture
def place(bucket, request):
    """A prefix of its own for each test."""
    digest = hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:12]
    return f"{bucket}/{digest}"


@pytest.fixture
def aws(s3, monkeypatch):
    """Change AWS variables for one test; connections made with them are dropped after it."""
    connect.forget()
    yield monkeypatch
    monkeypatch.undo()
    connect.forget()


def keys(entries):
    return [entry.key for entry in entries]


@pytest.mark.parametrize("key", ODD)
def test_odd_keys_mean_the_same_to_everybody(s3, place, key):
    STORE.write(f"{place}/own/{key}", key.encode())
    bucket, _, prefix = place.removeprefix("s3://").partition("/")
    body = s3.client().get_object(Bucket=bucket, Key=f"{prefix}/own/{key}")["Body"].read()
    assert body == key.encode()
    s3.client().put_object(Bucket=bucket, Key=f"{prefix}/other/{key}", Body=b"other")
    for folder, content in (("own", key.encode()), ("other", b"other")):
        (entry,) = STORE.list(f"{place}/{folder}")
        assert entry.key == key
        assert STORE.read(entry.uri) == content
        assert dict(STORE.read_many([entry.uri])) == {0: content}
        assert STORE.head(entry.uri).size == len(content)
        STORE.delete(entry.uri)
        assert STORE.list(f"{place}/{folder}") == []


def test_an_object_that_is_another_by_now_is_told(s3, place):
    uri, content = f"{place}/a", b"content"
    STORE.write(uri, content)
    version = Version(len(content), STORE.head(uri).etag, zlib.crc32(content))
    stale = replace(version, etag="of-other-parts")  # as after an upload in parts
    for same in (version, stale):
        assert STORE.read(uri, same) == content
        assert STORE.unlike(uri, same) is None
    for other in (b"CONTENT", b"longer content"):
        STORE.write(uri, other)
        (found,) = STORE.read_many([uri], versions=[version])
        assert isinstance(found[1], ChangedError)
        assert STORE.unlike(uri, version) == str(found[1])


def test_list_describes(s3, place):
    for key in ("b/2", "a", "b/1", "b.txt", ".hidden", "c/.d/e"):
        STORE.write(f"{place}/{key}", b"x" * len(key))
    entries = STORE.list(f"{place}/")
    assert keys(entries) == ["a", "b.txt", "b/1", "b/2"]
    assert entries[3].uri == f"{place}/b/2"
    assert entries[3].size == 3
    assert entries[3].etag == hashlib.md5(b"xxx").hexdigest()
    assert abs(entries[3].modified.timestamp() - time.time()) < 300
    assert entries[3].modified.utcoffset().total_seconds() == 0
    head = STORE.head(f"{place}/b/2")
    assert (head.uri, head.key, head.size, head.etag) == (
        entries[3].uri,
        "2",
        3,
        entries[3].etag,
    )
    assert STORE.list(f"{place}/nothing") == []
    assert STORE.list(f"{place}/a") == []  # nothing lies below an object
    assert STORE.list(f"{place}/b") == [
        type(entry)(**{**vars(entry), "key": entry.key[2:]}) for entry in entries[2:]
    ]


def test_list_passes_a_page(place, monkeypatch):
    monkeypatch.setattr(s3_listing, "_PAGE", 10)
    for number in range(25):
        STORE.write(f"{place}/{number:02}", b"")
    assert keys(STORE.list(place)) == [f"{number:02}" for number in range(25)]
    STORE.delete(place)
    assert STORE.list(place) == []


def test_folder_markers_are_no_objects_and_go_with_their_folder(s3, place):
    bucket, _, prefix = place.removeprefix("s3://").partition("/")
    for key in ("", "sub/", "empty/", "sub/x"):
        s3.client().put_object(
            Bucket=bucket, Key=f"{prefix}/{key}", Body=b"x" if key[-1:] == "x" else b""
        )
    assert keys(STORE.list(place)) == ["sub/x"]
    STORE.delete(place)
    assert "Contents" not in s3.client().list_objects_v2(Bucket=bucket, Prefix=prefix)


def test_a_key_that_cannot_be_named_costs_itself_only(s3, place):
    bucket, _, prefix = place.removeprefix("s3://").partition("/")
    for key in ("a//b", "good"):
        s3.client().put_object(Bucket=bucket, Key=f"{prefix}/{key}", Body=b"x")
    entries = STORE.list(place)
    assert keys(entries) == ["a//b", "good"]
    got = dict(STORE.read_many(entry.uri for entry in entries))
    assert got[1] == b"x"
    assert isinstance(got[0], InputError)
    assert "names with an empty part" in str(got[0])


def test_read_many_gives_errors_as_values(place):
    wanted = [f"{place}/{number}" for number in range(40)]
    for number in range(40):
        if number != 7:
            STORE.write(wanted[number], b"%d" % number)
    got = dict(STORE.read_many(wanted))
    error = got.pop(7)
    assert isinstance(error, InputError)
    assert str(error).startswith(f"{place}/7: does not exist")
    assert got == {number: b"%d" % number for number in range(40) if number != 7}


def test_exists_means_an_object(bucket, place):
    STORE.write(f"{place}/a/x", b"")
    assert STORE.exists(f"{place}/a/x")
    assert not STORE.exists(f"{place}/a")
    assert not STORE.exists(f"{place}/none")
    assert not STORE.exists(bucket)


def test_write_if_absent(place):
    STORE.write(f"{place}/x", b"first", if_absent=True)
    with pytest.raises(FileExistsError):
        STORE.write(f"{place}/x", b"second", if_absent=True)
    assert STORE.read(f"{place}/x") == b"first"
    STORE.write(f"{place}/x", b"third")
    assert STORE.read(f"{place}/x") == b"third"


def test_late_writers_lose_however_many(place):
    """Swift lets several of them win where nobody was first (it checks, then writes); S3 does not.

    So only what every store promises is tested here; see test_local for the race itself.
    """
    STORE.write(f"{place}/x", b"first", if_absent=True)
    barrier = Barrier(8)

    def claim(number):
        barrier.wait(10)
        with pytest.raises(FileExistsError):
            STORE.write(f"{place}/x", b"%d" % number, if_absent=True)
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(claim, range(8)))
    assert STORE.read(f"{place}/x") == b"first"


def test_big_files_go_in_parts(s3, place, tmp_path):
    data = os.urandom(20 << 20)
    (tmp_path / "big").write_bytes(data)
    STORE.upload(tmp_path / "big", f"{place}/big")
    entry = STORE.head(f"{place}/big")
    assert entry.size == len(data)
    assert entry.etag.endswith("-3")  # S3's way to say: three parts
    assert STORE.read(f"{place}/big") == data
    STORE.download(f"{place}/big", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == data
    assert sorted(os.listdir(tmp_path)) == ["big", "copy"]


def test_killed_upload_leaves_nothing_to_see(s3, place, tmp_path):
    with open(tmp_path / "big", "wb") as file:
        file.truncate(1 << 30)
    program = f"""
        from pathlib import Path
        from satray.storage import Storage
        Storage().upload(Path({str(tmp_path / "big")!r}), {place + "/big"!r})
    """
    bucket, _, prefix = place.removeprefix("s3://").partition("/")
    child = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)])
    try:
        deadline = time.monotonic() + 60
        while "Uploads" not in s3.client().list_multipart_uploads(Bucket=bucket, Prefix=prefix):
            assert child.poll() is None, "ended before it was caught in the middle"
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        child.kill()
    assert child.wait(60) == -signal.SIGKILL
    assert STORE.list(place) == []
    assert not STORE.exists(f"{place}/big")


def test_upload_and_download_folders(place, tmp_path):
    local = {"a.bin": b"a", "sub/b c#.bin": b"b", ".metadata": b"m", "empty": b""}
    for key, data in local.items():
        STORE.write(f"{tmp_path}/in/{key}", data)
    STORE.upload(tmp_path / "in", place)
    STORE.download(place, tmp_path / "out")
    for key, data in local.items():
        assert (tmp_path / "out" / key).read_bytes() == data
    with pytest.raises(InputError, match="nothing there to download"):
        STORE.download(f"{place}/nothing", tmp_path / "none")


def test_delete(place):
    for key in ("a", "a/x", "a/b/y", "ab/z", "c"):
        STORE.write(f"{place}/{key}", b"")
    STORE.delete(f"{place}/a")
    STORE.delete(f"{place}/c")
    STORE.delete(f"{place}/nothing")
    assert keys(STORE.list(place)) == ["ab/z"]


DOINGS = {
    "list": lambda store, uri: store.list(uri),
    "read": lambda store, uri: store.read(uri),
    "head": lambda store, uri: store.head(uri),
    "exists": lambda store, uri: store.exists(uri),
    "write": lambda store, uri: store.write(uri, b"x"),
    "write_if_absent": lambda store, uri: store.write(uri, b"x", if_absent=True),
    "delete": lambda store, uri: store.delete(uri),
    "upload": lambda store, uri: store.upload(__file__, uri),
    "download": lambda store, uri: store.download(uri, "/tmp/never-made"),
}


SOME = ("list", "read", "head", "write")  # one of each way to the store


def refused(do, store, uri):
    """Return the one line with which something is refused, quickly."""
    begun = time.monotonic()
    with pytest.raises(InputError) as caught:
        do(store, uri)
    assert time.monotonic() - begun < 10
    line = str(caught.value)
    assert "\n" not in line
    assert len(line) < 300
    return line


@pytest.mark.parametrize("what", DOINGS)
def test_missing_bucket(s3, what):
    line = refused(DOINGS[what], STORE, "s3://no-such-bucket/a/b")
    assert line == "s3://no-such-bucket/a/b: there is no such bucket (NoSuchBucket)"


@pytest.mark.parametrize("what", SOME)
@pytest.mark.parametrize("variable", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_wrong_credentials(aws, bucket, what, variable):
    aws.setenv(variable, "wrong")
    line = refused(DOINGS[what], STORE, f"{bucket}/a")
    assert line.startswith(f"{bucket}/a: the store does not accept these AWS credentials")


@pytest.mark.parametrize("what", SOME)
def test_no_credentials(aws, bucket, what):
    aws.delenv("AWS_ACCESS_KEY_ID")
    aws.delenv("AWS_SECRET_ACCESS_KEY")
    line = refused(DOINGS[what], STORE, f"{bucket}/a")
    assert line.startswith("storage: no AWS credentials found; set AWS_ACCESS_KEY_ID")


@pytest.mark.parametrize("what", SOME)
def test_unreachable_endpoint(s3, closed_port, what):
    store = Storage(StorageOptions(endpoint=f"http://127.0.0.1:{closed_port}"))
    line = refused(DOINGS[what], store, "s3://bucket/a")
    assert line.startswith(f"storage: the endpoint http://127.0.0.1:{closed_port} cannot be reach")


def test_read_many_raises_what_concerns_all(s3, closed_port):
    store = Storage(StorageOptions(endpoint=f"http://127.0.0.1:{closed_port}"))
    many = [f"s3://bucket/{number}" for number in range(100)]
    refused(lambda store, _: list(store.read_many(many)), store, "")


def test_unknown_profile_and_bad_endpoint(s3):
    line = refused(DOINGS["read"], Storage(StorageOptions(profile="nobody")), "s3://bucket/a")
    assert "profile (nobody) could not be found" in line
    line = refused(DOINGS["read"], Storage(StorageOptions(endpoint="ftp://x")), "s3://bucket/a")
    assert line == "storage.endpoint: ftp://x is not an http:// or https:// URL"


def test_a_bucket_is_no_object(bucket):
    for what in ("read", "head", "write", "upload"):
        assert "this is a bucket" in refused(DOINGS[what], STORE, bucket)


def test_public_bucket_is_read_unsigned_only_when_asked(s3, aws):
    """Swift lets strangers in by its own interface, where a path is /v1/AUTH_test/bucket/key."""
    bucket = s3.bucket("public")
    STORE.write(f"{bucket}/x", b"for all")
    headers = {"X-Auth-User": s3.access_key, "X-Auth-Key": s3.secret_key}
    with urlopen(Request(f"{s3.endpoint}/auth/v1.0", headers=headers), timeout=10) as answer:
        token = answer.headers["X-Auth-Token"]
    url = f"{s3.server.swift_account}/{bucket.removeprefix('s3://')}"
    grant = {"X-Auth-Token": token, "X-Container-Read": ".r:*"}
    urlopen(Request(url, headers=grant, method="POST"), timeout=10).close()

    door = s3.server.swift_account
    aws.delenv("AWS_ACCESS_KEY_ID")
    aws.delenv("AWS_SECRET_ACCESS_KEY")
    connect.forget()
    unsigned = Storage(StorageOptions(endpoint=door, unsigned=True))
    assert unsigned.read(f"{bucket}/x") == b"for all"
    line = refused(DOINGS["read"], Storage(StorageOptions(endpoint=door)), f"{bucket}/x")
    assert "no AWS credentials found" in line
    private = s3.bucket("private")
    line = refused(DOINGS["read"], unsigned, f"{private}/x")
    assert "access refused" in line


PROFILES = {
    "direct": "[profile there]\nregion = us-east-1\nendpoint_url = {endpoint}\n",
    "services": (
        "[profile there]\nregion = us-east-1\nservices = mine\n"
        "[services mine]\ns3 =\n  endpoint_url = {endpoint}\n"
    ),
}


@pytest.mark.parametrize("kind", PROFILES)
@pytest.mark.parametrize("by", ["option", "variable"])
def test_profile_with_its_endpoint(s3, aws, place, tmp_path, kind, by):
    (tmp_path / "config").write_text(PROFILES[kind].format(endpoint=s3.endpoint))
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
    store.write(f"{place}/x", b"x")
    assert keys(store.list(place)) == ["x"]
    assert store.read(f"{place}/x") == b"x"
    filesystem, path = store.arrow_filesystem(place)
    with filesystem.open_input_stream(f"{path}/x") as file:
        assert file.read() == b"x"
    assert s3.secret_key.encode() not in pickle.dumps(filesystem)


def test_option_beats_variable(s3, aws, place, closed_port):
    aws.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{closed_port}")
    Storage(StorageOptions(endpoint=s3.endpoint)).write(f"{place}/x", b"x")
    aws.setenv("AWS_ENDPOINT_URL_S3", s3.endpoint)
    assert STORE.read(f"{place}/x") == b"x"


def test_credentials_do_not_travel(s3, place):
    STORE.write(f"{place}/x", b"x")
    filesystem, path = STORE.arrow_filesystem(place)
    for thing in (STORE, filesystem):
        packed = pickle.dumps(thing)
        assert s3.secret_key.encode() not in packed
        assert s3.access_key.encode() not in packed
    assert pickle.loads(pickle.dumps(STORE)).read(f"{place}/x") == b"x"
    again = pickle.loads(pickle.dumps(filesystem))
    assert again.get_file_info(f"{path}/x").size == 1


def test_arrow_filesystem(s3, place, tmp_path):
    import pyarrow.fs

    filesystem, path = STORE.arrow_filesystem(f"{place}/state dir")
    for number in range(3):
        STORE.write(f"{tmp_path}/in/{number}/w.bin", b"%d" % number)
    (tmp_path / "in" / "big").write_bytes(b"z" * (12 << 20))
    filesystem.create_dir(path)
    pyarrow.fs.copy_files(str(tmp_path / "in"), path, destination_filesystem=filesystem)
    assert keys(STORE.list(f"{place}/state dir")) == ["0/w.bin", "1/w.bin", "2/w.bin", "big"]
    filesystem.move(f"{path}/0/w.bin", f"{path}/0/v.bin")
    assert STORE.read(f"{place}/state dir/0/v.bin") == b"0"
    STORE.delete(f"{place}/state dir")
    assert filesystem.get_file_info(path).type == pyarrow.fs.FileType.NotFound


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
def test_gdal_opens_windows_by_the_same_chain(s3, place):
    import numpy as np
    import rasterio
    from rasterio.io import MemoryFile

    pixels_HW = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)
    with MemoryFile() as memory:
        with memory.open(driver="GTiff", width=64, height=64, count=1, dtype="uint16") as raster:
            raster.write(pixels_HW, 1)
        STORE.write(f"{place}/a scene.tif", memory.read())
    with STORE.gdal_env(), rasterio.open(f"{place}/a scene.tif") as raster:
        window_HW = raster.read(1, window=((8, 16), (4, 20)))
    np.testing.assert_array_equal(window_HW, pixels_HW[8:16, 4:20])
