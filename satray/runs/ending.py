"""Whatever ends a job, a line says so: also what Python never gets to see.

Two things watch. Within the job, `Ending`: a signal, a Ray that died or a folder that another
process took end the work where it stands, and the job says why. Beside it, this file run as a
program: it holds the job's standard error, waits for the job's farewell, and where the job ends
without one (killed, out of memory, a crash in native code) says so, ends what Ray left running, and
brings the log to the run folder.
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
from typing import Any

GRACE = 20.0
"""Seconds that the work has to end once it is told to."""
FAREWELL = "farewell"


def told_to_end(code: object) -> str:
    """Say that a job ends by a signal, or by whatever else turned into an exit."""
    names = {signal.SIGINT.value: "interrupted", signal.SIGTERM.value: "told to end (SIGTERM)"}
    what = names.get(code) if isinstance(code, int) else None
    return f"{what or f'told to end (exit {code})'}; the same command continues it"


class Ending:
    """Has a job end before its work is done; one a job, used from any thread."""

    def __init__(self, say: Callable[[str], None]) -> None:
        """Begin.

        Args:
            say: prints a line about what ended the job.
        """
        self.said = False
        self.log: str | None = None
        """Where the job's log will be, for the line."""
        self.witness: Witness | None = None
        self._say = say
        self._lock = threading.Lock()
        self._signals = -1

    def end(self, reason: str, grace: float = GRACE) -> None:
        """Say at once why the job ends; interrupt its work, and cut it where it does not heed that.

        Args:
            reason: one line; of several the first is said. Where the job was told to end, that is:
                batch systems tell all its processes, and Ray's servers heed it first.
            grace: seconds that the work has to end; 0: it is cut at once.
        """
        first = self.tell(reason)
        if grace > 0 and not first:
            return
        if grace > 0:
            cut = threading.Timer(grace, os._exit, [1])
            cut.daemon = True
            cut.start()
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            os._exit(1)

    def tell(self, reason: str) -> bool:
        """Say why the job ends, unless that was said before; tells whether it was not."""
        with self._lock:
            first, self.said = not self.said, True
        if first:
            told = [n for n in self._heard() if n in (signal.SIGTERM, signal.SIGINT)]
            reason = told_to_end(max(told)) if told else reason
            self._say(reason + (f" (log: {self.log})" if self.log else ""))
            if self.witness is not None:
                self.witness.tell(said=True)
        return first

    def _heard(self) -> bytes:
        """Signals so far, as numbers; Python's main thread may not have had its turn yet."""
        with contextlib.suppress(OSError):
            return os.read(self._signals, 4096)
        return b""

    @contextlib.contextmanager
    def heeded(self) -> Iterator[None]:
        """Turn SIGTERM into SystemExit within the block, as Ray does once it is up."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(number: int, _frame: FrameType | None) -> None:
            sys.exit(number)

        before = signal.signal(signal.SIGTERM, stop)
        self._signals, heard = os.pipe()
        os.set_blocking(self._signals, False)
        os.set_blocking(heard, False)
        other = signal.set_wakeup_fd(heard, warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(other)
            signal.signal(signal.SIGTERM, before)
            os.close(self._signals)
            os.close(heard)


class Witness:
    """The program beside a job; where it cannot be started, the job goes on all the same."""

    def __init__(self, job: str, log: Path, target: str | None, options: dict[str, Any]) -> None:
        """Start it.

        Args:
            job: the job's name, for the line.
            log: the job's log.
            target: where the log is to be in the end, where that is in a store.
            options: how the store is reached (`StorageOptions`).
        """
        self._program: subprocess.Popen[bytes] | None = None
        with contextlib.suppress(OSError):
            self._program = subprocess.Popen(
                [sys.executable, "-I", "-S", __file__],  # starts in 15 ms
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                start_new_session=True,  # what ends the job's group must not end its witness
            )
        self.tell(job=job, pid=os.getpid(), log=str(log), target=target)
        self.tell(options=options, path=[str(Path(__file__).parents[2]), *sys.path])

    def tell(self, **facts: Any) -> None:
        """Tell it something that it may need (`session`: the folder of Ray's session)."""
        with contextlib.suppress(OSError, ValueError):
            if self._program is not None and self._program.stdin is not None:
                self._program.stdin.write(json.dumps(facts).encode() + b"\n")
                self._program.stdin.flush()

    def dismiss(self) -> None:
        """Say farewell: the job has said its own last line, or will."""
        if self._program is None:
            return
        self.tell(**{FAREWELL: True})
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            self._program.communicate(timeout=5)


def _main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    facts: dict[str, Any] = {}
    for line in sys.stdin.buffer:
        with contextlib.suppress(ValueError):
            facts |= json.loads(line)
    if FAREWELL in facts or "job" not in facts:
        return
    job, log, target = facts["job"], facts["log"], facts["target"]
    with contextlib.suppress(OSError):
        said = (
            f"{job}: its process {facts['pid']} was killed or crashed without a word (out of "
            f"memory?); the same command continues it (log: {target or log})\n"
        )
        if not facts.get("said"):
            os.write(2, said.encode())
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), 2
        )  # whoever reads what the job said need not wait
    sys.path[:] = facts["path"]
    if facts.get("session"):
        from satray.sessions import end_session

        end_session(facts["session"])
    if target and Path(log).exists():
        from satray.config.base import StorageOptions
        from satray.storage import Storage

        Storage(StorageOptions(**facts["options"])).upload(Path(log), target)


if __name__ == "__main__":
    _main()
