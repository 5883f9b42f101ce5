"""cluster.yaml is what Ray accepts, and what the design asks for."""

import copy
import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "cluster.yaml").read_text()


@pytest.fixture
def config():
    return yaml.safe_load(TEXT)


@pytest.fixture(scope="module")
def schema():
    import ray.autoscaler

    return json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())


def test_follows_rays_schema(config, schema):
    assert [error.message for error in jsonschema.Draft7Validator(schema).iter_errors(config)] == []


def test_schema_would_tell_a_misspelt_key(config, schema):
    with pytest.raises(jsonschema.ValidationError, match="idle_timeout_minute'"):
        jsonschema.validate({**config, "idle_timeout_minute": 5}, schema)


def test_passes_what_ray_up_checks(config):
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    assert prepared["available_node_types"].keys() == config["available_node_types"].keys()
    assert prepared["head_start_ray_commands"] == config["head_start_ray_commands"]
    assert not any("rllib" in line or "wheels" in line for line in prepared["setup_commands"])


def test_head_takes_no_work_readers_have_no_gpu_and_gpus_are_spot(config):
    types = config["available_node_types"]
    assert types[config["head_node_type"]]["resources"] == {"CPU": 0}
    assert "GPU" not in types["reader"]["resources"]
    assert types["gpu"]["resources"]["GPU"] >= 1
    assert types["gpu"]["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot"
    assert all(types[name]["min_workers"] == 0 for name in ("reader", "gpu"))
    assert config["idle_timeout_minutes"] > 0
    assert config["provider"]["cache_stopped_nodes"] is False


def test_machines_install_the_lock_and_ask_for_the_token(config):
    mounts = config["file_mounts"]
    lock = next(local for local in mounts.values() if local.endswith(".lock"))
    assert (ROOT / lock).is_file()
    assert any("pip install" in line and lock in line for line in config["setup_commands"])
    assert any(local.endswith("auth_token") for local in mounts.values())
    assert any("RAY_AUTH_MODE=token" in line for line in config["setup_commands"])
    assert "--dashboard-host=127.0.0.1" in config["head_start_ray_commands"][1]


def test_holds_nobodys_account_or_key():
    assert not re.search(r"\b\d{12}\b|AKIA|ASIA|arn:aws:iam::|\bami-[0-9a-f]{8,}", TEXT)
