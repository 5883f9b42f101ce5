"""Whether what stands under a scene's final names is what was published last. No file is read."""

import hashlib
from collections.abc import Iterable, Mapping

from satray.scoring.ledger.claims import Ledger
from satray.scoring.ledger.marks import History
from satray.storage import Entry, join

NOT_PUBLISHED = "committed, but not published"
OTHER_SHOWN = "another version was published after it"
DIFFERENT = "files are missing, or not those that were published"


def fingerprint(finals: Mapping[str, Entry]) -> str:
    """Digest of files as their store describes them: path, size and etag."""
    digest = hashlib.sha256()
    for path in sorted(finals):
        entry = finals[path]
        digest.update(f"{path}\0{entry.size}\0{entry.etag or entry.modified}\n".encode())
    return digest.hexdigest()[:16]


def list_finals(ledger: Ledger) -> dict[str, Entry]:
    """List everything under final names, by path below `out`: one listing a folder."""
    folders = sorted({final.partition("/")[0] for final in ledger.finals})
    return {
        f"{folder}/{entry.key}": entry
        for folder in folders
        for entry in ledger.storage.list(join(ledger.out, folder))
    }


def unsettled(
    history: History,
    version: str,
    finals: Mapping[str, Entry],
    paths: Iterable[str],
) -> str | None:
    """Why a committed version is to be published (again); None where all is well.

    Args:
        history: the scene's.
        version: the one that is to stand under the final names.
        finals: what stands there, by path.
        paths: the scene's final names.
    """
    order, shown = history.shown()
    if set(shown) == {version}:
        there = {path: finals[path] for path in paths if path in finals}
        return None if fingerprint(there) in shown[version] else DIFFERENT
    return OTHER_SHOWN if order else NOT_PUBLISHED
