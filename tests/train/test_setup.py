"""What a recipe comes to on its index: stages, radiometry, mean and deviation, notes, refusals."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from train.small_archive import generate, make_recipe
from train.tiny_training import recipe

from satray.config.cli import build, validate
from satray.config.stages import FINE_TUNING, FROM_SCRATCH, TRANSFORMER_TUNING, StageOptions
from satray.config.train import TowerOptions, TrainRecipe, VariantOptions
from satray.data.index import BandStatistics, IndexMeta
from satray.errors import InputError
from satray.models.radiometry import Radiometry
from satray.storage import Storage
from satray.train.setup import normalisation, radiometry, set_up

RGB, PLANET = ("red", "green", "blue"), ("blue", "green", "red", "nir")
TWO = (("a", "resnet18"), ("b", "resnet18"))
IMAGENET = [0.485, 0.456, 0.406]


def meta(bands=PLANET, dtype="uint16", percentiles=("2", "98")):
    places = dict(zip(percentiles, (200.0, 800.0), strict=False))
    statistics = tuple(BandStatistics(b, 500.0, 90.0, 0.0, 999.0, places, 1) for b in bands)
    return IndexMeta("binary", ("ship",), bands, dtype, (8, 8), statistics, {})


def numbers(bands=RGB, towers=TWO, weights="none", dtype="uint16", index=None, **wanted):
    """Mean and deviation of a run of so many towers."""
    variant = VariantOptions(
        towers=tuple(TowerOptions(name=n, backbone=b, bands=bands) for n, b in towers)
    )
    made = recipe(weights=weights, input={"size": 8, **wanted})
    return normalisation(made, variant, meta(index or bands, dtype), Storage())


def way(weights, **wanted):
    """`statistics`, or the means in 0..1."""
    mean, _ = numbers(weights=weights, **{"dtype": "uint8", **wanted})
    return "statistics" if mean[0] == 500 else [round(value / 255, 3) for value in mean]


@pytest.mark.parametrize(
    ("weights", "found"),
    [
        ("none", "statistics"),
        ("imagenet", IMAGENET),
        ("pretrained", IMAGENET),
        ("pretrained:tv_in1k", IMAGENET),
        ({"a": "imagenet", "b": "imagenet"}, IMAGENET),
        ({"a": "imagenet"}, "statistics"),
        ({"a": "none", "b": "none"}, "statistics"),
    ],
)
def test_auto_is_imagenet_where_every_tower_is_pretrained(weights, found):
    assert way(weights) == found


def test_auto_is_for_8_bit_colours_in_the_bands_order(tmp_path):
    assert way("imagenet", dtype="uint16") == "statistics"
    assert way("imagenet", bands=(*RGB, "nir")) == "statistics"
    assert way("imagenet", bands=RGB[::-1]) == IMAGENET[::-1]
    file = tmp_path / "model.safetensors"
    assert way(str(file)) == IMAGENET
    (tmp_path / "model.json").write_text("{}")  # a bundle's weights are not ImageNet's
    assert way(str(file)) == way({"a": "imagenet", "b": str(file)}) == "statistics"
    assert way(str(file), normalize="imagenet") == IMAGENET


def test_towers_whose_weights_disagree_are_refused():
    towers = (("a", "resnet18"), ("b", "tf_efficientnet_lite0"))
    with pytest.raises(InputError, match=r"resnet18 and tf_eff.*normalize=statistics"):
        way("imagenet", towers=towers)
    assert way("imagenet", towers=towers, normalize="statistics") == "statistics"
    mixed = (("a", "resnet18"), ("b", "simple_cnn"))
    assert way({"a": "imagenet"}, towers=mixed, normalize="imagenet") == IMAGENET
    assert way("pretrained", towers=mixed) == "statistics"  # nobody has published the other's


THREE = {"mean": [0.7, 0.6, 0.5], "std": [0.1, 0.2, 0.3]}


@pytest.mark.parametrize(
    ("wanted", "mean", "std"),
    [
        ({"normalize": THREE}, (0.7, 0.6, 0.5), (0.1, 0.2, 0.3)),
        # near-infrared only divides: it is read, and stays as it is
        ({"normalize": THREE, "radiometry": "pil_compat"}, (0.7, 0.6, 0.5, 0.0),
         (0.1, 0.2, 0.3, 1.0)),
        ({}, (500.0,) * 3, (90.0,) * 3),
        # values that the index does not know are to be measured
        ({"radiometry": "percentile"}, (), ()),
        ({"radiometry": "pil_compat", "normalize": "statistics"}, (), ()),
        ({"radiometry": "percentile", "normalize": "imagenet", "bands": RGB[::-1]},
         (0.406, 0.456, 0.485), (0.225, 0.224, 0.229)),
    ],
)  # fmt: skip
def test_numbers_by_radiometry(wanted, mean, std):
    assert numbers(index=PLANET, **wanted) == (pytest.approx(mean), pytest.approx(std))


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"normalize": {**THREE, "mean": [1, 2]}}, r"mean: found 2 numbers, accepted: 3.*red, gr"),
        ({"normalize": {**THREE, "std": [1] * 4}}, r"std: found 4 numbers, accepted: 3"),
        ({"normalize": {**THREE, "std": [1, 0, 1]}}, "std.1"),
        ({"normalize": "imagenet"}, "normalize=imagenet: found uint16"),
        ({"normalize": "imagenet", "radiometry": "pil_compat"}, "normalize=imagenet: found uint16"),
        ({"normalize": "imagenet", "radiometry": "percentile", "bands": PLANET}, "found uint16"),
    ],
)
def test_numbers_that_do_not_fit_are_named(wanted, said):
    with pytest.raises((InputError, ValueError), match=said):
        numbers(index=PLANET, **wanted)


def test_radiometry_of_an_index():
    found = radiometry("percentile", ("red", "nir"), meta())
    assert found == Radiometry("percentile", (200.0, 200.0), (800.0, 800.0))
    assert found.reads(("red", "nir")) == ("red", "nir")
    for percentiles in ((), ("2",), ("5", "95")):
        with pytest.raises(InputError, match="2nd and 98th percentile of band red; run prepare"):
            radiometry("percentile", ("red", "nir"), meta(percentiles=percentiles))
    compat = radiometry("pil_compat", RGB, meta())
    assert (compat.reads(RGB), compat.reads(PLANET)) == ((*RGB, "nir"), PLANET)
    for of in (meta(dtype="uint8"), meta(RGB), meta(("nir", *RGB)), meta(("coastal", *PLANET))):
        with pytest.raises(InputError, match="accepted: uint16 tiles of four bands, nir last"):
            radiometry("pil_compat", RGB, of)


def of_backbone(name):
    return {"towers": [{"name": "rgb", "backbone": name, "bands": ["red"]}]}


@pytest.mark.parametrize(
    ("changes", "stages"),
    [
        ({}, FINE_TUNING),
        ({"weights": "pretrained:tv_in1k"}, FINE_TUNING),
        ({"weights": "/w.pth"}, FINE_TUNING),
        ({"weights": "none"}, FROM_SCRATCH),
        ({"weights": {"rgb": "none"}}, FROM_SCRATCH),
        ({"weights": {"rgb": "none", "nir": "imagenet"}}, FINE_TUNING),
        ({"variant": "simple_cnn"}, FROM_SCRATCH),
        ({"variant": of_backbone("simple_cnn")}, FROM_SCRATCH),
        ({"variant": of_backbone("simple_cnn"), "weights": "/w.pth"}, FINE_TUNING),
        ({"variant": "mobilenet_v2"}, FINE_TUNING),
        ({"variant": of_backbone("vit_small_patch16_224")}, TRANSFORMER_TUNING),
        ({"variant": of_backbone("convnext_tiny.fb_in1k")}, TRANSFORMER_TUNING),
        ({"variant": of_backbone("swin_tiny_patch4_window7_224"), "weights": "none"}, FROM_SCRATCH),
    ],
)
def test_stages_by_default_suit_what_is_trained(changes, stages):
    assert validate(TrainRecipe, {"index": "x", **changes}).stages == stages


def test_a_key_set_by_hand_wins_over_the_default_stage_that_it_is_of():
    def built(*keys):
        return build(TrainRecipe, ["index=x", *keys], lambda *_: b"").stages

    head, rest = built("stages.1.pseudo_epochs=2", "stages.1.layer_decay=0.5")
    assert head == FINE_TUNING[0]
    changed = {"pseudo_epochs": 2.0, "layer_decay": 0.5}
    assert rest == FINE_TUNING[1].model_copy(update=changed)
    (only,) = built("weights=none", "stages.0.pseudo_epochs=2")
    assert only == FROM_SCRATCH[0].model_copy(update={"pseudo_epochs": 2.0})
    assert built("stages=[{pseudo_epochs: 2}]") == (StageOptions(pseudo_epochs=2.0),)


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return generate(tmp_path_factory.mktemp("archive"))


def setup(archive, folder, labels=None, **changes):
    """Resolve a recipe; `labels` gives a tile's labels from its own, by split."""
    if labels is not None:
        table = pq.read_table(archive.index)
        rows = zip(*(table.column(name).to_pylist() for name in ("split", "labels")), strict=True)
        column = pa.array([labels.get(s, list)(old) for s, old in rows], pa.list_(pa.uint8()))
        place = table.column_names.index("labels")
        file = Path(folder) / "tiles-00000.parquet"
        pq.write_table(table.set_column(place, table.schema.field("labels"), column), file)
        changes["index"] = str(file)
    return set_up(make_recipe(archive, folder, **changes), Storage())


@pytest.mark.parametrize(
    ("changes", "notes"),
    [
        ({}, ()),
        ({"labels": {"train": lambda old: [old[0], 0]}},
         ("left: the same on every train tile, so cannot be learnt",)),
        ({"labels": {"val": lambda _: [0, 0]}, "best": "loss"},
         ("bright, left: the same on every val tile, so cannot be judged",)),
        ({"augment": {"scale": 0.3, "crop": "random"}},
         ("augment.scale=0.3 does nothing here: it works with augment.crop=resized",)),
        ({"variant": of_backbone("resnet200"), "weights": "pretrained"},
         ("tower rgb: nobody has published weights of resnet200; it trains from scratch "
          "(weights=none says so too)",)),
    ],
)  # fmt: skip
def test_what_a_recipe_probably_did_not_mean_is_noted(archive, tmp_path, changes, notes):
    assert setup(archive, tmp_path, **changes).notes == notes


def test_a_backbone_that_nobody_has_published_trains_from_scratch(archive):
    tree = {"index": archive.index, "variant": of_backbone("resnet200"), "batch": 8}
    found = set_up(validate(TrainRecipe, tree), Storage())
    assert (found.recipe.stages, found.weights) == (FROM_SCRATCH, {"rgb": "none"})
    by_hand = validate(TrainRecipe, {**tree, "stages": [{"trainable": "head"}]})
    assert [s.trainable for s in set_up(by_hand, Storage()).recipe.stages] == ["head"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"labels": {"train": lambda _: [1, 0]}},
         "48 tiles of split train are alike: nothing to learn; accepted: both kinds"),
        ({"labels": {"val": lambda _: [0, 0]}},
         "16 tiles of split val are alike: best=map cannot be measured"),
        ({"loss": {"name": "cross_entropy"}}, "loss.name=cross_entropy: does not fit a multilabel"),
        ({"sync_batchnorm": True}, "sync_batchnorm=true: works on GPUs only"),
        ({"accumulate": 3}, r"batch=8: does not divide over 1 workers and 3 parts each"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_one_line(archive, tmp_path, changes, says):
    with pytest.raises(InputError, match=says) as error:
        setup(archive, tmp_path, **changes)
    assert "\n" not in str(error.value)


def test_drop_path_reaches_backbones_that_have_it(archive, tmp_path):
    found = setup(archive, tmp_path, variant=of_backbone("resnet10t"), drop_path=0.2)
    rates = [each.drop_prob for each in found.network().modules() if hasattr(each, "drop_prob")]
    assert max(rates) == pytest.approx(0.2)
    with pytest.raises(InputError, match=r"drop_path=0\.2: simple_cnn has no .*accepted: 0"):
        setup(archive, tmp_path, drop_path=0.2).network()
