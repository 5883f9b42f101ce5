"""The ledger in a real S3 server."""

import pytest
from scoring.ledger.ledger_material import Scene, do_pass, make_ledger, owner_of, plan

from satray.scoring.ledger.marks import NOTHING
from satray.storage import Storage

pytestmark = pytest.mark.s3


def test_a_schedule_in_a_bucket(swift):
    bucket = swift.bucket("ledger")
    scenes = [Scene("a/ü b.tif"), Scene("c.tif")]

    def ledger():
        return make_ledger(Storage(), f"{bucket}/out")

    def scored():
        return [(claim.key.scene, claim.attempt) for claim in do_pass(ledger(), scenes)]

    ends = iter(["done", "failed"])
    first = do_pass(ledger(), scenes, outcome=lambda claim: next(ends))
    assert [claim.key.scene for claim in first] == ["a/ü b.tif"]
    assert scored() == [("c.tif", 2)]
    assert scored() == []

    view = ledger().look()
    for claim in first:
        assert view.history(claim.key.scene).is_done(claim.key.version)
        assert ledger().claim(claim.key, NOTHING, view.now) is None  # the store says: it is taken
    swift.client().put_object(
        Bucket=bucket.removeprefix("s3://"), Key="out/items/c.tif.json", Body=b"touched"
    )
    swift.client().delete_object(Bucket=bucket.removeprefix("s3://"), Key="out/cam/c.tif.tif")
    last = ledger()
    assert [claim.key.scene for claim in do_pass(last, scenes)] == ["c.tif"]
    found = plan(ledger(), scenes)
    assert not (found.todo)
    assert not (found.doubtful)
    for final in ("cam/c.tif.tif", "items/c.tif.json"):
        assert owner_of(last.storage.read(f"{bucket}/out/{final}"))[2] == last.run_id
