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
        ("import satray", [], "torch ray numpy"),
        ("import satray.storage", [], "torch ray pyarrow boto3 rasterio"),
    ],
    ids=["help", "processes", "satray", "storage"],
)
def test_heavy_libraries_are_imported_where_they_are_used(program, arguments, barred):
    ending = f"\nimport sys\nprint(*(set({barred.split()}) & sys.modules.keys()), file=sys.stderr)"
    command = [sys.executable, "-c", program + ending, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr.strip()) == (0, "")
    assert len(arguments) in (0, 9)
