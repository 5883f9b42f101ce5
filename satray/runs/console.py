"""What the person sees: calm lines, one status line, and a log file for all the rest."""

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console as Rich
from rich.markup import escape
from rich.status import Status

QUIET_SECONDS = 10.0
"""Without a terminal, at least this long between two progress lines."""


class _Screen(Rich):
    """Where lines are shown; a reader that has gone, or a full disk, ends no work."""

    def print(self, *objects: Any, **how: Any) -> None:
        """Print, until that fails; from then on nothing is shown."""
        try:
            super().print(*objects, **how)
        except OSError:
            self.quiet = True
            with contextlib.suppress(OSError, ValueError):  # what is left in the buffer goes there
                os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())

    def on_broken_pipe(self) -> None:
        """Raise it, where Rich ends the program."""
        raise


class Console:
    """Writes to the terminal that the job was started from, even while fds 1 and 2 are in the log.

    Ray and its C++ processes write to the file descriptors themselves, so only a redirection of
    those keeps a job's output calm.
    """

    def __init__(self) -> None:
        self._stream: TextIO = sys.stdout
        self._errors: TextIO | None = None
        self._rich = _Screen(file=self._stream, highlight=False, soft_wrap=True)
        self._status: Status | None = None
        self._last_progress = 0.0

    def say(self, line: str) -> None:
        """Print one line."""
        self._rich.print(escape(line))

    def error(self, line: str) -> None:
        """Print one line about what ended the job, on standard error."""
        self.settle()
        screen = _Screen(file=self._errors or sys.stderr, highlight=False, soft_wrap=True)
        screen.print(escape(line), style="bold red" if screen.is_terminal else None)

    def progress(self, line: str) -> None:
        """Show how far the job is: in place on a terminal, else as a line now and then."""
        if self._rich.is_terminal:
            if self._status is None:
                self._status = self._rich.status(escape(line))
                self._status.start()
            else:
                self._status.update(escape(line))
            return
        now = time.monotonic()
        if now - self._last_progress >= QUIET_SECONDS:
            self._last_progress = now
            self.say(f"  {line}")

    def settle(self) -> None:
        """End the status line."""
        if self._status is not None:
            self._status.stop()
            self._status = None

    @contextlib.contextmanager
    def quiet(self, log: Path) -> Iterator[None]:
        """Send file descriptors 1 and 2 to `log` within the block; this console stays visible."""
        log.parent.mkdir(parents=True, exist_ok=True)
        sys.stdout.flush()
        sys.stderr.flush()
        saved = os.dup(1), os.dup(2)
        stream, errors = (
            os.fdopen(os.dup(number), "w", buffering=1, encoding="utf-8", errors="replace")
            for number in (1, 2)
        )
        before = self._stream, self._rich
        width = self._rich.width if self._rich.is_terminal else None
        with log.open("ab") as sink:
            os.dup2(sink.fileno(), 1)
            os.dup2(sink.fileno(), 2)
        self._stream, self._errors = stream, errors
        self._rich = _Screen(file=stream, highlight=False, soft_wrap=True, width=width)
        try:
            yield
        finally:
            self.settle()
            sys.stdout.flush()
            sys.stderr.flush()
            os.dup2(saved[0], 1)
            os.dup2(saved[1], 2)
            for descriptor in saved:
                os.close(descriptor)
            self._errors = None
            self._stream, self._rich = before
            stream.close()
            errors.close()
