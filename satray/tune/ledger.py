"""What a sweep keeps of its trials while it runs: one small file each, so that none counts twice.

Only the driver writes here. A trial's record is written when it ended; one that began and has no
record goes on from its own checkpoint. No torch, no Ray.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from typing import Any

from satray.storage import Storage, join
from satray.tune.records import TrialRecord
from satray.tune.space import Configuration
from satray.tune.trials import trial_id

ENDED, BEGUN = "ledger/ended", "ledger/begun"
"""Folders below the run's state."""
TRIALS = "trials"
"""Folder below the run's state: checkpoints, one folder a trial."""


class Ledger:
    """Trials of a sweep that began, and records of those that ended."""

    def __init__(self, storage: Storage, state: str) -> None:
        self._storage = storage
        self._state = state

    def records(self) -> dict[str, TrialRecord]:
        """Trials that ended, by id."""
        found = {}
        for data in self._read(ENDED):
            try:
                record = TrialRecord.from_json(data)
            except ValueError:
                continue  # of another version: the trial is run again
            found[record.id] = record
        return found

    def begun(self) -> list[Configuration]:
        """Trials that began, in the order in which they did, ended or not."""
        found = [json.loads(data) for data in self._read(BEGUN)]
        return [each["configuration"] for each in sorted(found, key=lambda each: each["place"])]

    def begin(self, configuration: Mapping[str, Any], place: int) -> None:
        """A trial begins.

        Args:
            configuration: the trial's.
            place: 0 for the first of the sweep.
        """
        told = {"place": place, "configuration": dict(configuration)}
        self._write(BEGUN, trial_id(configuration), json.dumps(told).encode())

    def end(self, record: TrialRecord) -> None:
        """A trial ended."""
        self._write(ENDED, record.id, record.to_json())

    def give_up(self, trial: str) -> None:
        """Remove what a trial kept to go on from."""
        with contextlib.suppress(OSError):  # else it goes with the sweep's state
            self._storage.delete(trial_folder(self._state, trial))

    def _write(self, folder: str, name: str, data: bytes) -> None:
        self._storage.write(join(self._state, folder, f"{name}.json"), data)

    def _read(self, folder: str) -> list[bytes]:
        uris = [entry.uri for entry in self._storage.list(join(self._state, folder))]
        found = sorted(self._storage.read_many(uris), key=lambda one: one[0])
        for _, data in found:
            if isinstance(data, Exception):
                raise data
        return [data for _, data in found if isinstance(data, bytes)]


def trial_folder(state: str, trial: str) -> str:
    """Where a trial keeps what it needs to go on.

    Args:
        state: of the sweep's run.
        trial: its id.
    """
    return join(state, TRIALS, trial)
