import math

import pytest
import torch
from timm.models import adapt_input_conv

from satray.config.train import TowerOptions, VariantOptions
from satray.errors import InputError
from satray.models.backbones import build
from satray.models.first_conv import adapt_first_conv
from satray.models.network import Network
from satray.models.variant import resolve
from satray.models.weights import load_weights

RGBN = ("red", "green", "blue", "nir")


def stored():
    return torch.randn(64, 3, 7, 7)


@pytest.mark.parametrize("how", ["kaiming", "zero"])
@pytest.mark.parametrize("bands", [RGBN, ("blue", "green", "red", "nir"), ("nir", *RGBN[:3])])
def test_rgb_weights_are_kept_bit_for_bit_by_name(how, bands):
    w = stored()
    adapted = adapt_first_conv(w, bands, how)
    for channel, band in enumerate(("red", "green", "blue")):
        assert torch.equal(adapted[:, bands.index(band)], w[:, channel])
    nir = adapted[:, bands.index("nir")]
    if how == "zero":
        assert not nir.any()
    else:  # the report's: fan-in of the NIR part alone
        assert nir.std() == pytest.approx(math.sqrt(2 / 49), rel=0.05)


@pytest.mark.parametrize("n", [1, 2, 4, 5, 8])
def test_copy_is_timms(n):
    w = stored()
    bands = (*RGBN, "swir16", "swir22", "pan", "coastal")[:n]
    torch.testing.assert_close(adapt_first_conv(w, bands, "copy"), adapt_input_conv(n, w))


def test_mean_keeps_the_sum_over_channels():
    w = stored()
    adapted = adapt_first_conv(w, RGBN, "mean")
    torch.testing.assert_close(adapted[:, 3], w.mean(1) * 0.75)
    torch.testing.assert_close(adapted[:, :3], w * 0.75)
    torch.testing.assert_close(adapted.sum(1), w.sum(1))
    torch.testing.assert_close(adapt_first_conv(w, ("pan",), "mean")[:, 0], w.sum(1))


def test_three_other_bands_take_the_weights_as_they_are():
    w = stored()
    for bands in (("nir",) * 3, ("nir", "red", "green"), ("red", "green", "blue")):
        assert torch.equal(adapt_first_conv(w, bands, "kaiming"), w)


def test_three_bands_in_another_order_take_them_by_name():
    w = stored()
    assert torch.equal(adapt_first_conv(w, ("blue", "green", "red"), "kaiming"), w.flip(1))


def test_weights_for_as_many_bands_are_taken_as_they_are():
    w = torch.randn(8, 4, 3, 3)
    assert torch.equal(adapt_first_conv(w, RGBN, "mean"), w)


def test_what_cannot_be_adapted():
    with pytest.raises(InputError, match=r"takes 2 bands; accepted: 3 .*tower's 4"):
        adapt_first_conv(torch.randn(8, 2, 3, 3), RGBN, "mean")
    with pytest.raises(InputError, match="would blind a tower of vv, vh"):
        adapt_first_conv(stored(), ("vv", "vh"), "zero")


def test_zero_gives_the_rgb_networks_outputs():
    rgb, four = (Network(resolve(name), 2).eval() for name in ("single3", "single4"))
    state = rgb.backbones()["rgb"].body.state_dict()
    load_weights(state, four.backbones()["all"], RGBN, "zero")
    four.head.load_state_dict(rgb.head.state_dict())
    x = torch.randn(2, 4, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(four(x), rgb(x[:, :3]))


@pytest.mark.parametrize("order", [RGBN, ("blue", "green", "red", "nir")])
def test_single4_holds_the_pretrained_weights_whatever_the_band_order(order):
    pretrained = build("resnet18", 3).body.state_dict()
    network = Network(resolve("single4"), 17, bands=order)
    load_weights(pretrained, network.backbones()["all"], RGBN)
    conv1 = network.backbones()["all"].body.conv1.weight
    assert torch.equal(conv1[:, :3], pretrained["conv1.weight"])
    assert not torch.equal(conv1[:, 3], conv1[:, 0])


def test_other_backbones_first_convolutions():
    for name in ("resnetv2_50", "mobilenetv2_100", "inception_v3", "legacy_xception"):
        tower = TowerOptions(name="all", backbone=name, bands=RGBN)
        network = Network(VariantOptions(towers=(tower,)), 1)
        three = build(name, 3)
        state = three.body.state_dict()
        report = load_weights(state, network.backbones()["all"], RGBN)
        first = network.backbones()["all"].body.get_submodule(three.first_conv).weight
        assert torch.equal(first[:, :3], state[f"{three.first_conv}.weight"])
        assert report.others == 0
