"""What marks mean, purely."""

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st
from scoring.ledger.memory_store import START

from satray.scoring.ledger import State, state_of
from satray.scoring.ledger.marks import Mark, parse

LEASE = 100.0
NAMES = st.sampled_from(
    [
        *("0001", "0001.failed-a", "0001.final-a", "0001.released"),
        *("0002", "0002.failed-b", "0002.final-b", "0002.released"),
        *("0003", "0003.failed-a"),
        *("done", "done.told-a-0123456789abcdef", "done.from-a"),
    ]
)
MARKS = st.lists(st.tuples(NAMES, st.integers(0, 500)), unique_by=lambda one: one[0])


def at(seconds):
    return START + timedelta(seconds=seconds)


def mark(name, seconds=0) -> Mark:
    found = parse(name, at(seconds))
    assert found is not None
    return found


def judge(*named, now=0.0, most=3):
    return state_of([mark(*one) for one in named], at(now), LEASE, most)


def test_a_life():
    assert judge() == State("new")
    assert judge(("0001", 0), now=99).status == "claimed"
    assert judge(("0001", 0), now=100).status == "expired"
    assert judge(("0001", 0), ("0002", 200), now=250) == State("claimed", 2)
    assert judge(("0001", 0), ("0001.failed-a", 5), now=6) == State("failed", 1)
    assert judge(("0001", 0), ("0001.final-a", 5), now=6) == State("failed", 1, final=True)
    assert judge(("0001", 0), ("0002", 200), ("done", 210), now=999) == State("done", 2)


def test_attempts_end():
    tries = [("0001", 0), ("0001.failed-a", 1), ("0002", 2), ("0003", 200)]
    assert judge(*tries, now=250).status == "claimed"  # the last one may still make it
    assert judge(*tries, now=300) == State("failed", 3, final=True)
    assert judge(*tries, now=300, most=4) == State("expired", 3)
    assert judge(*tries, ("0003.failed-a", 210), now=211).final
    assert judge(*tries, ("0001.released", 1), now=300) == State("expired", 3)


def test_a_late_end_of_an_earlier_attempt_does_not_count():
    assert judge(("0001", 0), ("0002", 200), ("0001.final-a", 205), now=210).status == "claimed"


def test_given_back_is_open_at_once():
    state = judge(("0001", 0), ("0001.released", 1), now=2, most=1)
    assert state == State("expired", 1)
    assert state.open
    left = [Mark("left", 1, at(0)), Mark("left", 2, at(0))]  # runs that ended, and said so
    assert state_of(left, at(1), LEASE, 1) == State("expired", 2)


@given(MARKS, st.integers(0, 1000), st.randoms())
def test_order_of_marks_is_nothing(named, now, random):
    marks = [mark(*one) for one in named]
    before = state_of(marks, at(now), LEASE, 3)
    random.shuffle(marks)
    assert state_of(marks, at(now), LEASE, 3) == before


@given(MARKS, st.integers(0, 1000), st.integers(0, 1000))
def test_what_is_open_stays_open_while_nobody_acts(named, now, later):
    marks = [mark(*one) for one in named]
    before = state_of(marks, at(now), LEASE, 3)
    after = state_of(marks, at(now + later), LEASE, 3)
    assert not before.open or after.open
    assert before.attempts == after.attempts


@given(MARKS, st.integers(0, 1000))
def test_commit_decides_and_who_told_of_it_does_not(named, now):
    marks = [mark(*one) for one in named]
    assert state_of([*marks, mark("done")], at(now), LEASE, 3).status == "done"
    bare = [one for one in marks if one.kind not in ("told", "from")]
    assert state_of(bare, at(now), LEASE, 3) == state_of(marks, at(now), LEASE, 3)


@given(MARKS, st.integers(0, 1000), st.integers(1, 5))
def test_the_next_attempt_is_claimed_only_where_it_may_be(named, now, most):
    marks = [mark(*one) for one in named]
    state = state_of(marks, at(now), LEASE, most)
    if state.open:
        claims = [one for one in marks if one.kind not in ("done", "told", "from")]
        assert all(one.number <= state.attempts for one in claims)
        signs = [one for one in claims if one.number == state.attempts]
        ended = any(one.kind in ("failed", "released") for one in signs)
        silent = all((at(now) - one.modified).total_seconds() >= LEASE for one in signs)
        assert ended or silent
        assert state.attempts - sum(one.kind == "released" for one in marks) < most
