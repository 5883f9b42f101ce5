"""What a recipe of tune comes to: the default space, the trials, what is refused beforehand."""

import pytest
from sweep_material import BANDS, tune

from satray.errors import InputError
from satray.models.variant import BUILT_IN, input_bands
from satray.tune.defaults import default_space, variants_of
from satray.tune.resolve import configurations, count, rate_bounds, space_of
from satray.tune.space import Space
from satray.tune.trials import full_recipe

RATE, NAME = "stages.0.learning_rate", "stages.0.schedule.name"


def space(**keys) -> Space:
    return space_of(tune(**keys), BANDS, 1000)


def test_by_default_all_variants_with_cams_by_rates_by_schedules() -> None:
    found = configurations(tune(), space())
    schedules = 1 + 1 + 1 + 3 * 2  # constant, step, one_cycle; two cycles of those that cycle
    assert len(found) == 7 * 3 * schedules == count(tune(), space())
    assert {each["variant"] for each in found} == set(BUILT_IN) - {"simple_cnn", "simple_cnn_dense"}
    assert {full_recipe(tune(), each).weights for each in found} == {"pretrained"}
    for each in found:
        stage = full_recipe(tune(), each).stages[0]
        assert stage.trainable == "head"
        cycles = each[NAME] in ("triangular", "triangular2", "cosine_restarts")
        assert ("stages.0.schedule.cycle" in each) == cycles
        if cycles:  # whole cycles fit in
            assert (stage.pseudo_epochs / stage.schedule.cycle).is_integer()
        if each[NAME] == "step":  # it does drop
            assert stage.schedule.step < stage.pseudo_epochs / 2


def test_variants_are_those_that_the_bands_allow() -> None:
    rgb = default_space(tune(), ("red", "green", "blue"), 1000)["variant"]
    assert "single3" in rgb
    assert "single4" not in rgb
    assert all(set(input_bands(BUILT_IN[name])) == {"red", "green", "blue"} for name in rgb)
    with pytest.raises(InputError, match="no built-in variant fits the bands b1, b2"):
        default_space(tune(), ("b1", "b2"), 1000)


@pytest.mark.parametrize(
    ("base", "keys"),
    [
        ({"variant": "single4"}, {RATE, NAME}),
        ({"stages.0.learning_rate": 0.1}, {"variant", NAME}),
        ({"stages": [{"schedule": {"name": "cosine"}}]}, {"variant", RATE}),
        ({"stages": {"0": {"schedule": {"name": "cosine"}}}, "variant": "single3"}, {RATE}),
    ],
)
def test_what_base_fixes_is_not_searched_by_default(base, keys: set[str]) -> None:
    found = default_space(tune(base=base), BANDS, 1000)
    assert {key for key in found if "schedule." not in key or key == NAME} == keys
    assert ("stages.0.schedule.cycle" in found) == (NAME in keys)


def test_base_may_not_fix_everything() -> None:
    base = {"variant": "single3", RATE: 0.1, NAME: "constant"}
    with pytest.raises(InputError, match="base fixes all"):
        space(base=base)


def test_cycles_follow_the_stages_length() -> None:
    base = {"stages.0.samples": 4000}
    assert default_space(tune(base=base), BANDS, 1000)["stages.0.schedule.cycle"]["values"] == [
        1,
        2,
    ]
    base = {**base, "pseudo_epoch": 500}
    assert default_space(tune(base=base), BANDS, 1000)["stages.0.schedule.cycle"]["values"] == [
        2,
        4,
    ]


def test_searches_and_counts() -> None:
    for keys, trials in (
        ({"search": "random"}, 32),
        ({"search": "random", "trials": 5}, 5),
        ({"search": "grid", "trials": 20}, 20),
        ({"search": "random", "space": {"batch": [8, 16]}}, 2),
    ):
        recipe = tune(**keys)
        found = configurations(recipe, space(**keys))
        assert len(found) == trials == count(recipe, space(**keys))
    assert count(tune(search="optuna"), space(search="optuna")) == 32


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"base": {"learning_rate": 1}}, r"^base\.learning_rate: unknown key; did you mean stages"),
        ({"base": {"batch": 0}}, r"^base\.batch=0: accepted: 1 or more"),
        ({"base": {"batch": 0}, "space": {"dropout": [0.1]}}, r"^base\.batch=0: accepted: 1 or"),
        ({"base": {"variant": "singel3"}}, "did you mean single3"),
        ({"base": {"stages.3.trainable": "all"}}, r"^base\.stages\.3: a list of 1; accepted: 0"),
        ({"space": {"lerning_rate": [1, 2]}}, r"^space\.lerning_rate: unknown key; did you mean"),
        ({"space": {"schedule": {"name": ["step"]}}}, r"^space\.schedule.*did you mean stages\.N"),
        ({"space": {NAME: ["step", "stepp"]}}, r"^space\.stages\.0\.schedule\.name=stepp: acc"),
        (
            {"space": {"stages.0.schedule": [{"name": "step"}], NAME: ["step", "stepp"]}},
            r"^space\.stages\.0\.schedule\.name=stepp: acc",
        ),
        ({"space": {"variant": ["single3", "singel4"]}}, r"^space\.variant='singel4' is not known"),
        ({"space": {"batch": [16, "x"]}}, r"^space\.batch=x: accepted: an integer"),
        ({"space": {"dropout": {"uniform": [0, 1]}}}, r"^space\.dropout=1: accepted: below 1"),
        ({"space": {RATE: {"uniform": [-1, 1]}}}, r"^space\.stages\.0\.learning_rate=-1: .*above"),
        ({"space": {"out": ["a"]}}, r"^space\.out: not a trial's"),
        ({"base": {"index": "a"}}, r"^base\.index: not a trial's; accepted: index of tune"),
        ({"base": {"resources": {"workers": 2}}}, r"^base\.resources: not a trial's"),
        ({"space": {"best": ["map", "auc"]}}, r"^space\.best: .*accepted: metric="),
        ({"space": {"cache.gib": [1, 2]}}, r"^space\.cache\.gib: changes nothing"),
        ({"base": {"best": "auc"}, "metric": "map"}, r"^metric=map: base\.best=auc"),
        ({"space": {"input.resize": [200, 256]}}, r"^space\.input\.resize=200: .*below size=224"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("search", ["grid", "optuna"])
def test_what_cannot_be_valid_is_refused_before_anything_starts(keys, said: str, search) -> None:
    with pytest.raises(InputError, match=said) as found:
        space(**keys, search=search)
    assert "\n" not in str(found.value)


def test_values_that_need_each_other_are_judged_together() -> None:
    """A crop of 224 px does not fit every size by itself, but where both are searched it may."""
    together = {"input.size": [128, 256], "input.resize": [256]}
    assert len(configurations(tune(space=together), space(space=together))) == 2
    apart = {"input.size": [128, 256], "input.resize": [200]}
    with pytest.raises(InputError, match=r"^configuration input\.size=256, input\.resize=200: "):
        configurations(tune(space=apart), space(space=apart))
    mended = space(base={"input.resize": 150}, space={"input.size": [96, 128]})
    assert len(mended.grid()) == 2


def test_a_value_is_tried_where_its_axis_applies() -> None:
    """One tower's weights are a key of variants that have it."""
    found = space(
        space={
            "stages": [[{"trainable": "head"}], [{"trainable": "head"}, {"trainable": "all"}]],
            "batch": [8],
        }
    )
    assert len(found.grid()) == 2


def test_range_tests_seed_the_rates_of_each_variant() -> None:
    assert rate_bounds(1e-2, 1.0) == (1e-3, 1e-1)
    assert rate_bounds(1e-2, 1e-2) == (1e-3, 3e-2)  # not beyond where the loss bursts
    assert rate_bounds(1e-2, 1e-3) == (1e-3, 1e-2)
    keys = {"space": {"variant": ["single3", "single4"], RATE: [1.0], "batch": [8, 16]}}
    whole = space(**keys)
    assert variants_of(whole, tune(**keys)) == ["single3", "single4"]
    found = whole.with_ranges(
        RATE, "variant", [("single3", (1e-3, 1e-1)), ("single4", (1e-4, 1e-2))]
    )
    rates = {(each["variant"], each[RATE]) for each in found.grid()}
    assert rates == {
        ("single3", 1e-3), ("single3", 1e-2), ("single3", 1e-1),
        ("single4", 1e-4), ("single4", 1e-3), ("single4", 1e-2),
    }  # fmt: skip
    fixed = tune(base={"variant": "single4"}, space={"batch": [8]})
    assert variants_of(space_of(fixed, BANDS, 1000), fixed) == ["single4"]


@pytest.mark.parametrize(
    ("base", "all_of_them"),
    [({}, False), ({"weights": "imagenet"}, False), ({"weights": "none"}, True)],
)
def test_variants_that_nobody_has_published_are_left_out_unless_none_is_asked_for(
    base, all_of_them
) -> None:
    found = variants_of(space(base=base), tune(base=base))
    assert ("simple_cnn" in found) == all_of_them
    assert "xception" in found
