"""Scenes that are still being uploaded are left for the next time. Pure.

Objects appear in a store when they are whole; files on a disk grow under the eyes of whoever lists
them. A file that is being written has just been modified, and looks different a moment later.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Protocol

SETTLE = 60.0
"""Seconds that a scene has to stay unchanged, unless told otherwise."""


class Seen(Protocol):
    """A scene as a listing describes it."""

    @property
    def scene(self) -> str:
        """Path below `scenes=`."""

    @property
    def etag(self) -> str:
        """Changes when the content does."""

    @property
    def size(self) -> int:
        """Bytes."""

    @property
    def modified(self) -> datetime:
        """Time of the last change by its store's clock, UTC."""


def too_young(seen: Seen, now: datetime, settle: float = SETTLE) -> str | None:
    """Say why a scene is too young to be read; None where it is not.

    Args:
        seen: the scene.
        now: the store's clock.
        settle: seconds since the last change that are enough; 0 takes anything.

    Returns:
        The reason. A time of change far in the future (archives bring such) tells nothing, and
        is no reason: `changed` then decides alone.
    """
    age = (now - seen.modified).total_seconds()
    if -settle <= age < settle:
        return f"changed {max(age, 0):.0f} s ago, less than settle={settle:g} s"
    return None


def changed(before: Iterable[Seen], after: Iterable[Seen]) -> dict[str, str]:
    """Scenes that differ between two looks, and how; those of the first look only."""
    later = {seen.scene: seen for seen in after}
    found: dict[str, str] = {}
    for seen in before:
        again = later.get(seen.scene)
        if again is None:
            found[seen.scene] = "gone since it was first seen"
        elif again.size != seen.size:
            found[seen.scene] = f"still growing: {seen.size} bytes, then {again.size}"
        elif again.etag != seen.etag:
            found[seen.scene] = "changed while it was looked at"
    return found
