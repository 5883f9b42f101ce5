"""What Ray's trainer is started with."""

import pytest
from ray.train import ScalingConfig
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

from satray import cluster
from satray.train.workers import trainer


@pytest.mark.parametrize("dashboard", [False, True])
def test_the_cleaner_of_placement_groups_runs_where_it_can_ask(dashboard, monkeypatch):
    monkeypatch.setattr(cluster, "has_dashboard", lambda: dashboard)
    made = trainer._Trainer(print, scaling_config=ScalingConfig(num_workers=1))
    callbacks = made._create_default_callbacks()
    assert any(isinstance(one, PlacementGroupCleanerCallback) for one in callbacks) is dashboard
    assert len(callbacks) > 2
