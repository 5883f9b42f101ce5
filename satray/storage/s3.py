"""How S3 is reached: endpoint, region and credentials by boto3, bytes by obstore.

AWS variables, profiles, roles and SSO work as they do for every other AWS tool.
"""

import os
import socket
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from satray.config.base import StorageOptions
from satray.errors import InputError
from satray.storage.failures import one_line

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig, S3Store

_KNOCKS = 3  # attempts to reach an endpoint at all, before the first request
_KNOCK_TIMEOUT = 2.0  # seconds each


@dataclass(frozen=True)
class S3Access:
    """How S3 is reached, as boto3 resolves it; stays in its process."""

    session: Any
    """A `boto3.Session`: the credentials chain."""
    endpoint: str
    """URL of the service, without the bucket and without a slash at its end."""
    region: str
    """AWS region, `us-east-1` where nothing names one."""
    virtual_host: bool
    """Whether the bucket goes into the host name (only where a profile asks for it)."""
    unsigned: bool
    """Whether requests go out without credentials."""

    @property
    def host(self) -> str:
        """Host and port of the endpoint."""
        return urlsplit(self.endpoint).netloc

    @property
    def secure(self) -> bool:
        """Whether the endpoint speaks TLS."""
        return urlsplit(self.endpoint).scheme != "http"


def s3_access(options: StorageOptions) -> S3Access:
    """Let boto3 resolve endpoint and region; options win over variables and profiles.

    Raises:
        InputError: for an unknown profile, or an endpoint that is no http(s) URL.
    """
    import boto3
    import botocore
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    try:
        session = boto3.Session(profile_name=options.profile)
        region = options.region or session.region_name or "us-east-1"
        client = session.client(  # unsigned, since only its resolved configuration is wanted
            "s3",
            region_name=region,
            endpoint_url=options.endpoint,
            config=Config(signature_version=botocore.UNSIGNED),
        )
    except (BotoCoreError, ValueError) as error:
        raise InputError(f"storage: the AWS configuration does not work: {one_line(error)}") from (
            error
        )
    endpoint = str(client.meta.endpoint_url)
    if not endpoint.startswith(("http://", "https://")):
        raise InputError(f"storage.endpoint: {endpoint} is not an http:// or https:// URL")
    style = (client.meta.config.s3 or {}).get("addressing_style")
    return S3Access(session, endpoint.rstrip("/"), region, style == "virtual", options.unsigned)


def s3_client(options: StorageOptions) -> Any:
    """Make a boto3 client, for what is not bytes: listing and deleting.

    Raises:
        InputError: no credentials, an unknown profile, an endpoint out of reach.
    """
    import botocore
    from botocore.config import Config

    access = s3_access(options)
    _knock(access.endpoint)
    if not access.unsigned:
        credentials(access)
    return access.session.client(
        "s3",
        region_name=access.region,
        endpoint_url=options.endpoint,
        config=Config(
            signature_version=botocore.UNSIGNED if access.unsigned else None,
            connect_timeout=5,
            read_timeout=30,
            retries={"mode": "standard", "max_attempts": 6},
            max_pool_connections=16,
        ),
    )


def s3_store(
    bucket: str, options: StorageOptions, client: "ClientConfig", retry: "RetryConfig"
) -> "S3Store":
    """Make the obstore store of a bucket; raises InputError as `s3_client` does."""
    from obstore.store import S3Store

    access = s3_access(options)
    endpoint = access.endpoint
    if access.virtual_host:
        endpoint = endpoint.replace("://", f"://{bucket}.", 1)
    _knock(endpoint)
    client = {**client, "allow_http": not access.secure}
    bundle = os.environ.get("AWS_CA_BUNDLE")
    if bundle and os.path.isfile(bundle):
        with open(bundle, encoding="utf-8") as file:
            client["root_certificate"] = file.read()
    return S3Store(
        bucket,
        config={
            "endpoint": endpoint,
            "region": access.region,
            "virtual_hosted_style_request": access.virtual_host,
            "skip_signature": access.unsigned,
        },
        client_options=client,
        retry_config=retry,
        credential_provider=None if access.unsigned else credentials(access),
    )


def credentials(access: S3Access) -> Any:
    """Return obstore's provider of boto3's credentials, after asking it once.

    Raises:
        InputError: when the chain ends without any, or a role or login cannot be used.
    """
    from botocore.exceptions import BotoCoreError
    from obstore.auth.boto3 import Boto3CredentialProvider

    try:
        # Asked often and answered from botocore's memory, which renews roles in good time.
        provider = Boto3CredentialProvider(access.session, ttl=timedelta(minutes=5))
        provider()
    except ValueError as error:
        raise InputError(
            "storage: no AWS credentials found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            "AWS_PROFILE or a role, or storage.unsigned=true for a public bucket"
        ) from error
    except BotoCoreError as error:
        raise InputError(f"storage: AWS credentials cannot be had: {one_line(error)}") from error
    return provider


def _knock(endpoint: str) -> None:
    """See quickly whether anybody answers at an endpoint, before a minute of retries.

    Behind a proxy the endpoint need not be reachable from here, so nothing is tried.
    """
    address = urlsplit(endpoint)
    host = address.hostname or ""
    if address.scheme in getproxies() and not proxy_bypass(host):
        return
    port = address.port or (80 if address.scheme == "http" else 443)
    for attempt in range(_KNOCKS):
        try:
            socket.create_connection((host, port), _KNOCK_TIMEOUT).close()
            return
        except OSError as error:
            if attempt == _KNOCKS - 1:
                raise InputError(
                    f"storage: the endpoint {endpoint} cannot be reached "
                    f"({error.strerror or one_line(error)}); check storage.endpoint, "
                    "AWS_ENDPOINT_URL and the network"
                ) from error
            time.sleep(0.3 * (attempt + 1))
