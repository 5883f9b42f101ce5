"""How S3 is reached: endpoint, region and credentials by boto3, bytes by obstore.

AWS variables, profiles, roles and SSO work as they do for every other AWS tool. Names are listed
and deleted by boto3, not by obstore, for two reasons measured on 0.12: it shows an empty folder
marker (`a/`, which consoles make) as an object `a`, and cannot delete it; and one key that it
cannot name (`a//b`, `a/../b`) ends the whole listing. Here markers are known by their slash, and an
odd key costs its own read only.
"""

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from satray.config.base import StorageOptions
from satray.errors import InputError
from satray.storage.errors import RETRY_FOR, again, one_line

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig, S3Store

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
"""Objects that a listing asks for at once, the most that S3 gives."""

_AT_ONCE = 16  # deletions; singly, since not every store takes the batch request's checksums
_FIRST = timedelta(seconds=5)  # in which somebody must answer at an endpoint
_CONNECTING = threading.Lock()


@dataclass(frozen=True)
class S3:
    """How this process reaches S3, as boto3 resolves it; it never leaves the process."""

    session: Any
    """A `boto3.Session`: the credentials chain."""
    client: Any
    """A `boto3` client, which tries each request once."""
    endpoint: str
    """URL of the service, without the bucket and without a slash at its end."""
    region: str
    """AWS region, `us-east-1` where nothing names one."""
    credentials: Any
    """obstore's provider of boto3's credentials; None where requests are not signed."""

    @property
    def virtual_host(self) -> bool:
        """Whether the bucket goes into the host name (only where a profile asks for it)."""
        return (self.client.meta.config.s3 or {}).get("addressing_style") == "virtual"


def connect(options: StorageOptions) -> S3:
    """Resolve how S3 is reached, once a process; options win over variables and profiles.

    Raises:
        InputError: an unknown profile, an endpoint that is no http(s) URL, no credentials.
    """
    with _CONNECTING:
        return _connect(options, os.getpid())


def open_bucket(bucket: str, options: StorageOptions) -> "S3Store":
    """Open a bucket, after one short listing that shows at once what is wrong with all of it.

    Raises:
        InputError: as `connect`, or nobody answers at the endpoint.
        botocore.exceptions.ClientError: the bucket is not there, or its store knows these
            credentials not; that they may not list is no error.
    """
    from botocore.exceptions import ClientError, ConnectionError, HTTPClientError
    from botocore.parsers import ResponseParserError
    from obstore.store import S3Store

    s3 = connect(options)
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
    host = f"://{bucket}." if s3.virtual_host else "://"
    client: ClientConfig = {**CLIENT, "allow_http": s3.endpoint.startswith("http://")}
    bundle = os.environ.get("AWS_CA_BUNDLE")
    if bundle and os.path.isfile(bundle):
        with open(bundle, encoding="utf-8") as file:
            client["root_certificate"] = file.read()
    return S3Store(
        bucket,
        config={
            "endpoint": s3.endpoint.replace("://", host, 1),
            "region": s3.region,
            "virtual_hosted_style_request": s3.virtual_host,
            "skip_signature": s3.credentials is None,
        },
        client_options=client,
        retry_config=RETRY,
        credential_provider=s3.credentials,
    )


def items(bucket: str, prefix: str, options: StorageOptions) -> Iterator[dict[str, Any]]:
    """Yield what S3 says of each key that begins with a prefix, folder markers too."""
    client = connect(options).client
    request: dict[str, Any] = {"Bucket": bucket, "Prefix": prefix, "MaxKeys": PAGE}
    while True:
        page = again(lambda: client.list_objects_v2(**request))
        yield from page.get("Contents", ())
        if "NextContinuationToken" not in page:
            return
        request["ContinuationToken"] = page["NextContinuationToken"]


def delete(bucket: str, keys: list[str], options: StorageOptions) -> None:
    """Remove objects by their keys; what is not there is gone already."""
    client = connect(options).client

    def remove(key: str) -> None:
        again(lambda: client.delete_object(Bucket=bucket, Key=key))

    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="delete") as pool:
        for _ in pool.map(remove, keys):
            pass


def gdal_env(options: StorageOptions) -> AbstractContextManager[Any]:
    """Return a `rasterio.Env` in which GDAL opens `/vsis3` as `Storage` does."""
    import rasterio
    from rasterio.session import AWSSession

    s3 = connect(options)
    endpoint = urlsplit(s3.endpoint)
    session = AWSSession(
        session=s3.session,
        region_name=s3.region,
        aws_unsigned=options.unsigned,
        endpoint_url=endpoint.netloc,
    )
    environment: AbstractContextManager[Any] = rasterio.Env(
        session,
        AWS_HTTPS="NO" if endpoint.scheme == "http" else "YES",
        AWS_VIRTUAL_HOSTING="TRUE" if s3.virtual_host else "FALSE",
        GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR",  # no listing of the folder on every open
        GDAL_HTTP_MAX_RETRY="5",
        GDAL_HTTP_RETRY_DELAY="0.5",
    )
    return environment


def forget() -> None:
    """Drop what this process has resolved."""
    _connect.cache_clear()


# The process id in the key keeps a forked child from using its parent's connections.
@lru_cache(maxsize=16)
def _connect(options: StorageOptions, pid: int) -> S3:  # noqa: ARG001
    import boto3
    import botocore
    from botocore.awsrequest import AWSResponse
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    try:
        session = boto3.Session(profile_name=options.profile)
        region = options.region or session.region_name or "us-east-1"
        client = session.client(
            "s3",
            region_name=region,
            endpoint_url=options.endpoint,
            config=Config(
                signature_version=botocore.UNSIGNED if options.unsigned else None,
                connect_timeout=5,
                read_timeout=30,
                retries={"mode": "standard", "total_max_attempts": 1},
                max_pool_connections=_AT_ONCE,
            ),
        )
        # A store that redirects and names no region would send boto3 round in a circle.
        nowhere: Any = AWSResponse("", 200, {}, None), {"ResponseMetadata": {"HTTPHeaders": {}}}
        client.meta.events.register("before-call.s3.HeadBucket", lambda **_: nowhere)
    except (BotoCoreError, ValueError) as error:
        raise InputError(f"storage: the AWS configuration does not work: {one_line(error)}") from (
            error
        )
    endpoint = str(client.meta.endpoint_url).rstrip("/")
    if not endpoint.startswith(("http://", "https://")):
        raise InputError(f"storage.endpoint: {endpoint} is not an http:// or https:// URL")
    return S3(session, client, endpoint, region, None if options.unsigned else _provider(session))


def _provider(session: Any) -> Any:
    """Return obstore's provider of boto3's credentials, after asking it once."""
    from botocore.exceptions import BotoCoreError
    from obstore.auth.boto3 import Boto3CredentialProvider

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
    return provider
