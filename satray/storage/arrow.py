"""pyarrow's file systems with satray's endpoint and chain, for Ray Train and Tune state only."""

from typing import Any

import pyarrow.fs

from satray.config.base import StorageOptions
from satray.errors import InputError
from satray.storage import uri as names
from satray.storage.failures import one_line
from satray.storage.s3 import credentials, s3_access


class S3ByOptions(pyarrow.fs.S3FileSystem):  # type: ignore[misc]  # pyarrow has no types
    """`S3FileSystem` that pickles as satray's options: credentials are found where it arrives."""

    def __new__(cls, options: StorageOptions) -> "S3ByOptions":  # noqa: ARG004
        """Accept the one argument of ours (Cython's `__cinit__` takes none)."""
        return pyarrow.fs.S3FileSystem.__new__(cls)  # type: ignore[no-any-return]

    def __init__(self, options: StorageOptions) -> None:
        access = s3_access(options)
        extra: dict[str, Any] = {}
        if options.unsigned:
            extra = {"anonymous": True}
        elif options.profile:  # the SDK's own chain would look at AWS_PROFILE only
            frozen = credentials(access).credentials.get_frozen_credentials()
            extra = {
                "access_key": frozen.access_key,
                "secret_key": frozen.secret_key,
                "session_token": frozen.token,
            }
        super().__init__(
            endpoint_override=access.host,
            scheme="https" if access.secure else "http",
            region=access.region,
            force_virtual_addressing=access.virtual_host,
            allow_delayed_open=True,
            connect_timeout=5,
            request_timeout=60,
            retry_strategy=pyarrow.fs.AwsStandardS3RetryStrategy(max_attempts=6),
            **extra,
        )
        self._options = options

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as options only."""
        return S3ByOptions, (self._options,)


def arrow_filesystem(place: str, options: StorageOptions) -> tuple[Any, str]:
    """Return the file system of a path or URI, and the path in it (`bucket/key` on S3)."""
    if not names.is_remote(place):
        return pyarrow.fs.LocalFileSystem(), place
    if names.scheme(place) == "s3":
        root, key = names.split(place)
        return S3ByOptions(options), names.join(root.removeprefix("s3://"), key)
    try:
        filesystem, path = pyarrow.fs.FileSystem.from_uri(place)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise InputError(
            f"{place}: Ray cannot keep its state there; use a local path or s3:// "
            f"({one_line(error)})"
        ) from error
    return filesystem, path
