"""The ledger in a real S3 server."""

import pytest
from scoring.ledger.ledger_material import Scene, do_pass, make_ledger, owner_of

from satray.scoring.ledger import list_finals, look, plan_pass, read_done
from satray.scoring.ledger.marks import NOTHING
from satray.storage import Storage

pytestmark = pytest.mark.s3


def test_a_schedule_in_a_bucket(s3):
    bucket = s3.bucket("ledger")
    ledger = make_ledger(Storage(), f"{bucket}/out")
    scenes = [Scene("a/ü b.tif"), Scene("c.tif")]

    def scored(found=scenes):
        return [(claim.key.scene, claim.attempt) for claim in do_pass(ledger, found)]

    def repairs(found=scenes):
        return plan_pass(found, look(ledger), ledger, list_finals(ledger)).repair

    ends = iter(["done", "failed"])
    first = do_pass(ledger, scenes, outcome=lambda claim: next(ends))
    assert [claim.key.scene for claim in first] == ["a/ü b.tif"]
    assert scored() == [("c.tif", 2)]
    assert scored() == []
    assert not repairs()

    view = look(ledger)
    for claim in first:
        assert view.is_done(claim.key)
        assert ledger.claim(claim.key, NOTHING, view.now) is None  # the store says: it is taken
    s3.client().put_object(
        Bucket=bucket.removeprefix("s3://"), Key="out/items/c.tif.json", Body=b"touched"
    )
    s3.client().delete_object(Bucket=bucket.removeprefix("s3://"), Key="out/cam/c.tif.tif")
    (key,) = repairs()
    assert scored() == []
    assert not repairs()
    token = read_done(ledger, key).token
    for final in ("cam/c.tif.tif", "items/c.tif.json"):
        assert owner_of(ledger.storage.read(f"{bucket}/out/{final}"))[2] == token
