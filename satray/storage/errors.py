"""What disks and object stores say when something is wrong, in one line, and trying again."""

import errno
import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import obstore.exceptions as store_errors

from satray.errors import InputError, SatrayError, one_line

T = TypeVar("T")

RETRY_FOR = timedelta(seconds=60)
"""For how long a request is tried again."""

_CODE = re.compile(r"<Code>\s*([^<]+?)\s*</Code>")
_MESSAGE = re.compile(r"<Message>\s*([^<]+?)\s*</Message>")
_STATUS = re.compile(r"status code: (\d{3})")
_REFUSED = (
    "access refused; these credentials may not do that here, or the name does not exist and may "
    "not be looked for"
)
_MEANING = {
    "301": "the bucket is in another region; set storage.region or AWS_REGION",
    "401": _REFUSED,
    "403": _REFUSED,
    "404": "does not exist",
    "AccessDenied": _REFUSED,
    "NoSuchKey": "does not exist",
}
"""What a status of HTTP means where a store says no more, and what we say better than it."""
_DISK = {errno.ENOENT: "does not exist", errno.EISDIR: "is a folder, not a file"}
_USERS = {
    *_DISK, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP,
}  # fmt: skip
"""What is the user's to mend on a disk."""


@contextmanager
def in_one_line(place: str) -> Iterator[None]:
    """Turn what a disk or store raises about a place into `InputError` or `SatrayError`.

    FileExistsError passes: callers of conditional writes wait for it.
    """
    try:
        yield
    except (SatrayError, FileExistsError):
        raise
    except Exception as error:
        failure = _failure(shown(place), error)
        if failure is None:
            raise
        raise failure from error


def again(do: Callable[[], T], limit: timedelta = RETRY_FOR) -> T:
    """Do something, with pauses, until it works or fails for good.

    What is the store's or the network's fault may pass: it is tried again until the limit.
    """
    end, pause = time.monotonic() + limit.total_seconds(), 0.1
    while True:
        try:
            return do()
        except Exception as error:
            if not _may_pass(error) or time.monotonic() > end:
                raise
        time.sleep(pause * random.uniform(0.5, 1))
        pause = min(2 * pause, limit.total_seconds() / 8)


def shown(place: str) -> str:
    """Return a name as it can stand in one line."""
    return place if place.isprintable() else ascii(place)


def _may_pass(error: Exception) -> bool:
    if isinstance(error, FileExistsError) or getattr(error, "errno", None) is not None:
        return False  # somebody else has the name, or it is the disk's
    failure = error if isinstance(error, SatrayError) else _failure("", error)
    return type(failure) is SatrayError


def _failure(place: str, error: Exception) -> SatrayError | None:
    """Return what an error means; None for one that is no disk's and no store's."""
    # Missing objects are Python's own FileNotFoundError in obstore, without an errno.
    if isinstance(error, OSError) and error.errno is not None:
        kind = InputError if error.errno in _USERS else SatrayError
        return kind(f"{place}: {_DISK.get(error.errno) or error.strerror or one_line(error)}")
    if type(error).__module__.startswith(("botocore.", "boto3.")):
        response: Any = getattr(error, "response", None) or {}
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        said = response.get("Error", {})
        return _refusal(place, status, said.get("Code", ""), said.get("Message", ""), error)
    # Among others a NUL byte in a path, a control character in a key.
    if isinstance(
        error, store_errors.InvalidPathError | store_errors.NotSupportedError | ValueError
    ):
        return InputError(f"{place}: {one_line(error)}")
    if isinstance(error, store_errors.BaseError | OSError):
        if "token request" in str(error):  # whoever answered it, or nobody
            return InputError(f"{place}: no credentials for this store could be found")
        found = (pattern.search(str(error)) for pattern in (_STATUS, _CODE, _MESSAGE))
        number, code, words = (match[1] if match else "" for match in found)
        status = 301 if "Received redirect without" in str(error) else int(number or 0)
        return _refusal(place, status, code, words, error)
    return None


def _refusal(place: str, status: int, code: str, said: str, error: Exception) -> SatrayError:
    """What a store says, by HTTP status: 3xx and 4xx are ours to mend, anything else its own."""
    if not 300 <= status < 500 or status == 429:
        said = f"HTTP status {status}" if status else one_line(error)
        return SatrayError(f"{place}: the store failed, after retries: {said}")
    said = _MEANING.get(code) or " ".join(said.split()) or _MEANING.get(str(status), "")
    named = f" ({code})" if code.isalpha() else ""
    return InputError(f"{place}: {said or one_line(error)}{named}")
