"""From staged products over the commit to final names."""

import hashlib
import json

import pytest
from scoring.ledger.ledger_material import (
    CONFIG,
    OUT,
    Scene,
    do_pass,
    make_ledger,
    owner_of,
    products,
)
from scoring.ledger.memory_store import MemoryStore

from satray.errors import InputError, SatrayError
from satray.scoring.ledger import (
    commit,
    discard,
    key_of,
    list_finals,
    look,
    plan_pass,
    publish,
    read_done,
    stage,
)
from satray.scoring.ledger import copying as copies

SCENE = Scene("a/b.tif")
CAM, ITEM = f"{OUT}/cam/a/b.tif.tif", f"{OUT}/items/a/b.tif.json"


@pytest.fixture
def store():
    return MemoryStore()


@pytest.fixture
def ledger(store):
    return make_ledger(store)


def take(ledger, scene=SCENE):
    view = look(ledger)
    (task,) = plan_pass([scene], view, ledger, {}, settle=0).todo
    return ledger.claim(task.key, task.history, task.looked)


def staged(ledger, claim):
    return [stage(ledger, claim, data, final) for final, data in products(ledger, claim).items()]


def repairs(ledger, *scenes):
    return dict(plan_pass(scenes or [SCENE], look(ledger), ledger, list_finals(ledger)).repair)


def test_a_commit_and_its_final_names(ledger, store, tmp_path):
    claim = take(ledger)
    (tmp_path / "cam.tif").write_bytes(b"map")
    ready = [
        stage(ledger, claim, tmp_path / "cam.tif", "cam/a/b.tif.tif"),
        stage(ledger, claim, b"rows", None, name="tiles.parquet", rows=7),
        stage(ledger, claim, b"{}", "items/a/b.tif.json"),
    ]
    assert CAM not in store.objects
    assert commit(ledger, claim, ready, counts={"tiles": 7}, seconds={"forward": 1.5})
    assert CAM not in store.objects
    assert publish(ledger, claim.key, claim)
    assert (store.read(CAM), store.read(ITEM)) == (b"map", b"{}")
    done = read_done(ledger, claim.key)
    assert (done.attempt, done.token, done.run_id) == (1, claim.token, "run")
    assert (done.counts, done.seconds) == ({"tiles": 7}, {"forward": 1.5})
    assert list(done.products) == ready
    assert ready[0].sha256 == hashlib.sha256(b"map").hexdigest()
    assert ready[1].rows == 7
    assert store.read(f"{OUT}/{ready[1].staged}") == b"rows"
    assert repairs(ledger) == {}


def test_the_second_to_commit_is_told_so(ledger, store):
    slow = take(ledger)
    store.pass_time(100)
    quick = take(ledger)
    theirs, ours = staged(ledger, slow), staged(ledger, quick)
    assert commit(ledger, quick, ours)
    assert publish(ledger, quick.key, quick)
    assert not commit(ledger, slow, theirs)
    discard(ledger, slow)
    assert publish(ledger, slow.key, slow)  # what it publishes is the other's
    assert owner_of(store.read(CAM)) == (quick.key.version, 2, quick.token)
    assert owner_of(store.read(ITEM)) == (quick.key.version, 2, quick.token)
    left = {uri.split("/")[-2] for uri in store.objects if "/attempts/" in uri}
    assert left == {f"0002-{quick.token[:12]}"}


def test_the_slow_owner_may_be_first_to_commit(ledger, store):
    slow = take(ledger)
    store.pass_time(100)
    quick = take(ledger)
    assert commit(ledger, slow, staged(ledger, slow))
    assert not commit(ledger, quick, staged(ledger, quick))
    assert publish(ledger, quick.key, quick)
    assert owner_of(store.read(CAM))[1] == 1


def test_a_commit_whose_answer_was_lost_is_ours(ledger, store):
    claim = take(ledger)
    ready = staged(ledger, claim)
    store.gate = lambda request, uri: "lost answer" if request == "create" else None
    assert commit(ledger, claim, ready)


def test_a_commit_without_publication_is_repaired(ledger, store):
    claim = take(ledger)
    commit(ledger, claim, staged(ledger, claim))
    ((key, why),) = repairs(ledger).items()
    assert why == "committed, but not published"
    assert publish(ledger, key)
    assert owner_of(store.read(CAM))[2] == claim.token
    assert repairs(ledger) == {}


@pytest.mark.parametrize("harm", ["gone", "other", "new"])
def test_final_files_that_were_touched_are_repaired(ledger, store, harm):
    do_pass(ledger, [SCENE])
    before = store.read(CAM)
    if harm == "gone":
        store.delete(CAM)
    else:
        store.write(CAM, b"x" * (len(before) + (harm == "new")))
    ((key, why),) = repairs(ledger).items()
    assert "missing, or not those" in why
    assert publish(ledger, key)
    assert store.read(CAM) == before
    assert repairs(ledger) == {}


def test_repairing_what_another_repaired_copies_nothing(ledger, store):
    do_pass(ledger, [SCENE])
    store.delete(CAM)
    (key,) = repairs(ledger)
    assert publish(ledger, key)
    store.requests.clear()
    assert publish(ledger, key)
    assert {request for request, _ in store.requests} <= {"list", "head", "exists"}


def test_a_scene_that_its_provider_overwrites(ledger, store):
    (first,) = do_pass(ledger, [SCENE])
    store.pass_time(5)
    changed = Scene(SCENE.scene, etag="e2")
    (second,) = do_pass(ledger, [changed])
    assert owner_of(store.read(ITEM))[2] == second.token
    assert repairs(ledger, changed) == {}
    back = repairs(ledger, SCENE)  # its provider takes the change back: nothing is scored again
    assert back == {first.key: "another version was published after it"}
    assert do_pass(ledger, [SCENE]) == []
    assert owner_of(store.read(ITEM))[2] == first.token
    assert owner_of(store.read(CAM))[2] == first.token


def test_an_owner_of_an_older_version_yields(ledger, store):
    slow = take(ledger)
    commit(ledger, slow, staged(ledger, slow))
    store.pass_time(5)
    (quick,) = do_pass(ledger, [Scene(SCENE.scene, etag="e2")])
    assert not publish(ledger, slow.key, slow)
    assert owner_of(store.read(CAM))[2] == quick.token


def test_files_of_another_version_between_copy_and_look(ledger, store):
    """A lagging owner that writes at the worst moment, and dies there."""
    do_pass(ledger, [SCENE])
    theirs = {place: store.objects[place] for place in (CAM, ITEM)}
    writes = []

    def lag(request, uri):
        if request == "write" and uri == ITEM:
            writes.append(uri)
        elif request == "exists" and uri == ITEM and len(writes) == 1:
            store.objects.update(theirs)

    store.gate = lag
    changed = Scene(SCENE.scene, etag="e2")
    (claim,) = do_pass(ledger, [changed])
    assert len(writes) == 2
    assert {owner_of(store.read(place))[2] for place in (CAM, ITEM)} == {claim.token}
    assert repairs(ledger, changed) == {}


def test_files_that_others_write_all_the_time_are_left_to_the_next_pass(ledger, store):
    do_pass(ledger, [SCENE])
    theirs = {place: store.objects[place] for place in (CAM, ITEM)}

    def fight(request, uri):
        if request == "exists" and uri == ITEM:
            store.objects.update(theirs)

    store.gate = fight
    changed = Scene(SCENE.scene, etag="e2")
    do_pass(ledger, [changed])
    store.gate = lambda request, uri: None
    assert list(repairs(ledger, changed).values()) == ["another version was published after it"]
    do_pass(ledger, [changed])
    assert repairs(ledger, changed) == {}


def test_a_new_model_scores_again_and_leaves_no_files_of_the_old(store):
    old = make_ledger(store, finals=("cam/{scene}__rgb.tif", "items/{scene}.json"))
    claim = take(old)
    commit(
        old,
        claim,
        [
            stage(old, claim, b"rgb", "cam/a/b.tif__rgb.tif"),
            stage(old, claim, b"old", "items/a/b.tif.json"),
        ],
    )
    assert publish(old, claim.key, claim)
    store.pass_time(5)
    new = make_ledger(store, config="0123456789ab")
    (scored,) = do_pass(new, [SCENE])
    assert scored.key.version.endswith(".0123456789ab")
    assert sorted(list_finals(new)) == ["cam/a/b.tif.tif", "items/a/b.tif.json"]


def test_staged_files_may_be_swept_while_the_final_ones_stand(ledger, store):
    (claim,) = do_pass(ledger, [SCENE])
    store.delete(f"{OUT}/attempts")
    assert repairs(ledger) == {}
    data = store.read(CAM)
    store.write(CAM, data[:-1] + b" ")
    with pytest.raises(SatrayError, match=r"lost or changed, and .* is not it; delete .*/ledger/"):
        publish(ledger, claim.key)
    store.write(CAM, data)
    assert publish(ledger, claim.key)
    store.delete(f"{OUT}/ledger/a%2Fb.tif")
    assert len(do_pass(ledger, [SCENE])) == 1


def test_a_staged_file_that_changed_is_not_published(ledger, store):
    claim = take(ledger)
    ready = staged(ledger, claim)
    commit(ledger, claim, ready)
    store.write(f"{OUT}/{ready[0].staged}", b"other")
    with pytest.raises(SatrayError, match="lost or changed"):
        publish(ledger, claim.key, claim)
    assert CAM not in store.objects


def test_big_products_pass_through_a_file(ledger, store, monkeypatch):
    monkeypatch.setattr(copies, "IN_MEMORY", 8)
    do_pass(ledger, [SCENE])
    do_pass(ledger, [Scene(SCENE.scene, etag="e2")])  # with files read back
    assert repairs(ledger, Scene(SCENE.scene, etag="e2")) == {}
    assert owner_of(store.read(CAM))[0].startswith("e2.")


@pytest.mark.parametrize("final", ["cam/other.tif.tif", "../x", "cam/a/b.tif.tif/../../x", "/x"])
def test_final_names_of_others_are_refused(ledger, final):
    with pytest.raises(ValueError, match="no final name of"):
        stage(ledger, take(ledger), b"", final)


@pytest.mark.parametrize("name", ["", "a/b", ".x", None])
def test_products_have_names(ledger, name):
    with pytest.raises(ValueError, match="names no product"):
        stage(ledger, take(ledger), b"", None, name=name)


def test_two_products_of_one_name(ledger):
    claim = take(ledger)
    same = [stage(ledger, claim, b"", None, name="x") for _ in range(2)]
    with pytest.raises(ValueError, match="same name"):
        commit(ledger, claim, same)


@pytest.mark.parametrize(
    "change",
    [
        lambda tree: tree.pop("products"),
        lambda tree: tree["products"][0].update(final="../../etc/passwd"),
        lambda tree: tree["products"][0].update(staged="/etc/passwd"),
        lambda tree: tree["products"][0].update(final=3),
        lambda tree: tree["products"][0].update(more=3),
    ],
)
def test_commits_that_satray_did_not_write(ledger, store, change):
    do_pass(ledger, [SCENE])
    key = key_of(SCENE.scene, SCENE.etag, CONFIG)
    place = ledger.uri(key, "done")
    tree = json.loads(store.read(place))
    change(tree)
    store.write(place, json.dumps(tree).encode())
    store.delete(CAM)
    with pytest.raises(InputError, match="not a commit that satray wrote"):
        publish(ledger, key)
    store.write(place, b"[]")
    with pytest.raises(InputError, match="not a mark that satray wrote"):
        publish(ledger, key)
