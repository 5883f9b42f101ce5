"""What is said of windows against tiles."""

from dataclasses import asdict

from satray.scoring.dense.compare import Agreement
from satray.scoring.maps.agreement import lines


def figures(*ranks):
    return tuple(
        asdict(Agreement(f"c{n}", 64, rank, 0.1 * n, 1.0, 0.9)) for n, rank in enumerate(ranks)
    )


def test_the_classes_that_differ_most_come_first():
    said = lines(figures(0.99, 0.98, 0.97, 0.96))
    assert [line.split(": ")[1] for line in said] == ["c3", "c2", "c1"]


def test_a_bundle_on_which_they_differ_has_advice():
    assert "mode=tiles" in lines(figures(0.95, 0.7, None, 0.6))[-1]
    assert not any("mode=tiles" in line for line in lines(figures(None)))
    assert lines(()) == []
