"""Each rule of test_floors fails where it is broken, and only there."""

from pathlib import Path

import pytest
from test_floors import LONGEST, RULES, floor_of, read_tree

SOUND = {
    "satray/__init__.py": "__version__ = '1'\ndef load():\n    import satray.scoring.score",
    "satray/errors.py": "class E(Exception): ...",
    "satray/cluster.py": "import ray\nfrom satray import errors",
    "satray/config/__init__.py": "",
    "satray/config/base.py": "from satray.errors import E",
    "satray/runs/__init__.py": "from satray.runs.run import Run\nfrom satray import __version__",
    "satray/runs/run.py": "def work():\n    from satray import cluster\nclass Run: ...",
    "satray/data/__init__.py": "",
    "satray/data/bands.py": "from satray.config.base import E",
    "satray/data/stream.py": "import ray.data\nfrom satray.data import bands",
    "satray/data/cache.py": "def fill():\n    import torch",
    "satray/models/network.py": "import torch\nfrom satray.data.bands import E",
    "satray/training/plan/steps.py": "",
    "satray/training/workers/task.py": "from satray.training.plan import steps",
    "satray/training/workers/launch.py": "import ray\nfrom satray.models import network",
    "satray/training/job.py": "from satray.training.workers import launch",
    "satray/scoring/score.py": "from satray.training import job",
    "jobs/train.py": "from satray.runs import Run\ndef go():\n    import satray.training.job",
}

BROKEN = {
    "upward from below": ("satray/data/bands.py", "import satray.training.job", "upward"),
    "upward in a function": (
        "satray/errors.py",
        "def f():\n    from satray.runs import run",
        "upward",
    ),
    "upward for types": (
        "satray/models/network.py",
        "if TYPE_CHECKING:\n    from satray.scoring import score",
        "upward",
    ),
    "upward from the front door": ("satray/__init__.py", "import satray.runs.run", "upward"),
    "upward relative": ("satray/data/bands.py", "from ..training import job", "upward"),
    "tiles know models": ("satray/data/bands.py", "from satray.models import network", "upward"),
    "models know stream": ("satray/models/network.py", "import satray.data.stream", "upward"),
    "job imported": ("satray/scoring/score.py", "import jobs.train", "upward"),
    "misspelt": ("satray/data/bands.py", "import satray.config.bsae", "unknown"),
    "circle of two": ("satray/data/bands.py", "import satray.data.stream", "circles"),
    "lazy circle": (
        "satray/cluster.py",
        "import ray\ndef f():\n    from satray.runs.run import Run",
        "circles",
    ),
    "circle of packages": (
        "satray/training/plan/lengths.py",
        "from satray.training.workers import launch",
        "circles",
    ),
    "ray": ("satray/training/loop.py", "def f():\n    from ray import train", "ray_elsewhere"),
    "torch at once": ("satray/data/cache.py", "from torch import Tensor", "heavy"),
    "torch at once in a class": ("satray/runs/run.py", "class Run:\n    import torch", "heavy"),
    "torch by another": ("satray/data/index.py", "from satray.data import augment", "heavy"),
    "torch by a package": ("satray/data/__init__.py", "from satray.data import augment", "heavy"),
    "ray behind --help": ("jobs/train.py", "from satray import cluster", "heavy"),
    "long": ("satray/errors.py", "x = 1\n" * (LONGEST + 1), "long_files"),
}


def build(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_sound_house_passes(rule, tmp_path):
    assert list(rule(read_tree(build(tmp_path, SOUND)))) == []


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_house_fails(case, tmp_path):
    name, text, rule_name = BROKEN[case]
    extra = {"satray/data/augment.py": "import torch"}
    tree = read_tree(build(tmp_path, {**SOUND, **extra, name: text}))
    rule = next(rule for rule in RULES if rule.__name__ == rule_name)
    assert list(rule(tree)), case


def test_a_room_without_a_floor_is_told():
    with pytest.raises(AssertionError, match="attic"):
        floor_of("satray.attic.box")
