"""Whatever ends a job, a line says so: also what Python never gets to see.

Within the job, `Ending`: a signal or a folder that another process took end the work where it
stands, and the job says why. Beside it a witness, this file run as a program: it holds the job's
standard error, waits for the job's farewell, and where the job ends without one (killed, out of
memory, a crash in native code, a Ray that died) says so, and brings the log to the run folder.

Measured with Ray 2.60: processes of a job that was killed end by themselves, all but two idle
agents in seconds and those in a minute; a job whose raylet was killed ends after 15 to 20 s, one
whose GCS was after a minute.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # as a program this file knows no satray at first
    from satray.storage import Storage

GRACE = 20.0
"""Seconds that the work has to end once it is told to."""
MOST = 8 << 20
"""Bytes of a log that go to a store: its end."""
SAID, FAREWELL = b"said\n", b"farewell\n"
"""What a job tells its witness: that it has said why it ends, and that it ends as it should."""


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
        self._place = ""
        self._lock = threading.Lock()
        self._witness: subprocess.Popen[bytes] | None = None

    def end(self, reason: str) -> None:
        """Say at once why the job ends; interrupt its work, and cut it where it does not heed that.

        Args:
            reason: one line; of several the first is said.
        """
        if self.tell(reason):
            cut = threading.Timer(GRACE, os._exit, [1])
            cut.daemon = True
            cut.start()
            os.kill(os.getpid(), signal.SIGTERM)

    def tell(self, reason: str) -> bool:
        """Say why the job ends, unless that was said before; tells whether it was not."""
        with self._lock:
            first, self.said = not self.said, True
        if first:
            self._say(reason + (f" (log: {self._place})" if self._place else ""))
            self._note(SAID)
        return first

    @contextlib.contextmanager
    def heeded(self) -> Iterator[None]:
        """Turn SIGTERM into SystemExit within the block, as Ray does once it is up."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(number: int, _frame: FrameType | None) -> None:
            sys.exit(number)

        before = signal.signal(signal.SIGTERM, stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    @contextlib.contextmanager
    def witnessed(self, job: str, log: Path, place: str, options: dict[str, Any]) -> Iterator[None]:
        """Have a witness within the block; where it cannot start, the job goes on all the same.

        Args:
            job: the job's name, for the line.
            log: the job's log.
            place: where the log is to be in the end.
            options: how that is reached (`StorageOptions`).
        """
        self._place = place
        facts = {"job": job, "pid": os.getpid(), "log": str(log), "place": place}
        facts |= {"options": options, "path": [str(Path(__file__).parents[2]), *sys.path]}
        with contextlib.suppress(OSError):
            self._witness = subprocess.Popen(
                [sys.executable, "-I", "-S", __file__, json.dumps(facts)],  # starts in 15 ms
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                start_new_session=True,  # what ends the job's group must not end its witness
            )
        try:
            yield
        finally:
            self._note(FAREWELL)
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                if self._witness is not None:
                    self._witness.communicate(timeout=5)

    def _note(self, word: bytes) -> None:
        """Send the witness a word."""
        with contextlib.suppress(OSError, ValueError):
            if self._witness is not None and self._witness.stdin is not None:
                self._witness.stdin.write(word)
                self._witness.stdin.flush()


def bring(log: Path, place: str, storage: "Storage") -> str:
    """Bring a log to its run folder, and return where it is then: what went before counts more."""
    from satray.errors import SatrayError

    if str(log) == place:
        return place
    try:
        with log.open("rb") as file:
            file.seek(max(0, os.path.getsize(log) - MOST))
            storage.write(place, file.read())
        log.unlink()
    except (SatrayError, OSError):
        return str(log)
    return place


def _main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    facts = json.loads(sys.argv[1])
    heard = sys.stdin.buffer.read()  # until the job closes it, or ends
    if FAREWELL in heard:
        return
    line = (
        f"{facts['job']}: its process {facts['pid']} was killed or crashed without a word (out of "
        f"memory?); the same command continues it (log: {facts['place']})\n"
    )
    with contextlib.suppress(OSError):
        if SAID not in heard:
            os.write(2, line.encode())
        # Whoever reads what the job said need not wait.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    sys.path[:] = facts["path"]
    if facts["log"] != facts["place"]:
        from satray.config.base import StorageOptions
        from satray.storage import Storage

        bring(Path(facts["log"]), facts["place"], Storage(StorageOptions(**facts["options"])))


if __name__ == "__main__":
    _main()
