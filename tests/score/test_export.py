"""The job `export`: programs that say what scoring says, without satray."""

import json

import numpy as np
import onnxruntime
import pytest
import scoring_material as material
import torch
from by_hand import job_of

from satray.data.values import filled, valid_values
from satray.models.bundle import load_bundle
from satray.models.encoder import load_encoder
from satray.models.radiometry import Radiometry
from satray.runs.job import main
from satray.score import export
from satray.score.deploy import Filled, quiet
from satray.score.forward import Scorer
from satray.score.tiles import read_block, tiles_of_prefix, wanted_of

JOB = job_of("export", ray=False)
UNIT = {"mean": (0.5,) * 4, "std": (0.2,) * 4, "radiometry": Radiometry("pil_compat")}
SOFTMAX = {"task": "multiclass", "evaluate": "centre", "resize": 40, "dtype": "float32"}
CASES = {
    "two towers, max, pil, nodata of all bands": (
        material.two_towers("max"),
        UNIT | {"tile_shape": (64, 48), "nodata": 0.0},
    ),
    "softmax, lse, centre, float": (material.one_tower("lse"), SOFTMAX | {"tile_shape": (40, 56)}),
    "avg, nodata of each band": (
        material.one_tower(),
        {"dtype": "int16", "nodata": -9999.0, "tile_shape": (32, 32)},
    ),
}


def as_strangers_read(out):
    """The programs, by runtimes that know nothing of satray; their inputs are named `pixels`."""
    session = onnxruntime.InferenceSession((out / "classifier.onnx").read_bytes())
    program = torch.export.load(out / "classifier.pt2").module()

    def by_torch(pixels):
        with torch.inference_mode():
            return [made.numpy() for made in program(torch.from_numpy(pixels))]

    return session, (lambda pixels: session.run(None, {"pixels": pixels}), by_torch)


def as_scored(bundle, folder, pixels):
    """Logits and scores of tiles as files that declare the bundle's nodata, as `score tiles=`."""
    for n, tile in enumerate(pixels):
        material.write_tile(folder / f"{n}.tif", tile, bundle.spec.bands, nodata=bundle.spec.nodata)
    storage = export.Storage()
    tiles = tiles_of_prefix(str(folder), storage.list(str(folder)))
    numbers = Scorer(bundle)(
        read_block(tiles.table, wanted_of(bundle.spec, tiles), storage).pixels
    ).numbers
    return numbers.logits, numbers.scores


@pytest.mark.parametrize("case", CASES)
def test_programs_equal_scoring(tmp_path, capfd, case):
    variant, more = CASES[case]
    material.save_bundle(tmp_path / "bundle", variant, **more)
    bundle = load_bundle(str(tmp_path / "bundle"), export.Storage())
    out = tmp_path / "out"
    arguments = [f"bundle={tmp_path / 'bundle'}", f"out={out}"]
    assert main(JOB, [*arguments, "--plan"]) == 0
    assert not out.exists()
    assert main(JOB, arguments) == 0
    session, programs = as_strangers_read(out)
    for tiles in (1, 7):  # the number of tiles is free
        given = export.random_tiles(bundle.spec, tiles, seed=tiles)
        own = as_scored(bundle, tmp_path / f"{tiles}", given)
        plain = bundle.logits(torch.from_numpy(given)).numpy()
        assert np.abs(plain - own[0]).max() > 0.01  # what is no measurement counts
        for run in programs:
            logits, scores = run(given)
            assert logits.shape == scores.shape == (tiles, 3)
            assert np.allclose(logits, own[0], atol=1e-4)
            assert np.allclose(scores, own[1], atol=1e-5)
            if bundle.spec.nodata is not None:
                empty = np.full_like(given, bundle.spec.nodata)
                assert np.isnan(run(empty)).all()
    assert logits.std() > 0.01  # not the equality of constants
    (pixels,), made = session.get_inputs(), session.get_outputs()
    kind = bundle.spec.dtype.replace("float32", "float")
    assert (pixels.name, pixels.type) == ("pixels", f"tensor({kind})")
    assert pixels.shape == ["batch", len(bundle.spec.bands), *more["tile_shape"]]
    shapes = [(one.name, one.shape) for one in made]
    assert shapes == [("logits", ["batch", 3]), ("scores", ["batch", 3])]
    told = session.get_modelmeta().custom_metadata_map
    assert json.loads(told["classes"]) == list(material.CLASSES)
    assert json.loads(told["bands"]) == list(bundle.spec.bands)
    assert told["model_id"] == bundle.model_id
    record = json.loads((out / "run.json").read_text())
    towers = [tower.name for tower in variant.towers]
    assert {product["path"] for product in record["products"]} == {
        *("classifier.onnx", "classifier.pt2", "export.json"),
        *(f"encoder/{tower}.safetensors" for tower in towers),
    }
    about = json.loads((out / "export.json").read_text())
    assert about["input"]["shape"] == ["batch", len(bundle.spec.bands), *more["tile_shape"]]
    assert about["input"]["nodata"] == bundle.spec.nodata
    assert all(0 <= made["difference"] < 1e-4 for made in about["programs"])
    assert load_encoder(str(out / "encoder" / "rgb.safetensors")).strides == (2, 4, 8)
    assert "strides 2, 4, 8" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("dtype", "nodata"),
    [
        ("uint8", 0.0),
        ("int8", -128.0),
        ("uint16", 65535.0),
        ("int16", 0.0),
        ("uint32", 2.0**32 - 1),
        ("int32", -9999.5),  # not one of its numbers
        ("float32", None),
        ("float64", 0.1),
    ],
)
def test_what_is_no_measurement_is_filled_as_scoring_does(dtype, nodata):
    """To the bit, in ONNX too: in all bands, in one, and all of a tile."""
    spec = material.spec(material.one_tower(), dtype=dtype, nodata=nodata)
    x = np.stack([material.pixels(seed, 3, 24, dtype) // 40 for seed in range(4)])
    void = np.array(np.nan if nodata is None else nodata).astype(dtype)
    x[:3, ..., :9] = x[:, 0, 3:8] = x[2] = void
    expected = [filled(x_CHW, valid_values(x_CHW, (nodata,) * 3)) for x_CHW in x]
    program = Filled(spec)
    batch = {"pixels_BCHW": {0: torch.export.Dim("batch")}}
    with quiet():
        traced = torch.export.export(program, (torch.from_numpy(x),), dynamic_shapes=batch)
        made = torch.onnx.export(traced, input_names=["x"], verbose=False)
    session = onnxruntime.InferenceSession(made.model_proto.SerializeToString())
    by_torch = [part.numpy() for part in program(torch.from_numpy(x))]
    for found, known in (by_torch, session.run(None, {"x": x})):
        assert found.dtype == dtype
        assert np.array_equal(found, expected)
        assert known.ravel().tolist() == [True, True, nodata == -9999.5, True]


def test_compare_finds_a_difference():
    bundle = material.bundle(material.one_tower())

    def near(pixels, by):
        z = bundle.logits(torch.from_numpy(pixels))
        return z.numpy() + by, bundle.scores(z).numpy()

    assert export.compare(lambda p: near(p, 0), bundle) < 1e-6
    assert export.compare(lambda p: near(p, 0.01), bundle) == pytest.approx(0.01, rel=0.9)
    assert np.isnan(export.compare(lambda p: near(p, np.nan), bundle))


def test_what_is_refused(tmp_path, capfd, monkeypatch):
    """What differs by more than the tolerance is not published; wrong keys are one line."""
    monkeypatch.setattr(export, "TOLERANCE", 1e-30)
    material.save_bundle(tmp_path / "bundle", material.one_tower())
    good = f"bundle={tmp_path / 'bundle'}"
    for arguments, status, said in (
        ([good, "formats=[torch]"], 1, "classifier.pt2: differs from the"),
        ([good, "formats=[onx]"], 2, "formats.0=onx: accepted: encoder|onnx|torch"),
        ([f"bundle={tmp_path / 'none'}"], 2, "not a bundle"),
    ):
        assert main(JOB, [*arguments, f"out={tmp_path / 'out'}", "overwrite=true"]) == status
        assert said in "".join(capfd.readouterr())
        assert not list(tmp_path.glob("out/classifier*"))
