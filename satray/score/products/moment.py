"""When a scene was taken: a pattern on its name, its Item, its TIFF tag, else when it was stored.

Pure: whoever reads the scene hands over what it found.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from satray.errors import InputError

GROUPS = ("year", "month", "day", "doy", "hour", "minute", "second")
ACCEPTED = (
    "a regular expression with the named group `datetime` (ISO 8601, or digits YYYYMMDD[T]hhmmss), "
    "or `year` and some of `month, day, doy, hour, minute, second`"
)


@dataclass(frozen=True)
class Moment:
    """A time or a stretch of time, and where it is from."""

    at: datetime | None
    """UTC; None where only `start` and `end` are known."""
    source: str
    """`pattern`, `item`, `tiff` or `modified`."""
    start: datetime | None = None
    """UTC; of an Item that says a stretch."""
    end: datetime | None = None
    """UTC; of an Item that says a stretch."""

    @property
    def span(self) -> tuple[datetime, ...]:
        """First and last time; the same twice where only one is known."""
        return tuple(at for at in (self.start or self.at, self.end or self.at) if at)


def time_pattern(text: str) -> re.Pattern[str]:
    """Compile the key that says how a scene's id tells its time.

    Raises:
        InputError: no regular expression, or none of the groups.
    """
    try:
        pattern = re.compile(text)
        names = set(pattern.groupindex)
        why = "" if names & {"datetime", "year"} else "has neither group"
        unknown = sorted(names - {"datetime", *GROUPS})
        why = f"has an unknown group {unknown[0]!r}" if unknown else why
    except re.error as error:
        why = str(error)
    if why:
        raise InputError(f"datetime: {text!r} {why}; accepted: {ACCEPTED}")
    return pattern


def moment_of(
    scene: str,
    modified: datetime,
    pattern: re.Pattern[str] | None = None,
    item: Mapping[str, Any] | None = None,
    tiff: str | None = None,
) -> Moment:
    """The first of pattern, Item, TIFF tag and time of storage that tells a time.

    Args:
        scene: the scene's id.
        modified: when its object was stored.
        pattern: of `time_pattern`.
        item: the STAC Item that came with it.
        tiff: value of TIFFTAG_DATETIME; taken as UTC, which the tag cannot say.
    """
    if pattern is not None and (match := pattern.search(scene)):
        at = _matched(match)
        if at is not None:
            return Moment(at, "pattern")
    properties = (item or {}).get("properties")
    if isinstance(properties, Mapping):
        names = ("datetime", "start_datetime", "end_datetime")
        at, start, end = (parse(properties.get(name)) for name in names)
        if at is not None or (start is not None and end is not None):
            return Moment(at, "item", start, end)
    at = parse(tiff)
    if at is not None:
        return Moment(at, "tiff")
    return Moment(modified.astimezone(UTC), "modified")


def parse(value: object) -> datetime | None:
    """A time of ISO 8601, of digits, or of TIFF (`2026:05:01 10:20:30`); UTC where none is said."""
    if not isinstance(value, str):
        return None
    text = value.strip().rstrip("\x00")
    text = re.sub(r"^(\d{4}):(\d\d):(\d\d)", r"\1-\2-\3", text)
    text = re.sub(r"^(\d{8})[T_-]?(\d{6})$", r"\1T\2", text)
    text = re.sub(r"^(\d{8})[T_-]?(\d{4})$", r"\1T\g<2>00", text)
    try:
        at = datetime.fromisoformat(text)
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def stamp(at: datetime) -> str:
    """RFC 3339 with `Z`, to the second or finer."""
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _matched(match: re.Match[str]) -> datetime | None:
    groups = {name: value for name, value in match.groupdict().items() if value}
    if "datetime" in groups:
        return parse(groups["datetime"])
    try:
        n = {"month": 1, "day": 1} | {name: int(value) for name, value in groups.items()}
        n["year"] += 2000 if len(groups["year"]) == 2 else 0
        days = n.pop("doy", 1) - 1
        at = datetime(**n, tzinfo=UTC) + timedelta(days=days)
    except (KeyError, ValueError, OverflowError):
        return None
    return at if at.year == n["year"] else None
