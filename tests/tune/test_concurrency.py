import pytest
from hypothesis import given
from hypothesis import strategies as st

from satray.tune.concurrency import Available, Demand, backbones_at_once, heads_at_once

SMALL = Available(cpus=4, gpus=0, nodes=1, cores=2)
"""Two cores, of which Ray is told four."""


def test_heads_are_as_many_as_cores_on_one_machine_and_as_cpus_on_many() -> None:
    assert heads_at_once(SMALL) == 2
    assert heads_at_once(Available(cpus=64, gpus=8, nodes=4, cores=16)) == 64
    assert heads_at_once(SMALL, wanted=1) == 1
    assert heads_at_once(SMALL, wanted=9) == 2
    assert heads_at_once(Available(cpus=0, gpus=0, nodes=1, cores=2)) == 1  # a head alone, so far


@pytest.mark.parametrize(
    ("hands", "demand", "fitting"),
    [
        (SMALL, Demand(1, gpu=False), 1),
        (Available(cpus=32, gpus=0, nodes=1, cores=32), Demand(1, gpu=False), 1),
        (Available(cpus=128, gpus=0, nodes=4, cores=32), Demand(1, gpu=False), 4),
        (Available(cpus=128, gpus=0, nodes=4, cores=32), Demand(2, gpu=False), 2),
        (Available(cpus=16, gpus=1, nodes=1, cores=16), Demand(1, gpu=True), 1),
        (Available(cpus=16, gpus=1, nodes=1, cores=16), Demand(1, gpu=True, gpu_share=0.5), 2),
        (Available(cpus=16, gpus=1, nodes=1, cores=16), Demand(1, gpu=True, gpu_share=1 / 3), 3),
        (Available(cpus=64, gpus=8, nodes=1, cores=64), Demand(1, gpu=True), 8),
        (Available(cpus=64, gpus=8, nodes=1, cores=64), Demand(4, gpu=True), 2),
        # 0.4 fits twice into a GPU, though 2.5 times by arithmetic: a share never spans two
        (Available(cpus=64, gpus=2, nodes=1, cores=64), Demand(1, gpu=True, gpu_share=0.4), 4),
        # the CPUs are what is short: 9 hold 3 workers with two streams of tiles each
        (Available(cpus=9, gpus=8, nodes=1, cores=9), Demand(1, gpu=True), 3),
    ],
)
def test_backbones_are_as_many_as_gpus_and_cpus_hold(
    hands: Available, demand: Demand, fitting: int
) -> None:
    assert backbones_at_once(hands, demand) == fitting
    assert backbones_at_once(hands, demand, wanted=fitting + 5) == fitting
    assert backbones_at_once(hands, demand, wanted=1) == 1


@given(
    cpus=st.integers(1, 512),
    gpus=st.integers(0, 64),
    nodes=st.integers(1, 16),
    workers=st.integers(1, 8),
    share=st.sampled_from([1.0, 0.5, 0.34, 0.25, 0.1]),
)
def test_no_stream_of_tiles_is_ever_left_without_a_cpu(cpus, gpus, nodes, workers, share) -> None:
    hands = Available(cpus, gpus, nodes, cores=cpus)
    found = backbones_at_once(hands, Demand(workers, gpus > 0, share))
    assert found >= 1
    if found > 1:  # one alone is refused elsewhere, where it can never be met
        streams = 2 * found
        assert (cpus - found * workers) // streams >= 1
        if gpus:
            assert found * workers * share <= gpus + 1e-6
