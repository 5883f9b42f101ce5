"""What is S3's alone: credentials, endpoints, odd keys, parts and GDAL; Swift where moto is lax."""

import os
import pickle
import time

import pytest

from satray.config.base import StorageOptions
from satray.errors import InputError
from satray.storage import Storage, objects

pytestmark = pytest.mark.s3

STORE = Storage()
DO = {
    "list": lambda store, uri: store.list(uri),
    "read": lambda store, uri: store.read(uri),
    "write": lambda store, uri: store.write(uri, b"x", if_absent=True),
    "read_many": lambda store, uri: list(store.read_many([uri] * 100)),
    "arrow": lambda store, uri: store.arrow_filesystem(uri),
}


def keys(place: str) -> list[str]:
    return [entry.key for entry in STORE.list(place)]


def put(server, place: str, *names: str) -> None:
    """Put keys that satray would not write; empty ones that end in a slash."""
    bucket, _, prefix = place.removeprefix("s3://").partition("/")
    for name in names:
        body = b"" if name.endswith("/") or not name else b"x"
        server.client().put_object(Bucket=bucket, Key=f"{prefix}/{name}", Body=body)


def test_odd_keys_mean_the_same_to_everybody(s3, prefix):
    bucket, _, folder = prefix.removeprefix("s3://").partition("/")
    for key in ("a b.tif", "p%20q.tif", "h#x", "ü/é.tif", "q?y=1&z", "p+x", "*[~]"):
        STORE.write(f"{prefix}/{key}", b"own")
        body = s3.client().get_object(Bucket=bucket, Key=f"{folder}/{key}")["Body"]
        assert body.read() == b"own"
        put(s3, f"{prefix}/others", key)
        assert STORE.read(f"{prefix}/others/{key}") == b"x"


def test_list_and_delete_pass_a_page_and_take_markers_for_no_objects(s3, prefix, monkeypatch):
    monkeypatch.setattr(objects, "PAGE", 5)
    names = [f"sub/{number}" for number in range(9)]
    put(s3, prefix, "", "sub/", "empty/", *names)
    assert keys(prefix) == names
    STORE.delete(prefix)
    bucket, _, folder = prefix.removeprefix("s3://").partition("/")
    assert "Contents" not in s3.client().list_objects_v2(Bucket=bucket, Prefix=folder)


def test_a_key_that_cannot_be_named_costs_itself_only(s3, prefix):
    put(s3, prefix, "a//b", "good")
    entries = STORE.list(prefix)
    assert [entry.key for entry in entries] == ["a//b", "good"]
    found = dict(STORE.read_many(entry.uri for entry in entries))
    assert found[1] == b"x"
    assert "names with an empty part" in str(found[0])


def test_big_files_go_in_parts(swift, tmp_path):
    data, uri = os.urandom(20 << 20), f"{swift.bucket()}/big"
    (tmp_path / "big").write_bytes(data)
    STORE.upload(tmp_path / "big", uri)
    entry = STORE.head(uri)
    assert entry.size == len(data)
    assert entry.etag.endswith("-3")  # S3's way to say: three parts
    assert STORE.read(uri) == data
    STORE.download(uri, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == data
    assert sorted(os.listdir(tmp_path)) == ["big", "copy"]


NO_KEYS = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}
STRANGER = "{bucket}/a: the store does not accept these AWS credentials"
REFUSED = {
    "missing bucket": ({}, {}, "s3://no-such/a", "s3://no-such/a: there is no such bucket (NoSuch"),
    "a bucket alone": ({}, {}, "{bucket}", "{bucket}: is a folder, not a file"),
    "strange key": ({"AWS_ACCESS_KEY_ID": "wrong"}, {}, "{bucket}/a", STRANGER),
    "wrong secret": ({"AWS_SECRET_ACCESS_KEY": "wrong"}, {}, "{bucket}/a", STRANGER),
    "no keys": (
        NO_KEYS,
        {},
        "{bucket}/a",
        "storage: no AWS credentials found; set AWS_ACCESS_KEY_",
    ),
    "no profile": ({}, {"profile": "nobody"}, "s3://b/a", "storage: the AWS configuration does"),
    "no URL": ({}, {"endpoint": "ftp://x"}, "s3://b/a", "storage.endpoint: ftp://x is not an http"),
    "nobody there": (
        {},
        {"endpoint": "http://127.0.0.1:{port}"},
        "s3://b/a",
        "storage: the endpoint http://127.0.0.1:{port} cannot be reached",
    ),
}
WAYS = [("missing bucket", way) for way in DO] + [("a bucket alone", "read")]
WAYS += [("no keys", "read_many"), ("nobody there", "write")]
WAYS += [
    (why, "list") for why in ("strange key", "wrong secret", "no keys", "no profile", "no URL")
]


@pytest.mark.parametrize(("why", "way"), WAYS)
def test_what_concerns_a_whole_store_is_one_line_and_soon(swift, aws, closed_port, why, way):
    variables, options, uri, line = REFUSED[why]
    facts = {"bucket": swift.bucket(), "port": closed_port}
    for name, value in variables.items():
        aws.setenv(name, value) if value else aws.delenv(name)
    store = Storage(StorageOptions(**{key: text.format(**facts) for key, text in options.items()}))
    begun = time.monotonic()
    with pytest.raises(InputError) as caught:
        DO[way](store, uri.format(**facts))
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
    assert [entry.key for entry in store.list(prefix)] == ["x"]
    filesystem, path = store.arrow_filesystem(prefix)
    with filesystem.open_input_stream(f"{path}/x") as file:
        assert file.read() == b"x"
    for thing in (store, filesystem):  # both are connected by now
        packed = pickle.dumps(thing)
        assert s3.secret_key.encode() not in packed
        assert s3.access_key.encode() not in packed
    assert pickle.loads(pickle.dumps(store)).read(f"{prefix}/x") == b"x"


def test_option_beats_variable(s3, aws, prefix, closed_port):
    aws.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{closed_port}")
    Storage(StorageOptions(endpoint=s3.endpoint)).write(f"{prefix}/x", b"x")
    aws.setenv("AWS_ENDPOINT_URL_S3", s3.endpoint)
    assert STORE.read(f"{prefix}/x") == b"x"


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
def test_gdal_opens_windows_by_the_same_chain(s3, prefix):
    import numpy as np
    import rasterio
    from rasterio.io import MemoryFile

    pixels_HW = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)
    with MemoryFile() as memory:
        with memory.open(driver="GTiff", width=64, height=64, count=1, dtype="uint16") as raster:
            raster.write(pixels_HW, 1)
        STORE.write(f"{prefix}/a scene.tif", memory.read())
    with STORE.gdal_env(), rasterio.open(f"{prefix}/a scene.tif") as raster:
        window_HW = raster.read(1, window=((8, 16), (4, 20)))
    np.testing.assert_array_equal(window_HW, pixels_HW[8:16, 4:20])
