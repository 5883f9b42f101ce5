"""What the person sees: calm lines, one status line, and a log file for all the rest."""

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from rich.console import Console as Rich
from rich.markup import escape
from rich.status import Status

QUIET_SECONDS = 10.0
"""Without a terminal, at least this long between two progress lines."""


class _Screen(Rich):
    """A stream of its own on a descriptor; a reader that has gone ends no work."""

    def __init__(self, descriptor: int) -> None:
        stream = os.fdopen(os.dup(descriptor), "w", buffering=1, encoding="utf-8", errors="replace")
        super().__init__(file=stream, highlight=False, markup=False, soft_wrap=True)
        if self.is_terminal:
            self.width = self.width  # as it is now: later its descriptor leads to a log

    def on_broken_pipe(self) -> None:
        """Show nothing from then on, where Rich ends the program."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())  # what is in its buffer too


class Console:
    """Writes to where the job was started from, even while descriptors 1 and 2 are in the log.

    Ray and its C++ processes write to the descriptors themselves, so only a redirection of those
    keeps a job's output calm.
    """

    def __init__(self) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        self._out, self._errors = _Screen(1), _Screen(2)
        self._status: Status | None = None
        self._last_progress = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._settle()
        for screen in (self._out, self._errors):
            screen.file.close()

    def say(self, line: str) -> None:
        """Print one line."""
        self._out.print(line)

    def error(self, line: str) -> None:
        """Print one line about what ended the job, on standard error."""
        self._settle()
        self._errors.print(line, style="bold red" if self._errors.is_terminal else None)

    def progress(self, line: str) -> None:
        """Show how far the job is: in place on a terminal, else as a line now and then."""
        if self._out.is_terminal:
            if self._status is None:
                self._status = self._out.status(escape(line))
                self._status.start()
            self._status.update(escape(line))
        elif time.monotonic() - self._last_progress >= QUIET_SECONDS:
            self._last_progress = time.monotonic()
            self.say(f"  {line}")

    @contextlib.contextmanager
    def quiet(self, log: Path) -> Iterator[None]:
        """Send descriptors 1 and 2 to `log` within the block; this console stays visible."""
        log.parent.mkdir(parents=True, exist_ok=True)
        before = [self._out.file.fileno(), self._errors.file.fileno()]
        with log.open("ab") as sink:
            _lead([sink.fileno(), sink.fileno()])
        try:
            yield
        finally:
            self._settle()
            _lead(before)

    def _settle(self) -> None:
        """End the status line."""
        if self._status is not None:
            self._status.stop()
            self._status = None


def _lead(targets: list[int]) -> None:
    """Have descriptors 1 and 2 lead where these lead."""
    for number, stream, target in zip((1, 2), (sys.stdout, sys.stderr), targets, strict=True):
        stream.flush()
        os.dup2(target, number)
