"""What lies below a prefix of a bucket, and its removal, by boto3.

Not by obstore, for two reasons measured on 0.12: it shows an empty folder marker (`a/`, which
pyarrow and consoles make) as an object `a`, and cannot delete it; and one key that it cannot name
(`a//b`, `a/../b`) ends the whole listing. Here markers are known by their slash, and an odd key
costs its own read only.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC
from typing import Any

from satray.config.base import StorageOptions
from satray.storage import uri as names
from satray.storage.connect import open_s3_client
from satray.storage.entry import Entry

_PAGE = 1000  # objects a request, the most that S3 gives
_AT_ONCE = 16  # deletions; singly, since not every store takes the batch request's checksums


def walk(prefix: str, options: StorageOptions) -> list[Entry]:
    """Return the objects below a prefix, hidden ones too; folder markers are none."""
    root, key = names.split(prefix)
    skip = len(key) + 1 if key else 0
    return [
        Entry(
            uri=f"{root}/{item['Key']}",
            key=item["Key"][skip:],
            size=item["Size"],
            etag=item["ETag"].strip('"') if "ETag" in item else None,
            modified=item["LastModified"].astimezone(UTC),
        )
        for item in _items(root, key, options)
        if not item["Key"].endswith("/")
    ]


def delete(prefix: str, options: StorageOptions) -> None:
    """Remove the object of this name and everything below it, markers too."""
    root, key = names.split(prefix)
    client, bucket = open_s3_client(options), root.removeprefix("s3://")

    def remove(name: str) -> None:
        client.delete_object(Bucket=bucket, Key=name)

    doomed = [key, *(item["Key"] for item in _items(root, key, options))]
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="delete") as pool:
        for _ in pool.map(remove, doomed):
            pass


def look(prefix: str, options: StorageOptions) -> None:
    """Ask for the shortest listing below a prefix, for the error that it may give."""
    root, key = names.split(prefix)
    open_s3_client(options).list_objects_v2(
        Bucket=root.removeprefix("s3://"), Prefix=key, MaxKeys=1
    )


def _items(root: str, key: str, options: StorageOptions) -> Iterator[dict[str, Any]]:
    pages = open_s3_client(options).get_paginator("list_objects_v2")
    folder = f"{key}/" if key else ""
    bucket = root.removeprefix("s3://")
    for page in pages.paginate(Bucket=bucket, Prefix=folder, PaginationConfig={"PageSize": _PAGE}):
        yield from page.get("Contents", ())
