"""The whole ledger by one listing: ten thousand scenes without a request for any of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from satray.scoring.ledger.claims import Ledger
from satray.scoring.ledger.marks import NOTHING, History, Key, histories, safe_part


@dataclass(frozen=True)
class View:
    """The ledger at one moment."""

    now: datetime
    """The store's clock just before the listing."""
    scenes: Mapping[str, History]
    """Marks by encoded scene."""

    def history(self, scene: str) -> History:
        """Marks of one scene."""
        return self.scenes.get(safe_part(scene), NOTHING)

    def is_done(self, key: Key) -> bool:
        """Tell whether a version is committed."""
        return self.history(key.scene).is_done(key.version)


def look(ledger: Ledger) -> View:
    """List the ledger: the store's clock (two requests), then one listing."""
    now = ledger.now()
    return View(now, histories((entry, entry.key) for entry in ledger.storage.list(ledger.root)))
