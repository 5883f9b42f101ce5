"""What machines and images are made from: cluster.yaml, Dockerfile, locks."""

import copy
import json
import re
import subprocess
import tomllib
from pathlib import Path

import jsonschema
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[1]
CLUSTER = (ROOT / "cluster.yaml").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture
def config():
    return yaml.safe_load(CLUSTER)


def test_cluster_yaml_is_what_ray_up_takes(config):
    import ray.autoscaler
    from ray.autoscaler._private.util import prepare_config, validate_config

    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    jsonschema.Draft7Validator(schema).validate(config)
    prepared = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    assert prepared["available_node_types"].keys() == config["available_node_types"].keys()
    assert prepared["head_start_ray_commands"] == config["head_start_ray_commands"]
    assert not any("rllib" in line or "wheels" in line for line in prepared["setup_commands"])
    for name in ("setup_commands", "head_start_ray_commands", "worker_start_ray_commands"):
        for line in config[name]:
            subprocess.run(["bash", "-n", "-c", line], check=True)


def test_workers_have_a_profile_of_their_own_and_images_are_pinned(config):
    types = config["available_node_types"]
    head = types.pop(config["head_node_type"])
    profiles = {each["node_config"]["IamInstanceProfile"]["Name"] for each in types.values()}
    assert profiles.isdisjoint({head["node_config"]["IamInstanceProfile"]["Name"]})
    for each in (head, *types.values()):
        assert re.fullmatch(r"resolve:ssm:[\w/-]+:\d+", each["node_config"]["ImageId"])
    assert not re.search(r"\b\d{12}\b|AKIA|ASIA|arn:aws:iam::|\bami-[0-9a-f]{8,}", CLUSTER)


def instructions() -> list[tuple[str, str]]:
    """Of the Dockerfile, in order."""
    text = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in lines)]


def test_the_image_is_pinned_runs_the_runtime_lock_and_is_nobody():
    of = {name: [] for name in ("FROM", "RUN", "COPY", "USER")}
    for name, rest in instructions():
        of.setdefault(name, []).append(rest)
    version = re.fullmatch(r"python:(3\.\d+)\.\d+-slim-\w+", of["FROM"][0])
    assert version is not None
    assert version[1] in SpecifierSet(PROJECT["requires-python"])
    assert sum("--require-hashes -r /tmp/requirements.lock" in run for run in of["RUN"]) == 1
    ignored = (ROOT / ".dockerignore").read_text().split()
    for copied in of["COPY"]:
        source = copied.split()[0]
        assert (ROOT / source).exists()
        assert f"!{source}" in ignored
    for run in of["RUN"]:
        subprocess.run(["bash", "-n", "-c", run], check=True)
    assert of["USER"] == ["satray"]


def locked(name: str) -> dict[str, list[str]]:
    """Requirement of each package of a lock -> its hashes."""
    found: dict[str, list[str]] = {}
    last = ""
    for line in (ROOT / name).read_text().splitlines():
        if line.startswith("    --hash="):
            found[last].append(line.strip(" \\"))
        elif line and not line.startswith("#"):
            last = line.rstrip(" \\")
            found[last] = []
    return found


def names(lock: dict[str, list[str]]) -> dict[str, str]:
    parsed = [Requirement(line) for line in lock]
    return {each.name: str(each.specifier) for each in parsed}


def test_locks_hold_versions_and_hashes_of_all_that_is_needed_and_no_address():
    runtime, dev = locked("requirements.lock"), locked("requirements-dev.lock")
    for lock in (runtime, dev):
        assert all(re.match(r"[a-z0-9._-]+==[\w.]+( ;|$)", line) for line in lock)
        assert all(hashes for hashes in lock.values())
        assert all(
            re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", h) for hs in lock.values() for h in hs
        )
    for name in ("requirements.lock", "requirements-dev.lock"):
        assert "://" not in (ROOT / name).read_text()
    run, test = names(runtime), names(dev)
    assert run.items() <= test.items()  # one environment holds both
    canonical = lambda text: re.sub(r"[-_.]+", "-", Requirement(text).name.lower())  # noqa: E731
    assert {canonical(each) for each in PROJECT["dependencies"]} <= run.keys()
    extra = {canonical(each) for each in PROJECT["optional-dependencies"]["dev"]}
    assert extra <= test.keys()
    assert run.keys().isdisjoint(
        {"pytest", "ruff", "mypy", "moto", "swift", "pyeclib", "hypothesis"}
    )
    assert "+" not in run["torch"]
