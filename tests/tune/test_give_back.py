"""What stopped trainings leave reserved is given back, on a real Ray."""

import time

import pytest

pytestmark = pytest.mark.pipeline


def test_placement_groups_of_this_job_are_removed(ray_session) -> None:
    import ray
    from ray.util import placement_group, placement_group_table

    from satray.train.ray_train import give_back

    before = ray.available_resources().get("CPU", 0)
    left = placement_group([{"CPU": 1}])
    assert left.wait(60)
    give_back()
    until = time.monotonic() + 30
    while ray.available_resources().get("CPU", 0) < before and time.monotonic() < until:
        time.sleep(0.1)
    assert ray.available_resources().get("CPU", 0) >= before
    assert placement_group_table(left)["state"] == "REMOVED"
    give_back()  # nothing is left: no error
