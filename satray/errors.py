"""The errors that satray raises on purpose, each with the exit status of the job it ends.

Everything else that escapes a job is a defect and ends with status 1 and a traceback in the log.
Messages are one line, and name few of many.
"""

from collections.abc import Callable, Collection
from typing import Any, TypeVar

T = TypeVar("T")


class SatrayError(Exception):
    """Base of all: one line for a person to read, and an exit status."""

    exit_status = 1


class InputError(SatrayError):
    """The configuration or the input is wrong.

    The message says, in one line, which key or file, what was found and what is accepted.
    """

    exit_status = 2


class DecodeError(SatrayError):
    """One image cannot be read; the message is the reason that goes into its quarantine row."""


class MisfitError(DecodeError):
    """One image can be read, but is not what is wanted of it."""


class TrainingError(SatrayError):
    """Training cannot go on (a loss that is not finite, say); the last good checkpoint stays."""


def attempt(function: Callable[..., T], *given: Any) -> T | Exception:
    """What a function returns, or what it raises."""
    try:
        return function(*given)
    except Exception as error:
        return error


def one_line(error: BaseException) -> str:
    """What an error says, in one line; of one that is not ours its name, and the gist."""
    text = " ".join(str(error).partition("Debug source:")[0].split())  # obstore dumps its inside
    if isinstance(error, SatrayError) and text:
        return text
    text = f"{type(error).__name__}: {text}"
    return text if len(text) <= 300 else f"{text[:299]}…"


def listed(names: Collection[str], most: int = 20) -> str:
    """Names for a message, the first `most` of them."""
    shown = ", ".join(list(names)[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


def counted(number: int, noun: str) -> str:
    """A number of things: `1 worker`, `2,000 workers`, `2 classes`."""
    many = "es" if noun.endswith("s") else "s"
    return f"{number:,} {noun}{'' if number == 1 else many}"
