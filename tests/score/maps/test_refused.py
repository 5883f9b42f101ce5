"""What a recipe cannot have: one line each, before anything is scored."""

import maps_material as material
import pytest
import scoring_material
from by_hand import planned

from satray.config.cli import validate
from satray.config.score import ScoreRecipe
from satray.errors import InputError
from satray.score import job as score
from satray.storage import Storage


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    root = tmp_path_factory.mktemp("refused")
    material.write_scene(root / "scenes" / "a.tif", material.field(100, 120))
    material.write_scene(root / "four" / "a.tif", material.field(100, 120, bands=4), names=None)
    material.write_scene(root / "bytes" / "a.tif", material.field(40, 40).astype("uint8"))
    (root / "nothing").mkdir()
    (root / "texts").mkdir()
    (root / "texts" / "a.txt").write_text("")
    (root / "a.vrt").write_text("<VRTDataset/>")
    (root / "a.json").write_text("{}")
    return root


KEYS = [
    ({"tiles": "x"}, "tiles, scenes: found both; accepted: exactly one"),
    ({"scenes": None}, "tiles, scenes: found neither"),
    ({"scenes": None, "tiles": "x", "stride": 0.5}, "stride=0.5 does nothing here: it works w"),
    ({"scenes": None, "tiles": "x", "only_new": True}, "only_new=true does nothing here: it"),
    ({"scenes": None, "tiles": "x", "bands": {"red": 1}}, "bands: found a mapping"),
    ({"scenes": None, "tiles": "x", "cam": {"kind": "both"}}, "cam.kind=both: accepted with tiles"),
    ({"schedule": {"lease": 5}}, "schedule does nothing here: it works with only_"),
    ({"only_new": True}, "out: required with only_new=true"),
    ({"scale": 2.0}, "scale=2.0 does nothing here: it works with convert=scale"),
    ({"drift_limit": 3}, "drift_limit"),
    ({"gsd": float("nan")}, "gsd=nan: accepted: auto|none or number > 0"),
]


@pytest.mark.parametrize(("more", "said"), KEYS)
def test_keys(more, said):
    values = {"bundle": "b", "scenes": "s", **more}
    with pytest.raises(InputError) as error:
        validate(ScoreRecipe, {name: value for name, value in values.items() if value is not None})
    assert said in str(error.value)
    assert "\n" not in str(error.value)


INPUTS = [
    ({"bundle": "SCENES"}, "not a bundle"),
    ({"scenes": "nothing"}, "found nothing; accepted: GeoTIFF"),
    ({"scenes": "absent.tif"}, "found nothing"),
    ({"scenes": "texts"}, "found 1 files, none of them a scene"),
    ({"scenes": "a.vrt"}, ".vrt is not read"),
    ({"scenes": "a.json"}, "none of them a scene"),
    ({"scenes": "four"}, "none of those looked at fits the bundle; a.tif: no band red"),
    ({"scenes": "bytes"}, "none of those looked at fits the bundle; a.tif: dtype is uint8"),
    ({"bands": ["red", "green"]}, "a.tif: "),
    ({"bands": {"swir": 2}}, "bands.swir: the bundle has no such band; accepted: red, green, blue"),
    ({"cam": {"classes": ["ship"]}}, "cam.classes: no ship in the bundle; accepted: all, dot"),
    ({"detections": {"classes": ["dto"]}}, "detections.classes: no dto in the bundle"),
    ({"cam": {"kind": "argmax"}}, "cam.kind=argmax: this bundle pools with avg; accepted: dense"),
    ({"cam": {"kind": "both"}}, "cam.kind=both: this bundle pools with avg"),
    ({"datetime": "(unclosed"}, "datetime"),
    ({"datetime": "[0-9]+"}, "datetime"),
    ({"convert": "scale", "scale": [1.0, 2.0]}, "scale"),
]


@pytest.mark.parametrize(("more", "said"), INPUTS)
def test_inputs(bundle, scenes, more, said):
    folder = scenes / more["scenes"] if "scenes" in more else scenes / "scenes"
    of = scenes if more.get("bundle") == "SCENES" else bundle()
    more = {key: value for key, value in more.items() if key not in ("scenes", "bundle")}
    with pytest.raises(InputError) as error:
        score.read(material.recipe(of, folder, **more), Storage())
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_networks_that_cannot(bundle, scenes, inline, tmp_path):
    far = tmp_path / "far"
    material.save_bundle(far, "simple_cnn")
    with pytest.raises(InputError) as error:
        score.read(material.recipe(far, scenes / "scenes", mode="dense"), Storage())
    assert "mode=dense: found halo: null (tower rgb)" in str(error.value)
    given = material.recipe(far, scenes / "scenes")
    assert any("halo: null" in line for line in planned(score, given))
    run, _, _, _ = material.scored(given, tmp_path / "out")
    (row,) = material.rows_of(run, "scenes.parquet")
    assert (row["status"], row["mode"]) == ("done", "tiles")
    assert "halo: null" in row["why"]


def test_a_dense_head_has_numbers_only(scenes, inline, tmp_path):
    folder = tmp_path / "bundle"
    scoring_material.save_bundle(folder, scoring_material.one_tower(head="dense"))
    with pytest.raises(InputError, match="dense head"):
        score.read(material.recipe(folder, scenes / "scenes", cam={"classes": ["ship"]}), Storage())
    run, outcome, _, _ = material.scored(
        material.recipe(folder, scenes / "scenes"), tmp_path / "out"
    )
    assert outcome.counts["tiles"] > 1
    made = {path.split("/")[0] for path in material.digests(run)}
    assert not made & {"cam", "argmax", "detections"}
    assert {"predictions", "quicklooks"} <= made
