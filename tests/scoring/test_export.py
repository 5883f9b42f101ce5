"""The job `export`: programs that say what the bundle says, without satray."""

import json
from pathlib import Path

import numpy as np
import pytest
import scoring_material as material
import torch
from by_hand import worked

from satray.config.score import ExportRecipe
from satray.errors import InputError, SatrayError
from satray.models.encoder import load_encoder
from satray.models.radiometry import Radiometry
from satray.runs.job import Job, main
from satray.scoring import export

UNIT = {"mean": (0.5,) * 4, "std": (0.2,) * 4}
CASES = {
    "two towers, max": (material.two_towers("max"), {}),
    "softmax, lse, centre": (
        material.one_tower("lse"),
        {"task": "multiclass", "evaluate": "centre", "resize": 40},
    ),
    "float": (material.one_tower(), {"dtype": "float32", "tile_shape": (40, 56)}),
    "pil": (material.two_towers(), {"radiometry": Radiometry("pil_compat"), **UNIT}),
}


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    yield
    torch.set_flush_denormal(False)
    torch.set_num_threads(threads)


@pytest.mark.parametrize("case", CASES)
def test_programs_equal_the_bundle(case):
    from satray.models.deploy import onnx_file, torch_file, trace

    variant, more = CASES[case]
    bundle = material.bundle(variant, **more)
    program = trace(bundle, *bundle.spec.tile_shape)
    for data, read in (
        (onnx_file(program, bundle), export._run_onnx),
        (torch_file(program, bundle), export._run_torch),
    ):
        run = read(data)
        assert export.compare(run, bundle, bundle.spec.tile_shape) < 1e-4
        for tiles in (1, 2, 7):  # the number of tiles is free
            given = export.random_tiles(bundle.spec, tiles, bundle.spec.tile_shape, seed=tiles)
            logits, scores = run(given)
            own = bundle.logits(torch.from_numpy(given))
            assert logits.shape == scores.shape == (tiles, 3)
            assert np.allclose(logits, own.numpy(), atol=1e-4)
            assert np.allclose(scores, bundle.scores(own).numpy(), atol=1e-5)
    assert logits.std() > 0.01  # not the equality of constants


def test_a_stranger_reads_the_onnx_file():
    import onnxruntime

    from satray.models.deploy import onnx_file, trace

    bundle = material.bundle(material.one_tower())
    session = onnxruntime.InferenceSession(onnx_file(trace(bundle, 48, 48), bundle))
    (given,), made = session.get_inputs(), session.get_outputs()
    assert (given.name, given.type) == ("pixels", "tensor(uint16)")
    assert given.shape == ["batch", 3, 48, 48]
    assert [(out.name, out.shape) for out in made] == [
        ("logits", ["batch", 3]),
        ("scores", ["batch", 3]),
    ]
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["classes"]) == list(material.CLASSES)
    assert json.loads(about["bands"]) == ["red", "green", "blue"]
    assert about["model_id"] == bundle.model_id


def test_compare_finds_a_difference():
    bundle = material.bundle(material.one_tower())

    def near(pixels, by):
        z = bundle.logits(torch.from_numpy(pixels))
        return z.numpy() + by, bundle.scores(z).numpy()

    assert export.compare(lambda p: near(p, 0), bundle, (48, 48)) < 1e-6
    assert export.compare(lambda p: near(p, 0.01), bundle, (48, 48)) == pytest.approx(0.01, rel=0.9)
    assert np.isnan(export.compare(lambda p: near(p, np.nan), bundle, (48, 48)))


JOB = Job("export", ExportRecipe, export.read, export.plan, export.work, ray=False)


def test_the_job(tmp_path, capfd):
    bundle = material.save_bundle(tmp_path / "bundle", material.two_towers())
    out = tmp_path / "out"
    arguments = [f"bundle={tmp_path / 'bundle'}", f"out={out}", "tile=[64,48]"]
    assert main(JOB, [*arguments, "--plan"]) == 0
    assert not out.exists()
    assert main(JOB, arguments) == 0
    record = json.loads((out / "run.json").read_text())
    assert {product["path"] for product in record["products"]} == {
        *("classifier.onnx", "classifier.pt2", "export.json"),
        *("encoder/rgb.safetensors", "encoder/nir.safetensors"),
    }
    about = json.loads((out / "export.json").read_text())
    assert about["input"]["shape"] == ["batch", 4, 64, 48]
    assert about["input"]["bands"] == list(bundle.spec.bands)
    assert [made["file"] for made in about["programs"]] == ["classifier.onnx", "classifier.pt2"]
    assert all(0 <= made["difference"] < 1e-4 for made in about["programs"])
    assert load_encoder(str(out / "encoder" / "rgb.safetensors")).strides == (2, 4, 8)
    assert "strides 2, 4, 8" in capfd.readouterr().out


def test_what_differs_is_not_published(tmp_path, monkeypatch):
    material.save_bundle(tmp_path / "bundle", material.one_tower())
    recipe = ExportRecipe(bundle=str(tmp_path / "bundle"), formats=("torch",))
    from satray.runs.run import Run
    from satray.storage import Storage

    run = Run("export", "0123456789ab", str(tmp_path / "out"), Storage())
    monkeypatch.setattr(export, "compare", lambda *_: float("nan"))
    with pytest.raises(SatrayError, match=r"classifier\.pt2: differs from the bundle by nan"):
        worked(export, recipe, run)
    assert not list(Path(run.out).glob("classifier*"))


def test_wrong_keys(tmp_path):
    from satray.storage import Storage

    with pytest.raises(ValueError, match="found onx; accepted: encoder, onnx, torch"):
        ExportRecipe(bundle="b", formats=("onx",))
    with pytest.raises(InputError, match="not a bundle"):
        export.read(ExportRecipe(bundle=str(tmp_path)), Storage())
    material.save_bundle(tmp_path / "bundle", material.one_tower())
    with pytest.raises(InputError, match="tile: found 0 x 4"):
        export.read(ExportRecipe(bundle=str(tmp_path / "bundle"), tile=(0, 4)), Storage())
