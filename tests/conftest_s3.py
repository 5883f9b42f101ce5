"""The fixture `s3`: a real S3 server for the session, and an environment that points at it."""

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from s3_server import ACCESS_KEY, REGION, SECRET_KEY, S3Server

_AWS_CLEARED = (
    "AWS_PROFILE",
    "AWS_SESSION_TOKEN",
    "AWS_DEFAULT_REGION",
    "AWS_ENDPOINT_URL_S3",
    "AWS_ROLE_ARN",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CA_BUNDLE",
)


@dataclass(frozen=True)
class S3:
    """The running server, as tests use it."""

    server: S3Server
    access_key: str = ACCESS_KEY
    secret_key: str = SECRET_KEY
    region: str = REGION
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    @property
    def endpoint(self) -> str:
        return self.server.endpoint

    def client(self) -> Any:
        """A boto3 client: what the tests compare satray with."""
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=self.region,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
        )

    def bucket(self, name: str = "satray") -> str:
        """Create a fresh bucket and return its URI."""
        bucket = f"{name}-{next(self._numbers)}"
        self.client().create_bucket(Bucket=bucket)
        return f"s3://{bucket}"


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """Swift's S3 interface, and AWS variables that lead there (Ray workers inherit them)."""
    from satray.storage import connect

    root: Path = tmp_path_factory.mktemp("s3")
    (root / "aws-config").write_text("")
    bypass = ",".join(filter(None, (os.environ.get("NO_PROXY"), "127.0.0.1")))
    with S3Server(root) as server, pytest.MonkeyPatch.context() as patch:
        for name in _AWS_CLEARED:
            patch.delenv(name, raising=False)
        patch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
        patch.setenv("AWS_REGION", REGION)
        patch.setenv("AWS_ENDPOINT_URL", server.endpoint)
        patch.setenv("AWS_CONFIG_FILE", str(root / "aws-config"))
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(root / "aws-config"))
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("NO_PROXY", bypass)
        patch.setenv("no_proxy", bypass)
        connect.forget()
        yield S3(server)
    connect.forget()
