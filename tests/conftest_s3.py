"""The fixtures `s3` (moto's server) and `swift` (a real one), and an environment for either."""

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from s3_server import ACCESS_KEY, REGION, SECRET_KEY, S3Server

_CLEARED = (
    "AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL_S3",
    "AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CA_BUNDLE",
)  # fmt: skip


@dataclass(frozen=True)
class S3:
    """A running server, as tests use it."""

    endpoint: str
    access_key: str = ACCESS_KEY
    secret_key: str = SECRET_KEY
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def client(self) -> Any:
        """A boto3 client: what the tests compare satray with."""
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=REGION,
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
    """moto's S3, and AWS variables that lead there (Ray workers inherit them)."""
    from satray.storage import forget_connections

    folder = tmp_path_factory.mktemp("s3")
    (folder / "aws-config").write_text("")
    bypass = ",".join(filter(None, (os.environ.get("NO_PROXY"), "127.0.0.1")))
    with S3Server(folder, "moto") as server, pytest.MonkeyPatch.context() as patch:
        for name in _CLEARED:
            patch.delenv(name, raising=False)
        for name, value in {
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_REGION": REGION,
            "AWS_ENDPOINT_URL": server.endpoint,
            "AWS_CONFIG_FILE": str(folder / "aws-config"),
            "AWS_SHARED_CREDENTIALS_FILE": str(folder / "aws-config"),
            "AWS_EC2_METADATA_DISABLED": "true",
            "NO_PROXY": bypass,
            "no_proxy": bypass,
        }.items():
            patch.setenv(name, value)
        forget_connections()
        yield S3(server.endpoint)
    forget_connections()


@pytest.fixture(scope="session")
def swift_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """A server that checks signatures, joins parts and creates conditionally as stores do."""
    with S3Server(tmp_path_factory.mktemp("swift")) as server:
        yield S3(server.endpoint)


@pytest.fixture
def swift(s3: S3, swift_server: S3, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    """Swift's S3 interface in place of moto's, for one test."""
    from satray.storage import forget_connections

    monkeypatch.setenv("AWS_ENDPOINT_URL", swift_server.endpoint)
    forget_connections()
    yield swift_server
    monkeypatch.undo()
    forget_connections()
