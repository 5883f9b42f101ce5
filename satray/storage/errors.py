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
_STATUS = re.compile(r"status code: (\d{3})")
_REFUSED = (
    "access refused; these credentials may not do that here, or the name does not exist and may "
    "not be looked for"
)
_STRANGER = "the store does not accept these AWS credentials; check them and the endpoint"
_EXPIRED = "the credentials have expired; log in again"
_ELSEWHERE = "the bucket is in another region; set storage.region or AWS_REGION"
_MEANING = {
    "NoSuchBucket": "there is no such bucket",
    "NoSuchKey": "does not exist",
    "404": "does not exist",
    "401": _REFUSED,
    "403": _REFUSED,
    "AccessDenied": _REFUSED,
    "InvalidAccessKeyId": _STRANGER,
    "SignatureDoesNotMatch": _STRANGER,
    "ExpiredToken": _EXPIRED,
    "InvalidToken": _EXPIRED,
    "301": _ELSEWHERE,
    "PermanentRedirect": _ELSEWHERE,
    "AuthorizationHeaderMalformed": _ELSEWHERE,
    "IllegalLocationConstraintException": _ELSEWHERE,
    "RequestTimeTooSkewed": "this machine's clock is wrong, so the store refuses its signature",
}
"""What an error code of S3, or a status of HTTP, means to a person."""
_SAID = {
    "token request": "no credentials for this store could be found",
    "Received redirect without": _ELSEWHERE,
}
"""What obstore says where there is no code."""
_DISK = {
    errno.ENOENT: "does not exist",
    errno.EISDIR: "is a folder, not a file",
    errno.ENOTDIR: "a part of this path is a file, not a folder",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EROFS: "the file system is read-only",
    errno.ENAMETOOLONG: "the name is too long for this file system",
    errno.ELOOP: "symbolic links go round in a circle",
}
"""What is the user's to mend on a disk; of anything else the system's own words."""


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
        if error.errno in _DISK:
            return InputError(f"{place}: {_DISK[error.errno]}")
        return SatrayError(f"{place}: {error.strerror or one_line(error)}")
    if type(error).__module__.startswith(("botocore.", "boto3.")):
        response: Any = getattr(error, "response", None) or {}
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return _refusal(place, str(response.get("Error", {}).get("Code", "")), status, error)
    if isinstance(error, store_errors.BaseError | OSError):
        text = str(error)
        code, status = _CODE.search(text), _STATUS.search(text)
        known = [meaning for sign, meaning in _SAID.items() if sign in text and not code]
        if isinstance(error, store_errors.InvalidPathError | store_errors.NotSupportedError):
            known.append(one_line(error))
        if known:
            return InputError(f"{place}: {known[0]}")
        return _refusal(place, code[1] if code else "", int(status[1]) if status else 0, error)
    # A NUL byte in a path, a control character in a key.
    return InputError(f"{place}: {one_line(error)}") if isinstance(error, ValueError) else None


def _refusal(place: str, code: str, status: int, error: Exception) -> SatrayError:
    """Choose by error code, then by HTTP status: 4xx is ours to mend, anything else theirs."""
    if meaning := _MEANING.get(code or str(status)):
        return InputError(f"{place}: {meaning}" + (f" ({code})" if code.isalpha() else ""))
    if 400 <= status < 500 and status != 429:
        return InputError(f"{place}: the store refused the request ({code or one_line(error)})")
    said = f"HTTP status {status}" if status else one_line(error)
    return SatrayError(f"{place}: the store failed, after retries: {said}")
