"""What was done to which scene, kept in the output's storage: each scene once, whoever runs.

    ledger/SCENE/VERSION/0001                     attempt 1 is claimed
                         0001.alive-0001          its owner gives a sign of life
                         0001.failed | 0001.final it failed; for good
                         0001.released            its owner gave it back unharmed
                         done                     the commit: names the attempt and its products
                         published-0001-DIGEST    they stand under their final names
    attempts/SCENE/VERSION/0001-TOKEN/...         products of one attempt

Everything is created only if absent and never updated, so that any number of schedules may run at
once. VERSION is the scene's etag and a digest of model and settings: a scene that its provider
overwrites, and a new model, make a new version. `done` is the one point of commit: an attempt's
products are written beside those of any other, and reach the names that people read
(`cam/SCENE.tif`) only by being copied from the attempt that `done` names. So an owner who was given
up and wakes can neither replace the products of the attempt after it nor mix with them. Whoever
finds final names that are missing or differ from what was published copies them again.

Readers: the final names; `done` with its digests for those who must be sure.
"""

from satray.scoring.ledger.claims import Claim, Ledger
from satray.scoring.ledger.commits import Done, Staged, commit, discard, read_done, stage
from satray.scoring.ledger.growing import Seen, changed, too_young
from satray.scoring.ledger.heartbeat import Heartbeat
from satray.scoring.ledger.listing import View, look
from satray.scoring.ledger.marks import Key, config_of, key_of, safe_part
from satray.scoring.ledger.passes import Pass, Task, plan_pass
from satray.scoring.ledger.publish import publish
from satray.scoring.ledger.settled import list_finals
from satray.scoring.ledger.states import State, state_of

__all__ = [
    "Claim",
    "Done",
    "Heartbeat",
    "Key",
    "Ledger",
    "Pass",
    "Seen",
    "Staged",
    "State",
    "Task",
    "View",
    "changed",
    "commit",
    "config_of",
    "discard",
    "key_of",
    "list_finals",
    "look",
    "plan_pass",
    "publish",
    "read_done",
    "safe_part",
    "stage",
    "state_of",
    "too_young",
]
