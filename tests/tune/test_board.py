"""What is said of a sweep under way: little, rightly, with the time left."""

import pytest
from sweep_material import LOSS, MAP, record

from satray.tune import board as module
from satray.tune.board import FAILURES, LAST_SECONDS, ROWS, Board, duration, table_lines
from satray.tune.records import ranked
from satray.tune.trials import trial_id


class Screen:
    """A clock and what was said."""

    def __init__(self) -> None:
        self.now = 100.0
        self.said: list[str] = []
        self.line = ""

    def board(self, planned: int, **more) -> Board:
        return Board(MAP, planned, self.said.append, self.show, clock=lambda: self.now, **more)

    def show(self, line: str) -> None:
        self.line = line


def test_the_line_says_where_the_sweep_stands() -> None:
    screen = Screen()
    board = screen.board(10)
    assert board.line() == "0 of 10 trials"
    screen.now += 20
    board.moved({"batch": 8}, 0.5, 0.4)
    # what came before the first sign of a trial was a start, and no pace
    assert screen.line == "0 of 10 trials (1 running)"
    assert board.seconds_left() is None
    screen.now += 20
    board.ended(record({"batch": 8}, 0.4, 0.5))
    # half a trial in 20 s: nine are left
    assert board.seconds_left() == pytest.approx(360)
    assert screen.line == "1 of 10 trials, best mAP 0.5000 by batch 8, 6 min left"
    board.ended(record({"batch": 9}, status="failed", reason="NaN"))
    board.ended(record({"batch": 10}, 0.7, status="stopped"))
    assert screen.line.startswith("3 of 10 trials (1 stopped, 1 failed), best mAP 0.7000")


def test_a_trial_may_only_move_and_never_end_before_its_time() -> None:
    screen = Screen()
    board = screen.board(2)
    board.moved({"batch": 8}, 0.0, 0.4)
    screen.now += 10
    board.moved({"batch": 8}, 1.7, 0.4)
    assert board.seconds_left() == pytest.approx(10)
    board.ended(record({"batch": 8}, 0.4))
    board.ended(record({"batch": 9}, 0.4))
    assert board.seconds_left() == 0


def test_heads_say_nothing_of_how_long_backbones_take() -> None:
    screen = Screen()
    heads, backbones = ([{"batch": n} for n in range(a, a + 4)] for a in (1, 101))
    kinds = {trial_id(one): "head" for one in heads}
    kinds |= {trial_id(one): "backbone" for one in backbones}
    earlier = [record(backbones[0], 0.2, regime="backbone")]
    board = screen.board(8, kinds=kinds, earlier=earlier)
    for one in heads:
        board.moved(one, 0.0, 0.4)
        screen.now += 1
        board.ended(record(one, 0.5))
        # three backbones are ahead, and none has moved in this attempt
        assert board.seconds_left() is None
        assert "left" not in screen.line
    screen.now += 500
    board.moved(backbones[1], 0.0, 0.1)
    assert board.seconds_left() is None
    screen.now += 100
    board.moved(backbones[1], 0.25, 0.1)
    assert board.seconds_left() == pytest.approx(1100)
    for one in backbones[1:]:
        board.ended(record(one, 0.1, regime="backbone"))
    assert board.seconds_left() == 0


def test_backbones_to_come_are_known_of_while_heads_run_at_their_pace() -> None:
    screen = Screen()
    kinds = {trial_id({"batch": n}): "head" for n in range(4)}
    board = screen.board(4, kinds=kinds)
    board.moved({"batch": 0}, 0.0, 0.4)
    screen.now += 8
    board.ended(record({"batch": 0}, 0.5))
    assert board.seconds_left() == pytest.approx(24)


def test_the_best_is_found_without_ranking_all_trials_again(monkeypatch) -> None:
    screen = Screen()
    board = screen.board(1000, earlier=[record({"batch": n}, n / 1000) for n in range(200)])
    sizes = []
    monkeypatch.setattr(
        module, "ranked", lambda ones, metric: sizes.append(len(ones)) or ranked(ones, metric)
    )
    for number in range(200, 300):
        board.moved({"batch": number}, 0.5, 0.1)
        board.ended(record({"batch": number}, number / 1000))
    assert max(sizes) == 2
    assert "best mAP 0.2990 by batch 299" in screen.line
    board.ended(record({"batch": 299}, status="failed", reason="x"))  # the best, taken back
    assert "(1 failed), best mAP 0.2980 by batch 298" in screen.line


def test_trials_of_an_earlier_attempt_count_but_not_for_the_pace() -> None:
    screen = Screen()
    board = screen.board(4, earlier=[record({"batch": 1}, 0.9), record({"batch": 2}, 0.1)])
    assert board.line() == "2 of 4 trials, best mAP 0.9000 by batch 1"
    board.moved({"batch": 3}, 0.0, 0.5)
    screen.now += 30
    board.ended(record({"batch": 3}, 0.5))
    assert board.seconds_left() == pytest.approx(30)
    assert len(board.records) == 3
    board.ended(record({"batch": 3}, 0.6))  # the same trial once more is no new one
    assert len(board.records) == 3


def test_tables_come_seldom_and_only_when_they_changed() -> None:
    screen = Screen()
    board = screen.board(10_000)
    times = []
    for number in range(4000):
        screen.now += 1
        before = len(screen.said)
        board.ended(record({"batch": number + 1}, number / 4000))
        if len(screen.said) > before:
            times.append(screen.now - 100)
    gaps = [b - a for a, b in zip([0.0, *times], times, strict=False)]
    assert gaps[:4] == [15, 30, 60, 120]
    assert max(gaps) == LAST_SECONDS
    quiet = len(screen.said)
    for number in range(4000, 5000):  # none of them is among the best
        screen.now += 1
        board.ended(record({"batch": number + 1}, 0.0))
    assert len(screen.said) == quiet + ROWS + 2  # once more, for what changed last
    assert len(times) < 20


def test_failures_are_told_a_few_times() -> None:
    screen = Screen()
    board = screen.board(100)
    for number in range(50):
        board.ended(record({"batch": number + 1}, status="failed", reason="out of memory"))
    assert len(screen.said) == FAILURES + 1
    assert "(batch 1) failed: out of memory" in screen.said[0]
    assert "leaderboard.parquet" in screen.said[-1]


def test_the_table_is_aligned_and_short() -> None:
    ones = [record({"variant": "single3" * (n % 3 + 1), "batch": n}, n / 40) for n in range(40)]
    lines = table_lines([*ones, record({"batch": 99}, status="failed", reason="x")], MAP)
    assert len(lines) == ROWS + 2
    assert lines[0].split() == ["mAP", "trial", "configuration", "best", "at", "seconds"]
    assert lines[1].split()[:2] == ["1", "0.9750"]
    assert len({line.index("0.") for line in lines[1 : ROWS + 1]}) == 1
    assert max(map(len, lines)) <= 100
    assert lines[-1] == "and 29 more: leaderboard.parquet"
    few = table_lines([record({"batch": 1}, 0.5, metric=LOSS, status="stopped"),
                       record({"batch": 2}, status="failed", reason="x")], LOSS)  # fmt: skip
    assert few[1].endswith("stopped")
    assert few[2].split()[1:3] == ["–", record({"batch": 2}).id]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.4, "0 s"), (89, "89 s"), (100, "2 min"), (5300, "88 min"), (7800, "2 h 10 min")],
)
def test_durations(seconds: float, said: str) -> None:
    assert duration(seconds) == said
