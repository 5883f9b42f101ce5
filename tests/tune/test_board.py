"""What is said of a sweep under way: little, and rightly."""

from sweep_material import LOSS, MAP, record

from satray.storage import Storage
from satray.tune.board import FAILURES, PAUSE, ROWS, Board, table_lines
from satray.tune.records import TrialLog, trial_id


class Screen:
    """A board over a log, a clock, and what was said."""

    def __init__(self, folder, planned: int) -> None:
        self.now = 100.0
        self.said: list[str] = []
        self.line = ""
        board = Board(MAP, planned, self.said.append, self.show, clock=lambda: self.now)
        self.log = TrialLog(Storage(), str(folder), MAP, board.show)

    def show(self, line: str) -> None:
        self.line = line

    def end(self, batch: int, *values: float, status="done") -> None:
        """A trial from beginning to end."""
        trial = trial_id({"batch": batch})
        self.log.begin({"batch": batch}, "head", 0)
        self.log.evaluated(trial, record({}, *values).curve, [1.0] * len(values))
        self.log.end(trial, status, None if status == "done" else "no memory")


def test_the_line_says_where_the_sweep_stands(tmp_path) -> None:
    screen = Screen(tmp_path, 10)
    screen.log.begin({"batch": 8}, "head", 0)
    screen.log.evaluated(trial_id({"batch": 8}), [], [])
    assert screen.line == "0 of 10 trials (1 running)"
    screen.end(9, 0.4, 0.5)
    assert screen.line == "1 of 10 trials (1 running), best mAP 0.5000 by batch 9"
    screen.end(10, status="failed")
    screen.end(11, 0.7, status="stopped")
    assert screen.line.startswith("3 of 10 trials (1 running, 1 stopped, 1 failed), best mAP 0.7")
    again = Screen(tmp_path, 10)  # what an earlier attempt ended counts
    again.log.begin({"batch": 8}, "head", 0)
    again.log.evaluated(trial_id({"batch": 8}), [], [])
    assert again.line.startswith("3 of 10 trials (1 running, 1 stopped, 1 failed), best mAP 0.7")


def test_tables_come_seldom_and_only_when_they_changed(tmp_path) -> None:
    screen = Screen(tmp_path, 100)

    def tables() -> int:
        return sum("configuration" in line for line in screen.said)

    for number in range(30):
        screen.now += PAUSE / 6
        screen.end(number + 1, number / 40)
    assert tables() == 5
    for number in range(30, 50):  # none of them is among the best
        screen.now += PAUSE / 6
        screen.end(number + 1, 0.0)
    assert tables() == 5


def test_failures_are_told_a_few_times(tmp_path) -> None:
    screen = Screen(tmp_path, 100)
    for number in range(20):
        screen.end(number + 1, status="failed")
    assert len(screen.said) == FAILURES + 1
    assert "(batch 1) failed: no memory" in screen.said[0]
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
