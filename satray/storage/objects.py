"""Objects in stores: bytes by obstore, and for S3 endpoint, region and credentials by boto3.

AWS variables, profiles, roles and SSO work as they do for every other AWS tool; stores stay in the
process that opened them, and credentials never travel. S3's names are listed and deleted by boto3,
not by obstore, for two reasons measured on 0.12: it shows an empty folder marker (`a/`, which
consoles make) as an object `a`, and cannot delete it; and one key that it cannot name (`a//b`,
`a/../b`) ends the whole listing. Here markers are known by their slash, and an odd key costs its
own read only.
"""

import errno
import functools
import os
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from datetime import UTC, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import obstore
import obstore.store as stores
from obstore.exceptions import AlreadyExistsError, PreconditionError

from satray.config.base import StorageOptions
from satray.errors import InputError, SatrayError, one_line
from satray.storage import names
from satray.storage.errors import RETRY_FOR, again, shown
from satray.storage.names import Entry

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import ClientConfig, ObjectStore, RetryConfig

RETRY: "RetryConfig" = {
    "max_retries": 8,
    "retry_timeout": RETRY_FOR,
    "backoff": {
        "init_backoff": timedelta(milliseconds=200),
        "max_backoff": timedelta(seconds=8),
        "base": 2,
    },
}
"""How obstore tries a request again: stores throttle, and connections drop."""
CLIENT: "ClientConfig" = {
    "connect_timeout": timedelta(seconds=5),
    "read_timeout": timedelta(seconds=30),
    "timeout": timedelta(hours=6),
}
"""A limit on silence; none on a whole transfer (obstore's is 30 s, which ends big objects)."""
PAGE = 1000
"""Objects that a listing asks S3 for at once, the most that it gives."""

_PART = 8 << 20  # bytes of a part of a big upload
_MOST_PARTS = 9_000  # S3 takes 10,000
_TOKEN = "satraytoken"  # metadata of what was created only if absent; a name that Azure takes too
_AT_ONCE = 16  # deletions; singly, since not every store takes the batch request's checksums
_FIRST = timedelta(seconds=5)  # in which somebody must answer at an endpoint
_OPENING = threading.RLock()


@dataclass(frozen=True)
class Objects:
    """What `Disk` does with files, for objects; names are URIs."""

    options: StorageOptions
    """Endpoint, region, profile, and whether to sign."""

    def walk(self, prefix: str) -> Iterator[Entry]:
        """Yield the objects below a prefix, hidden ones too; folder markers are none."""
        store = open_store(prefix, self.options)
        root, key = names.split(prefix)
        folder = f"{key}/" if key else ""
        if root.startswith("s3://"):
            for item in self._items(root, folder):
                if not (name := item["Key"]).endswith("/"):
                    etag, modified = _bare(item.get("ETag")), item["LastModified"].astimezone(UTC)
                    below = name[len(folder) :]
                    yield Entry(f"{root}/{name}", below, item["Size"], etag, modified)
            return
        for page in obstore.list(store, prefix=key or None):
            for meta in page:
                if meta["path"] != key:
                    yield _entry(root, meta, meta["path"][len(folder) :])

    def head(self, uri: str) -> Entry:
        """Describe one object; raises FileNotFoundError, or IsADirectoryError for a bucket."""
        store, key = self._find(uri)
        return _entry(names.split(uri)[0], obstore.head(store, key), names.name(key))

    def fetch(self, uri: str) -> tuple[bytes, str | None]:
        """Return a whole object and its etag by one GET."""
        store, key = self._find(uri)
        response = obstore.get(store, key)
        return response.bytes().to_bytes(), _bare(response.meta["e_tag"])

    def write(self, uri: str, data: bytes, *, if_absent: bool = False) -> None:
        """Publish bytes by one PUT, conditional with `if_absent` (then FileExistsError may come).

        obstore does not repeat a conditional PUT whose response was lost, since the first try may
        have worked. Here each write has a token, and what is there then tells by it whose it is.
        """
        store, key = self._find(uri)
        if not if_absent:
            obstore.put(store, key, data, use_multipart=False)
            return
        mark: dict[str, Any] = {_TOKEN: uuid.uuid4().hex}

        def create() -> None:
            try:
                obstore.put(store, key, data, mode="create", use_multipart=False, attributes=mark)
            except (AlreadyExistsError, PreconditionError) as error:
                try:
                    there = obstore.get(store, key, options={"head": True}).attributes
                except FileNotFoundError:  # two at once, and the store refused both
                    raise SatrayError(
                        f"{uri}: the store neither has this object nor takes it"
                    ) from error
                if there.get(_TOKEN) != mark[_TOKEN]:
                    raise FileExistsError(uri) from error

        again(create)

    def upload(self, source: str, uri: str) -> None:
        """Publish a file, a big one in parts; it appears when all of it is there."""
        store, key = self._find(uri)
        part = max(_PART, os.path.getsize(source) // _MOST_PARTS + 1)

        def put() -> None:
            try:
                obstore.put(store, key, Path(source), chunk_size=part, max_concurrency=4)
            except FileNotFoundError as error:  # the upload was completed, and the response lost
                raise SatrayError(f"{uri}: the store loses the parts of this upload") from error

        again(put)

    def delete(self, prefix: str) -> None:
        """Remove an object of this name and everything below it, folder markers too."""
        store = open_store(prefix, self.options)
        root, key = names.split(prefix)
        if root.startswith("s3://"):
            client, bucket = connect(self.options).client, root.removeprefix("s3://")
            keys = [key, *(item["Key"] for item in self._items(root, f"{key}/"))]

            def remove(each: str) -> None:
                again(lambda: client.delete_object(Bucket=bucket, Key=each))

            with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="delete") as pool:
                list(pool.map(remove, keys))
            return
        for each in [*(names.split(entry.uri)[1] for entry in self.walk(prefix)), key]:
            with suppress(FileNotFoundError):
                obstore.delete(store, each)

    def _items(self, root: str, prefix: str) -> Iterator[dict[str, Any]]:
        """Yield what S3 says of each key that begins with a prefix, folder markers too."""
        client = connect(self.options).client
        request = {"Bucket": root.removeprefix("s3://"), "Prefix": prefix, "MaxKeys": PAGE}
        while True:
            page = again(lambda: client.list_objects_v2(**request))
            yield from page.get("Contents", ())
            if "NextContinuationToken" not in page:
                return
            request["ContinuationToken"] = page["NextContinuationToken"]

    def _find(self, uri: str) -> "tuple[ObjectStore, str]":
        """Return the store that holds an object, and its key there.

        Raises:
            InputError: as `open_store`, and for keys with empty parts, which obstore cannot name.
            IsADirectoryError: for a bare bucket.
        """
        _, key = names.split(uri)
        if names.scheme(uri).startswith("http"):
            key = unquote(key)  # obstore encodes it again
        if not key:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), uri)
        if "//" in f"/{key}":
            raise InputError(f"{shown(uri)}: names with an empty part (`//`) cannot be used")
        return open_store(uri, self.options), key


@dataclass(frozen=True)
class S3:
    """How this process reaches S3, as boto3 resolves it; it never leaves the process."""

    session: Any
    """A `boto3.Session`: the credentials chain."""
    client: Any
    """A `boto3` client of the endpoint and region, which tries each request once."""
    credentials: Any
    """obstore's provider of boto3's credentials; None where requests are not signed."""

    @property
    def endpoint(self) -> str:
        """URL of the service, without the bucket and without a slash at its end."""
        return str(self.client.meta.endpoint_url).rstrip("/")

    @property
    def virtual_host(self) -> bool:
        """Whether the bucket goes into the host name (only where a profile asks for it)."""
        return bool((self.client.meta.config.s3 or {}).get("addressing_style") == "virtual")


def open_store(uri: str, options: StorageOptions) -> "ObjectStore":
    """Return the store of a URI's bucket (or host), opened once a process.

    Raises:
        InputError: unknown scheme or profile, no credentials, an endpoint out of reach.
        botocore.exceptions.ClientError: an S3 bucket is not there, or its store knows these
            credentials not; that they may not list is no error.
    """
    root, _ = names.split(uri)
    if root.endswith("://"):
        raise InputError(f"{shown(uri)}: no bucket is named; accepted: {root}BUCKET/KEY")
    if root.startswith("s3a://"):  # obstore's, not by boto3's credentials and endpoint
        raise InputError(f"{shown(uri)}: s3a:// is Hadoop's word; accepted: s3://BUCKET/KEY")
    opened = _open_bucket if root.startswith("s3://") else _open_other
    with _OPENING:  # of many threads that ask at once, one opens
        return opened(root, options)


def connect(options: StorageOptions) -> S3:
    """Resolve how S3 is reached, once a process; options win over variables and profiles.

    Raises:
        InputError: an unknown profile, an endpoint that is no http(s) URL, no credentials.
    """
    with _OPENING:
        return _connect(options)


def forget_connections() -> None:
    """Drop what this process has opened; the next use reads variables and profiles again."""
    for each in (_connect, _open_bucket, _open_other):
        each.cache_clear()


def gdal_env(options: StorageOptions) -> AbstractContextManager[Any]:
    """Return a `rasterio.Env` in which GDAL opens `/vsis3` as `Storage` does."""
    import rasterio
    from rasterio.session import AWSSession

    s3 = connect(options)
    endpoint = urlsplit(s3.endpoint)
    environment: AbstractContextManager[Any] = rasterio.Env(
        AWSSession(
            session=s3.session,
            region_name=s3.client.meta.region_name,
            aws_unsigned=options.unsigned,
            endpoint_url=endpoint.netloc,
        ),
        AWS_HTTPS="NO" if endpoint.scheme == "http" else "YES",
        AWS_VIRTUAL_HOSTING="TRUE" if s3.virtual_host else "FALSE",
        GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR",  # no listing of the folder on every open
        GDAL_HTTP_MAX_RETRY="5",
        GDAL_HTTP_RETRY_DELAY="0.5",
    )
    return environment


os.register_at_fork(after_in_child=forget_connections)  # a child does not use its parent's


@functools.cache
def _open_other(root: str, options: StorageOptions) -> "ObjectStore":
    client: ClientConfig = {**CLIENT, "allow_http": root.startswith("http://")}
    unsigned: Any = {"skip_signature": True} if options.unsigned and root[:4] != "http" else {}
    try:
        return stores.from_url(root, client_options=client, retry_config=RETRY, **unsigned)
    except Exception as error:  # obstore raises several kinds; all mean the same here
        raise InputError(
            f"{root}: cannot open this store: {one_line(error)}; accepted: local paths, and what "
            "obstore reads: s3://, gs://, az://, https://"
        ) from error


@functools.cache
def _open_bucket(root: str, options: StorageOptions) -> "ObjectStore":
    """Open a bucket, after one short listing that shows at once what is wrong with all of it."""
    from botocore.exceptions import ClientError, ConnectionError, HTTPClientError
    from botocore.parsers import ResponseParserError

    s3, bucket = connect(options), root.removeprefix("s3://")
    try:
        again(lambda: s3.client.list_objects_v2(Bucket=bucket, MaxKeys=1), _FIRST)
    except (ConnectionError, HTTPClientError) as error:
        raise InputError(
            f"storage: the endpoint {s3.endpoint} cannot be reached ({one_line(error)}); check "
            "storage.endpoint, AWS_ENDPOINT_URL and the network"
        ) from error
    except ClientError as error:
        code, status = error.response["Error"]["Code"], error.response["ResponseMetadata"]
        if code.isalpha() and code != "AccessDenied" and status["HTTPStatusCode"] < 500:
            raise  # anything else need not concern the requests that follow
    except ResponseParserError:  # readable without being listable
        pass
    client: ClientConfig = {**CLIENT, "allow_http": s3.endpoint.startswith("http://")}
    bundle = os.environ.get("AWS_CA_BUNDLE")
    if bundle and os.path.isfile(bundle):
        client["root_certificate"] = Path(bundle).read_text(encoding="utf-8")
    host = f"://{bucket}." if s3.virtual_host else "://"
    return stores.S3Store(
        bucket,
        config={
            "endpoint": s3.endpoint.replace("://", host, 1),
            "region": s3.client.meta.region_name,
            "virtual_hosted_style_request": s3.virtual_host,
            "skip_signature": options.unsigned,
        },
        client_options=client,
        retry_config=RETRY,
        credential_provider=s3.credentials,
    )


@functools.cache
def _connect(options: StorageOptions) -> S3:
    import boto3
    import botocore
    from botocore.awsrequest import AWSResponse
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError
    from obstore.auth.boto3 import Boto3CredentialProvider

    try:
        session = boto3.Session(profile_name=options.profile)
        client = session.client(
            "s3",
            region_name=options.region or session.region_name or "us-east-1",
            endpoint_url=options.endpoint,
            config=Config(
                signature_version=botocore.UNSIGNED if options.unsigned else None,
                connect_timeout=5,
                read_timeout=30,
                retries={"mode": "standard", "total_max_attempts": 1},
                max_pool_connections=_AT_ONCE,
            ),
        )
    except (BotoCoreError, ValueError) as error:
        raise InputError(f"storage: the AWS configuration does not work: {one_line(error)}") from (
            error
        )
    # A store that redirects and names no region would send boto3 round in a circle.
    nowhere: Any = AWSResponse("", 200, {}, None), {"ResponseMetadata": {"HTTPHeaders": {}}}
    client.meta.events.register("before-call.s3.HeadBucket", lambda **_: nowhere)
    if not str(client.meta.endpoint_url).startswith(("http://", "https://")):
        raise InputError(
            f"storage: the endpoint {client.meta.endpoint_url}, of AWS_ENDPOINT_URL or the "
            "profile, is no http:// or https:// URL"
        )
    if options.unsigned:
        return S3(session, client, None)
    try:
        # Asked often and answered from botocore's memory, which renews roles in good time.
        provider = Boto3CredentialProvider(session, ttl=timedelta(minutes=5))
        provider()
    except ValueError as error:
        raise InputError(
            "storage: no AWS credentials found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            "AWS_PROFILE or a role, or storage.unsigned=true for a public bucket"
        ) from error
    except BotoCoreError as error:
        raise InputError(f"storage: AWS credentials cannot be had: {one_line(error)}") from error
    return S3(session, client, provider)


def _entry(root: str, meta: "ObjectMeta", key: str) -> Entry:
    modified = meta["last_modified"]
    return Entry(f"{root}/{meta['path']}", key, meta["size"], _bare(meta["e_tag"]), modified)


def _bare(etag: str | None) -> str | None:
    return etag.strip('"') if etag else None
