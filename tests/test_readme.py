"""The README's commands are commands: every one builds its job's recipe; its Python runs."""

import re
import shlex
from pathlib import Path

import pytest
from by_hand import JOBS

from satray.config.cli import build

ROOT = Path(__file__).resolve().parents[1]
RECIPES = {name: recipe for name, (_, recipe, _) in JOBS.items()}


def commands() -> list[tuple[str, list[str]]]:
    """Every `python jobs/NAME.py ...` of the Markdown files, in one line each."""
    found = []
    for name in ("README.md", "bench/RESULTS.md"):
        blocks = re.findall(r"```sh\n(.*?)```", (ROOT / name).read_text(), re.DOTALL)
        for line in "\n".join(blocks).replace("\\\n", " ").splitlines():
            match = re.search(r"python jobs/(\w+)\.py\s*([^#]*)", line)
            if match:
                found.append((match[1], shlex.split(match[2].replace("$PWD", str(ROOT)))))
    return found


def test_there_are_commands() -> None:
    assert {job for job, _ in commands()} >= set(RECIPES) - {"demo"}  # which is `make demo`


def test_the_table_has_each_job() -> None:
    text = (ROOT / "README.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| [^|]* \| [^|]*`[^|]* \|$", text, re.MULTILINE)
    assert set(rows) == set(RECIPES)
    assert {path.stem for path in (ROOT / "jobs").glob("*.py")} == set(RECIPES)


@pytest.mark.parametrize(("job", "arguments"), commands(), ids=lambda part: str(part)[:40])
def test_the_command_builds_its_recipe(job: str, arguments: list[str]) -> None:
    recipe = build(RECIPES[job], arguments, lambda path, options: (ROOT / path).read_bytes())
    assert isinstance(recipe, RECIPES[job])


def test_the_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All Python blocks, in order, where a run left a bundle and an export."""
    import numpy as np
    import scoring_material as material
    import torch

    from satray.models.encoder import encoder_file

    bundle = material.save_bundle(tmp_path / "runs/model/bundle", material.one_tower())
    (tmp_path / "runs/export/encoder").mkdir(parents=True)
    file = tmp_path / "runs/export/encoder/rgb.safetensors"
    file.write_bytes(encoder_file(bundle, "rgb"))
    monkeypatch.chdir(tmp_path)
    tiles = np.stack([material.pixels(seed, bands=3) for seed in range(4)])
    names = {"tiles": tiles, "pixels": torch.from_numpy(tiles)}
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    for block in blocks:
        exec(block, names)
    assert names["found"].scores.shape == names["found"].logits.shape == (4, 3)
    assert len(names["found"].labels) == 4
    assert names["maps"]["rgb"].shape == (4, 1, 4, 4)
    assert names["features"]["rgb"].shape == (4, 128, 4, 4)
    assert len(names["pyramid"]) == len(names["encoder"].strides)


def test_kubernetes_runs_what_cron_runs() -> None:
    import yaml

    text = (ROOT / "README.md").read_text()
    cron = next(line for line in text.splitlines() if line.startswith("0 * * * * "))
    (block,) = re.findall(r"```yaml\n(apiVersion: .*?)```", text, re.DOTALL)
    job = yaml.safe_load(block)
    assert job["kind"] == "RayCronJob"
    assert job["spec"]["schedule"] == "0 * * * *"
    command = cron.partition("python ")[2]
    template = job["spec"]["jobTemplate"]
    assert template["entrypoint"] == f'sh -c "cd /satray && python {command}"'
    locked = re.search(r"^ray==([\d.]+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    assert locked
    assert template["rayClusterSpec"]["rayVersion"] == locked[1]
