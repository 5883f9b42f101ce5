"""Signs of life: one file a run, written again and again by one thread."""

import contextlib
import threading
import time

from satray.errors import SatrayError
from satray.scoring.ledger.ledger import Ledger

SHARE = 3  # signs in a lease: two may be missed
PATIENCE = 5.0  # seconds that an end waits for a sign under way


class Heartbeat:
    """Tells that a run lives, from `begin` until it is closed or given up."""

    def __init__(self, ledger: Ledger, every: float | None = None) -> None:
        self._ledger = ledger
        self._every = every if every is not None else ledger.lease / SHARE
        self._told = time.monotonic()
        self._lost = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def begin(self) -> None:
        """Give the first sign; claims are made after it."""
        self._ledger.beat()
        self._told = time.monotonic()
        self._thread.start()

    def check(self) -> None:
        """Refuse to go on as if nothing had happened after a silence.

        Raises:
            SatrayError: the store was out of reach for a lease, so that others took the run for
                dead and have its scenes in their tables.
        """
        if self._lost or time.monotonic() - self._told > self._ledger.lease:
            raise SatrayError(
                f"no sign of life could be given for {self._ledger.lease:g} s (schedule.lease): "
                "other runs have taken this one for dead; the next run has its scenes"
            )

    def close(self) -> None:
        """End well: the record stands, or there was nothing to do."""
        self._end()
        self._ledger.close()

    def give_up(self) -> None:
        """End without tables: the next run may take over at once. Hides no other error."""
        self._end()
        with contextlib.suppress(Exception):
            self._ledger.beat(b"")

    def _end(self) -> None:
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(PATIENCE)

    def _run(self) -> None:
        while not self._stop.wait(self._every):
            began = time.monotonic()
            self._lost = self._lost or began - self._told > self._ledger.lease
            with contextlib.suppress(SatrayError):  # the store may be back before the lease ends
                self._ledger.beat()
                self._told = began
