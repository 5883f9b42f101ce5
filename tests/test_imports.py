"""What starts without torch, and what without Ray: each takes seconds of a core to import."""

import subprocess
import sys
from pathlib import Path

import pytest

JOBS = Path(__file__).parents[1] / "jobs"
HELP = """
import runpy, sys
for name in sys.argv[1:]:
    sys.argv = [name, "--help"]
    try:
        runpy.run_path(name, run_name="__main__")
    except SystemExit as ended:
        assert ended.code == 0, name
"""
BACKBONE = "from satray.models.backbones import build; build('mobilenetv2_100', 3)"
COMPILER_AFTER_IT = f"""
{BACKBONE}
import torch
import torchvision
boxes = torch.tensor([[0.0, 0.0, 0.0, 8.0, 8.0]])
assert torchvision.ops.roi_align(torch.ones(1, 3, 16, 16), boxes, 4).shape == (1, 3, 4, 4)
assert torch.compile(torch.relu, backend="eager")(torch.ones(2)).tolist() == [1, 1]
from torch._dynamo.utils import is_compile_supported
assert is_compile_supported("cpu")
"""
PROCESSES_THAT_DO_NOT_COMPUTE = [
    f"satray.{name}"
    for name in (
        "data.labels", "data.split", "data.decode", "data.index", "data.statistics", "data.cache",
        "data.prepare", "metrics.summary", "report.curves", "runs.job", "storage",
        "train.worker", "train.ray_train", "train.job", "score.pipeline",
        "score.results",
    )
]  # fmt: skip


@pytest.mark.parametrize(
    ("program", "arguments", "barred"),
    [
        (HELP, sorted(str(path) for path in JOBS.glob("*.py")), "torch torchvision timm ray"),
        (f"import {', '.join(PROCESSES_THAT_DO_NOT_COMPUTE)}", [], "torch torchvision timm"),
        ("import satray.storage", [], "torch ray pyarrow boto3 rasterio"),
        (BACKBONE, [], "torch._dynamo sklearn"),
    ],
    ids=["help", "processes", "storage", "backbone"],
)
def test_heavy_libraries_are_imported_where_they_are_used(program, arguments, barred):
    ending = f"\nimport sys\nprint(*(set({barred.split()}) & sys.modules.keys()), file=sys.stderr)"
    command = [sys.executable, "-c", program + ending, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr.strip()) == (0, "")
    assert len(arguments) in (0, 9)


def test_torchs_compiler_is_there_for_whoever_uses_it():
    command = [sys.executable, "-c", COMPILER_AFTER_IT]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
