"""What the person sees: calm lines, one status line, a log file for all the rest, and why it ended.

Whatever ends a job, a line says so: also what Python never gets to see. A signal ends the work
where it stands, a folder that another process took ends the process, and the job says why. Beside
it a witness, a shell that holds the job's standard error and waits for a farewell: where the job
ends without one (killed, out of memory, a crash in native code, a Ray that died), it says so.

Measured with Ray 2.60: processes of a job that was killed end by themselves, all but two idle
agents in seconds and those in a minute; a job whose raylet was killed ends after 15 to 20 s, one
whose GCS was after a minute.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Self, TextIO

QUIET_SECONDS = 10.0
"""Without a terminal, at least this long between two progress lines."""
CLEAR = "\r\x1b[K"
WITNESS = """trap "" INT TERM HUP; read -r farewell || printf "%s\\n" "$0" >&2"""


class Console:
    """Writes to where the job was started from, even while descriptors 1 and 2 are in the log.

    Ray and its C++ processes write to the descriptors themselves, so only a redirection of those
    keeps a job's output calm. Used from any thread.
    """

    def __init__(self, job: str) -> None:
        """Begin; the job's name stands before what ended it."""
        sys.stdout.flush()
        sys.stderr.flush()
        self._job = job
        self._out, self._errors = _copy(1), _copy(2)
        self._status = ""
        self._last_progress = 0.0
        self._unsaid = ""  # progress since
        self._lock = threading.Lock()
        self._log = self._log_here = ""
        self._witness: subprocess.Popen[bytes] | None = None
        self.told = False  # why the job ends

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._farewell()
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
        self._farewell()

    def tell(self, reason: str) -> None:
        """Say why the job ends, in one line, unless that was said before."""
        with self._lock:
            first, self.told = not self.told, True
        if first:
            self.error(f"{self._job}: {reason}{self._log}")

    def end(self, reason: str) -> None:
        """Say why the job ends, and end its process: it may not write any more."""
        self._log = self._log_here  # it is brought nowhere any more
        self.tell(f"{reason}; ended with status 1")
        os._exit(1)

    def progress(self, line: str) -> None:
        """Show how far the job is: in place on a terminal, else a line now and then and last."""
        if self._out.isatty():
            width = os.get_terminal_size(self._out.fileno()).columns or 80
            self._show(self._out, status=line[: width - 1])
            return
        self._unsaid = f"  {line}\n"
        if time.monotonic() - self._last_progress >= QUIET_SECONDS:
            self._last_progress = time.monotonic()
            self._show(self._out, self._unsaid)
            self._unsaid = ""

    @contextlib.contextmanager
    def heeded(self) -> Iterator[None]:
        """Turn SIGTERM into SystemExit within the block, as Ray does once it is up."""

        def stop(number: int, _frame: FrameType | None) -> None:
            sys.exit(number)

        before = signal.signal(signal.SIGTERM, stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    @contextlib.contextmanager
    def quiet(self, log: Path, place: str) -> Iterator[None]:
        """Send descriptors 1 and 2 to a log within the block; this console stays visible.

        From here on the job has a witness; where that cannot start, it goes on all the same.

        Args:
            log: the file.
            place: where the job brings it in the end.
        """
        self._log, self._log_here = f" (log: {place})", f" (log: {log})"
        line = (
            f"{self._job}: its process {os.getpid()} was killed or crashed without a word (out of "
            f"memory?); the same command continues it{self._log_here}"
        )
        with contextlib.suppress(OSError):
            self._witness = subprocess.Popen(
                ["/bin/sh", "-c", WITNESS, line],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                start_new_session=True,  # what ends the job's group must not end its witness
            )
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as sink:
            _lead([sink.fileno(), sink.fileno()])
        try:
            yield
        finally:
            self._show(self._out, self._unsaid, status="")
            _lead([self._out.fileno(), self._errors.fileno()])

    def _farewell(self) -> None:
        """Let the witness go: the job has said why it ends, or ends as it should."""
        if self._witness is not None:
            with contextlib.suppress(OSError, ValueError, subprocess.TimeoutExpired):
                self._witness.communicate(b"farewell\n", timeout=5)

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
