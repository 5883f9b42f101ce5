"""GDAL's own access to S3, for windows of remote scenes: the same endpoint and chain."""

from contextlib import AbstractContextManager
from typing import Any

from satray.config.base import StorageOptions
from satray.storage.s3 import s3_access


def gdal_env(options: StorageOptions) -> AbstractContextManager[Any]:
    """Return a `rasterio.Env` in which `rasterio.open("s3://...")` works as `Storage` does."""
    import rasterio
    from rasterio.session import AWSSession

    access = s3_access(options)
    session = AWSSession(
        session=access.session,
        region_name=access.region,
        aws_unsigned=access.unsigned,
        endpoint_url=access.host,
    )
    environment: AbstractContextManager[Any] = rasterio.Env(
        session,
        AWS_HTTPS="YES" if access.secure else "NO",
        AWS_VIRTUAL_HOSTING="TRUE" if access.virtual_host else "FALSE",
        GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR",  # no listing of the folder on every open
        GDAL_HTTP_MAX_RETRY="5",
        GDAL_HTTP_RETRY_DELAY="0.5",
    )
    return environment
