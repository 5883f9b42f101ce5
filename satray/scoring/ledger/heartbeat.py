"""Signs of life while a scene is worked on."""

import threading
import time
from types import TracebackType

from satray.errors import SatrayError
from satray.scoring.ledger.claims import Claim, Ledger

SHARE = 3  # signs in a lease: two may be missed
PATIENCE = 5.0  # seconds that the end of a block waits for a sign under way


class Heartbeat:
    """Renews a claim in a thread of its own, for the length of a `with` block.

    `lost` says that work is in vain: another has taken over, or the store could not be told for a
    lease, so that another may have.
    """

    def __init__(self, ledger: Ledger, claim: Claim, every: float | None = None) -> None:
        self._ledger = ledger
        self._claim = claim
        self._every = every if every is not None else ledger.lease / SHARE
        self._signs = 0
        self._told = time.monotonic()
        self._lost = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> "Heartbeat":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join(PATIENCE)

    @property
    def lost(self) -> bool:
        """Whether to stop working."""
        return self._lost or time.monotonic() - self._told > self._ledger.lease

    def beat(self) -> bool:
        """Give one sign; returns whether the claim still stands, as far as one can tell."""
        began = time.monotonic()
        try:
            stands = self._ledger.renew(self._claim, self._signs + 1)
        except SatrayError:  # the store may be back before the lease ends
            return not self.lost
        if stands:
            self._signs += 1
            self._told = began
        else:
            self._lost = True
        return stands

    def _run(self) -> None:
        while not self._stop.wait(self._every):
            if not self.beat():
                return
