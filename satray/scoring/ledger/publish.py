"""From a commit to the names that people read.

Publishing copies what `done` names, so two who publish one version write the same bytes. Versions
of a scene differ: of these the one taken up last wins over an owner that lags, and the version that
a run finds wanted (`plan_pass`) over any other. A final name never holds what was not committed.
"""

import contextlib

from satray.errors import InputError, SatrayError
from satray.scoring.ledger.claims import Claim, Ledger
from satray.scoring.ledger.commits import ATTEMPTS, Done, Staged, read_done
from satray.scoring.ledger.copying import copy_checked, digest_at
from satray.scoring.ledger.marks import History, Key
from satray.scoring.ledger.settled import fingerprint, unsettled
from satray.storage import Entry, join

ROUNDS = 5
"""Times that a publisher starts again when others write the same names."""


def publish(ledger: Ledger, key: Key, claim: Claim | None = None) -> bool:
    """Bring the products of a committed version to their final names, and say so in the ledger.

    Args:
        ledger: the ledger.
        key: the version.
        claim: of the owner that has just committed it, who may lag behind newer versions; None for
            a run that has found this version to be the scene's (`plan_pass`).

    Returns:
        Whether the final names hold this version; where not, a newer one's or, with others at the
        same names, nobody knows: the next pass looks again.

    Raises:
        SatrayError: the store failed, or products of the commit are lost.
    """
    history = ledger.history(key.scene)
    if claim is None:
        paths = ledger.final_paths(key.scene)
        if unsettled(history, key.version, _described(ledger, paths), paths) is None:
            return True  # another did it since the listing
    elif _newer(history, key.version, claim.attempt) is not None:
        return False
    wanted, attempt = key, claim.attempt if claim else None
    for _ in range(ROUNDS):
        done = read_done(ledger, wanted)
        _remove_others(ledger, wanted, done, history)
        for product in done.products:
            _copy(ledger, wanted, product)
        history = ledger.history(key.scene)
        newer = _newer(history, wanted.version, attempt) if claim is not None else None
        if newer is not None:  # committed meanwhile: our copies may have replaced its files
            wanted, attempt = Key(key.scene, newer), None
            continue
        finals = _stands(ledger, wanted, done, sure=len(history.versions) > 1)
        if finals is None:
            continue
        order = history.shown()[0] + 1
        mark = f"published-{order:04}-{fingerprint(finals)}"
        ledger.create(wanted, mark, None, {"committed": done.attempt})
        _tidy(ledger, wanted, done)
        return wanted == key
    return False


def _newer(history: History, version: str, attempt: int | None) -> str | None:
    """The committed version that was taken up last, where that was after this one (or attempt)."""
    mine = history.taken_up(version, attempt)
    others = [
        (when, other)
        for other in history.versions
        if other != version
        and history.is_done(other)
        and (when := history.taken_up(other)) is not None
        and (mine is None or when > mine)
    ]
    return max(others)[1] if others else None


def _copy(ledger: Ledger, key: Key, product: Staged) -> None:
    """Copy one product, unless it is lost and its final name holds it already."""
    if product.final is None:
        return
    source, target = join(ledger.out, product.staged), join(ledger.out, product.final)
    if copy_checked(ledger.storage, source, target, product.bytes, product.sha256):
        return
    if digest_at(ledger.storage, target, product.bytes) != product.sha256:
        raise SatrayError(
            f"{source}: lost or changed, and {target} is not it; delete "
            f"{join(ledger.root, key.path)} to score the scene again"
        )


def _stands(ledger: Ledger, key: Key, done: Done, *, sure: bool) -> dict[str, Entry] | None:
    """Describe what stands under the scene's final names.

    Args:
        ledger: the ledger.
        key: the version that was copied.
        done: its commit.
        sure: read the files back, since an owner of another version may write here too.

    Returns:
        Entries by path; None where the files are not this version's.
    """
    found = _described(ledger, ledger.final_paths(key.scene))
    for product in done.products:
        if product.final is None:
            continue
        entry = found.get(product.final)
        if entry is None or entry.size != product.bytes:
            return None
        if sure and digest_at(ledger.storage, entry.uri, product.bytes) != product.sha256:
            return None
    if sure and found != _described(ledger, found):
        return None
    return found


def _described(ledger: Ledger, paths: "tuple[str, ...] | dict[str, Entry]") -> dict[str, Entry]:
    places = {path: join(ledger.out, path) for path in paths}
    storage = ledger.storage
    return {path: storage.head(place) for path, place in places.items() if storage.exists(place)}


def _remove_others(ledger: Ledger, key: Key, done: Done, history: History) -> None:
    """Remove final files of the version that stood there, where this one has none of that name."""
    mine = {product.final for product in done.products}
    for version in history.shown()[1]:
        if version == key.version:
            continue
        try:
            other = read_done(ledger, Key(key.scene, version))
        except InputError:  # its commit was taken away by hand
            continue
        for product in other.products:
            if product.final is not None and product.final not in mine:
                ledger.storage.delete(join(ledger.out, product.final))


def _tidy(ledger: Ledger, key: Key, done: Done) -> None:
    """Remove what attempts left behind that can no longer become the scene's, as far as one can."""
    if done.attempt == 1:
        return
    folder = join(ledger.out, ATTEMPTS, key.path)
    kept = f"{done.attempt:04}-{done.token[:12]}"
    with contextlib.suppress(SatrayError):  # an owner may be writing there: it removes its own
        for name in {entry.key.partition("/")[0] for entry in ledger.storage.list(folder)}:
            if name != kept:
                ledger.storage.delete(join(folder, name))
