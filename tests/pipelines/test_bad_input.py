"""What users get wrong: one line that says what and what is accepted, status 2, nothing written."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from by_hand import job_of
from data.hostile import tiff

from satray.data import prepare
from satray.runs.job import Job, main
from satray.storage import forget_connections

pytestmark = [pytest.mark.pipeline, pytest.mark.s3]

PREPARE = job_of("prepare", ray=prepare.takes_ray)
TRAIN = job_of("train")


def archive(folder: Path, tiles: int = 12) -> Path:
    rows = ["image,ship,sea"]
    (folder / "tiles").mkdir()
    for n in range(tiles):
        x_CHW = np.random.default_rng(n).integers(1, 200, (3, 16, 16)).astype("uint8")
        (folder / f"tiles/t{n}.tif").write_bytes(tiff(x_CHW, photometric="rgb"))
        rows.append(f"t{n},{n % 2},{n % 3 // 2}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="module")
def world(s3: Any, ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A sound archive with its index, and the server's endpoint."""
    root = archive(tmp_path_factory.mktemp("world"))
    out = str(root / "index")
    status = main(PREPARE, [f"images={root}/tiles", f"labels={root}/labels.csv", f"out={out}"])
    assert status == 0
    return {"root": root, "index": out, "bucket": s3.bucket("bad")}


def check_refused(capfd: Any, job: Job[Any, Any], given: list[str], out: Path, says: str) -> None:
    capfd.readouterr()
    assert main(job, [*given, f"out={out}"]) == 2
    captured = capfd.readouterr()
    printed = captured.err.strip().splitlines()
    lines = [line for line in printed if line.startswith(f"{job.name}: ")]
    assert len(lines) == 1, printed
    assert re.search(says, lines[0]), lines[0]
    assert f"{job.name} ended with status 2" in printed
    assert not any(path.is_file() for path in out.rglob("*")), list(out.rglob("*"))


def test_wrong_credentials(world, tmp_path, capfd, monkeypatch, swift) -> None:
    bucket = swift.bucket()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    forget_connections()
    arguments = [f"images={bucket}/tiles", f"labels={world['root']}/labels.csv"]
    check_refused(capfd, PREPARE, arguments, tmp_path / "out", "SignatureDoesNotMatch")
    monkeypatch.undo()
    forget_connections()
    arguments[0] = "images=s3://no-such-bucket-here/x"
    says = "no-such-bucket-here.*does not exist"
    check_refused(capfd, PREPARE, arguments, tmp_path / "out", says)


def test_train(world, tmp_path, capfd) -> None:
    root, out = world["root"], tmp_path / "out"
    (tmp_path / "weights.pth").write_bytes(b"not weights")
    sound = [f"index={world['index']}", "input.size=16", "weights=none"]
    cases = [
        ([f"index={root}/tiles"], "no tile index|not a tile index|no run.json"),
        ([*sound, "variant=single4", "batch=4"], "nir.*red, green, blue"),
        ([*sound, "variant=singel3"], "did you mean|single3"),
        ([*sound, "variant=simple_cnn", "batch=64"], "batch=64.*larger than the train split"),
        ([*sound, "variant=simple_cnn", "batch=4", "stages.0.trainable=layer9"], "layer9"),
        ([*sound, "batch=4", f"weights={tmp_path}/weights.pth"], r"weights\.pth"),
        ([*sound, "batch=4", f"weights={tmp_path}/absent.pth"], r"absent\.pth"),
    ]
    for arguments, says in cases:
        check_refused(capfd, TRAIN, arguments, out, says)
