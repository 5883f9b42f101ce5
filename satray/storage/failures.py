"""What disks and object stores say when something is wrong, told in one line."""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

import obstore.exceptions as store_errors

from satray.errors import InputError, SatrayError

_CODE = re.compile(r"<Code>\s*([^<]+?)\s*</Code>")
_STATUS = re.compile(r"status code: (\d{3}) ?([A-Za-z -]*)")
_REFUSED = (
    "access refused; these credentials may not do that here, or the name does not exist and may "
    "not be looked for"
)
_STRANGER = "the store does not accept these AWS credentials; check them and the endpoint"
_ELSEWHERE = "the bucket is in another region; set storage.region or AWS_REGION"

# What an error code of S3 means to a person.
_MEANING = {
    "NoSuchBucket": "there is no such bucket",
    "NoSuchKey": "does not exist",
    "404": "does not exist",
    "InvalidAccessKeyId": _STRANGER,
    "SignatureDoesNotMatch": _STRANGER,
    "ExpiredToken": "the credentials have expired; log in again",
    "InvalidToken": "the session token is not valid; log in again",
    "AccessDenied": _REFUSED,
    "403": _REFUSED,
    "PermanentRedirect": _ELSEWHERE,
    "301": _ELSEWHERE,
    "AuthorizationHeaderMalformed": _ELSEWHERE,
    "IllegalLocationConstraintException": _ELSEWHERE,
    "RequestTimeTooSkewed": "this machine's clock is wrong, so the store refuses its signature",
    "InvalidBucketName": "that is no valid bucket name",
}
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


@contextmanager
def told(place: str) -> Iterator[None]:
    """Turn what disk or store raises about a place into `InputError` or `SatrayError`, one line.

    FileExistsError passes: callers of conditional writes wait for it.
    """
    try:
        yield
    except (SatrayError, FileExistsError):
        raise
    except Exception as error:
        if type(error).__module__.split(".")[0] in ("botocore", "boto3"):
            raise _of_boto(shown(place), error) from error
        if isinstance(error, store_errors.BaseError) or _from_obstore(error):
            raise _of_obstore(shown(place), error) from error
        if isinstance(error, OSError):
            raise _of_disk(shown(place), error) from error
        if isinstance(error, ValueError):  # a path with a NUL byte
            raise InputError(f"{shown(place)}: {one_line(error)}") from error
        raise


def passing(error: Exception) -> bool:
    """Tell whether what obstore raised is the store's or the network's fault, and may pass."""
    ours = isinstance(error, store_errors.BaseError) or _from_obstore(error)
    return ours and not isinstance(_of_obstore("", error), InputError)


def shown(place: str) -> str:
    """Return a name as it can stand in one line."""
    return place if place.isprintable() else ascii(place)


def one_line(error: BaseException, limit: int = 300) -> str:
    """Return the gist of an error in one line, without obstore's debug dump."""
    text = str(error).split("Debug source:")[0]
    text = " ".join(text.split()) or type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _from_obstore(error: Exception) -> bool:
    """Missing objects are Python's own FileNotFoundError there, without an errno."""
    return isinstance(error, OSError) and error.errno is None


def _of_disk(place: str, error: OSError) -> SatrayError:
    reason = _DISK.get(error.errno or 0)
    if reason is None:
        return SatrayError(f"{place}: {error.strerror or one_line(error)}")
    return InputError(f"{place}: {reason}")


def _of_boto(place: str, error: Exception) -> SatrayError:
    answer = getattr(error, "response", {})
    code = str(answer.get("Error", {}).get("Code", ""))
    status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return _of_answer(place, code, status, one_line(error))


def _of_obstore(place: str, error: Exception) -> SatrayError:
    text = str(error)
    code, status = _CODE.search(text), _STATUS.search(text)
    number = int(status.group(1)) if status else 0
    if code:
        return _of_answer(place, code.group(1), number, one_line(error))
    if isinstance(error, FileNotFoundError):
        return InputError(f"{place}: does not exist")
    if isinstance(error, store_errors.PermissionDeniedError | store_errors.UnauthenticatedError):
        return InputError(f"{place}: {_REFUSED}")
    if isinstance(error, store_errors.InvalidPathError):
        return InputError(f"{place}: not a name that object stores take")
    if isinstance(error, store_errors.NotSupportedError):
        return InputError(f"{place}: this kind of store cannot do that: {one_line(error)}")
    if "token request" in text:
        return InputError(f"{place}: no credentials for this store could be found")
    if "redirect" in text.lower():
        return InputError(f"{place}: {_ELSEWHERE}")
    said = f"{number} {status.group(2).strip()}" if status else one_line(error)
    return _of_answer(place, "", number, said)


def _of_answer(place: str, code: str, status: int, said: str) -> SatrayError:
    """Choose by error code, then by HTTP status: 4xx is ours to mend, anything else theirs."""
    if code in _MEANING:
        return InputError(f"{place}: {_MEANING[code]}" + (f" ({code})" if code.isalpha() else ""))
    if 400 <= status < 500 and status != 429:
        return InputError(f"{place}: the store refused the request ({code or said})")
    return SatrayError(f"{place}: the store failed, after retries: {said}")
