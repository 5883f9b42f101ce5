"""What the person sees: calm lines, one status line, and a log file for all the rest."""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self, TextIO

QUIET_SECONDS = 10.0
"""Without a terminal, at least this long between two progress lines."""
CLEAR = "\r\x1b[K"


class Console:
    """Writes to where the job was started from, even while descriptors 1 and 2 are in the log.

    Ray and its C++ processes write to the descriptors themselves, so only a redirection of those
    keeps a job's output calm. Used from any thread.
    """

    def __init__(self) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        self._out, self._errors = _copy(1), _copy(2)
        self._status = ""
        self._last_progress = 0.0
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._show(self._out, status="")
        self._out.close()
        self._errors.close()

    def say(self, line: str) -> None:
        """Print one line."""
        self._show(self._out, f"{line}\n")

    def error(self, line: str) -> None:
        """Print one line about what ended the job, on standard error."""
        bold_red = f"\x1b[1;31m{line}\x1b[0m" if self._errors.isatty() else line
        self._show(self._errors, f"{bold_red}\n", status="")

    def progress(self, line: str) -> None:
        """Show how far the job is: in place on a terminal, else as a line now and then."""
        if self._out.isatty():
            width = os.get_terminal_size(self._out.fileno()).columns or 80
            self._show(self._out, status=line[: width - 1])
        elif time.monotonic() - self._last_progress >= QUIET_SECONDS:
            self._last_progress = time.monotonic()
            self.say(f"  {line}")

    @contextlib.contextmanager
    def quiet(self, log: Path) -> Iterator[None]:
        """Send descriptors 1 and 2 to `log` within the block; this console stays visible."""
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as sink:
            _lead([sink.fileno(), sink.fileno()])
        try:
            yield
        finally:
            self._show(self._out, status="")
            _lead([self._out.fileno(), self._errors.fileno()])

    def _show(self, stream: TextIO, text: str = "", status: str | None = None) -> None:
        """Write a text above the status line, which becomes another where one is given."""
        with self._lock:
            clear = CLEAR if self._status else ""
            self._status = self._status if status is None else status
            for to, what in ((self._out, clear), (stream, text), (self._out, self._status)):
                try:
                    to.write(what)
                    to.flush()
                except OSError:  # a reader that has gone ends no work: what is in the buffer too
                    os.dup2(os.open(os.devnull, os.O_WRONLY), to.fileno())


def _copy(descriptor: int) -> TextIO:
    return os.fdopen(os.dup(descriptor), "w", encoding="utf-8", errors="replace")


def _lead(targets: list[int]) -> None:
    """Have descriptors 1 and 2 lead where these lead."""
    for number, stream, target in zip((1, 2), (sys.stdout, sys.stderr), targets, strict=True):
        stream.flush()
        os.dup2(target, number)
