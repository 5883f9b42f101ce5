"""What was done to which scene, kept in the output's storage: each scene once, whoever runs.

    ledger/runs/RUN                        a run's sign of life, written again and again
    ledger/SCENE/VERSION/0001              attempt 1 is claimed: its scoring has begun
                         0001.failed-RUN   it failed; `final-RUN`: for good
                         0001.released     its owner gave it back unharmed
                         done              the commit: the attempt and its products
                         done.told-RUN-DIGEST  it is in the tables of RUN, and so looked its files
                         done.from-RUN     another run has it, since RUN was cut short

But for the signs of life, everything is created only if absent and never updated, so that any
number of schedules may run at once. VERSION is the scene's etag and a digest of model and settings:
a scene that its provider overwrites, and a new model, make a new version; so does, as `VERSION.2`,
a commit whose products are found lost or replaced.

A run's processes share its claims: scoring begins with the claim, products go to the names that
people read, each after a look whether the claim stands, and `done` is the one point of commit. Who
finds `done` by its own run has nothing to do again. An owner who was given up and wakes between
that look and its write may replace a file: the next run finds that it is not what was told, and has
the scene scored again.

Readers: the final names; `done` with its digests for those who must be sure.
"""

from satray.scoring.ledger.growing import Seen, changed, too_young
from satray.scoring.ledger.heartbeat import Heartbeat
from satray.scoring.ledger.ledger import Claim, Ledger, View, list_finals
from satray.scoring.ledger.marks import (
    History,
    Key,
    Mark,
    State,
    config_of,
    key_of,
    safe_part,
    state_of,
)
from satray.scoring.ledger.passes import Pass, Recovered, Task, plan_pass, recover, unneeded

__all__ = [
    "Claim",
    "Heartbeat",
    "History",
    "Key",
    "Ledger",
    "Mark",
    "Pass",
    "Recovered",
    "Seen",
    "State",
    "Task",
    "View",
    "changed",
    "config_of",
    "key_of",
    "list_finals",
    "plan_pass",
    "recover",
    "safe_part",
    "state_of",
    "too_young",
    "unneeded",
]
