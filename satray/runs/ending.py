"""Whatever ends a job, a line says so: also what Python never gets to see.

Within the job, `Ending`: a signal ends the work where it stands, a folder that another process took
ends the process, and the job says why. Beside it a witness, a shell that holds the job's standard
error and waits for a farewell: where the job ends without one (killed, out of memory, a crash in
native code, a Ray that died), it says so.

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
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

WITNESS = """trap "" INT TERM HUP; read -r farewell || printf "%s\\n" "$0" >&2"""


def stopped(error: KeyboardInterrupt | SystemExit) -> str:
    """Say that a job ends by a signal, or by whatever else turned into an exit."""
    what = "interrupted"
    if isinstance(error, SystemExit):
        sigterm = error.code == signal.SIGTERM
        what = f"told to end ({'SIGTERM' if sigterm else f'exit {error.code}'})"
    return f"{what}; the same command continues it"


class Ending:
    """Has a job end before its work is done; one a job, used from any thread."""

    def __init__(self, say: Callable[[str], None]) -> None:
        """Begin.

        Args:
            say: prints a line about what ended the job.
        """
        self.said = False
        self._say = say
        self._log = self._log_here = ""
        self._lock = threading.Lock()
        self._witness: subprocess.Popen[bytes] | None = None

    def end(self, reason: str) -> None:
        """Say why the job ends, and end its process: it may not write any more."""
        self._log = self._log_here  # it is brought nowhere any more
        self.tell(f"{reason}; ended with status 1")
        os._exit(1)

    def tell(self, reason: str) -> None:
        """Say why the job ends, in one line, unless that was said before."""
        with self._lock:
            first, self.said = not self.said, True
        if first:
            self._say(reason + self._log)
            self._farewell()

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
    def witnessed(self, job: str, log: Path, place: str) -> Iterator[None]:
        """Have a witness within the block; where it cannot start, the job goes on all the same.

        Args:
            job: the job's name, for the line.
            log: where its log is while it runs.
            place: where the job brings it in the end.
        """
        self._log, self._log_here = f" (log: {place})", f" (log: {log})"
        line = (
            f"{job}: its process {os.getpid()} was killed or crashed without a word (out of "
            f"memory?); the same command continues it{self._log_here}"
        )
        with contextlib.suppress(OSError):
            self._witness = subprocess.Popen(
                ["/bin/sh", "-c", WITNESS, line],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                start_new_session=True,  # what ends the job's group must not end its witness
            )
        try:
            yield
        finally:
            self._farewell()

    def _farewell(self) -> None:
        """Let the witness go: the job has said why it ends, or ends as it should."""
        if self._witness is not None:
            with contextlib.suppress(OSError, ValueError, subprocess.TimeoutExpired):
                self._witness.communicate(b"farewell\n", timeout=5)
