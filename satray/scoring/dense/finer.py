"""Maps of twice as many cells a side: the last stage dilated in place of strided.

The same weights on a lattice of half the stride; every second cell is the coarse map's, exactly,
and those between are what the network would say of a scene shifted by half a cell. Means over
finer maps are no logits: tiles are scored on the coarse cells.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from satray.errors import InputError
from satray.models.backbones import SIMPLE_CNN, Backbone
from satray.models.bundle import Bundle

FACTOR = 2
"""Finer cells a coarse one, along a side."""

_SIDE = 160
"""Side of the noise that both are tried on, in px."""


def finer_features(bundle: Bundle) -> Callable[[Tensor], dict[str, Tensor]]:
    """Features on the finer lattice: x_BCHW -> f_BDhw by tower, `[..., ::2, ::2]` the coarse ones.

    Args:
        bundle: its weights are shared where modules allow, else copied.

    Raises:
        InputError: a backbone has no last stage that can be dilated, or not exactly.
    """
    towers = {name: _dilated(tower) for name, tower in bundle.network.backbones().items()}
    for name, tower in towers.items():
        tower.to(bundle.device).to(memory_format=torch.channels_last)
        _check(bundle.network.backbones()[name], tower)

    def features(x_BCHW: Tensor) -> dict[str, Tensor]:
        looks = {
            name: x_BCHW.index_select(1, bundle.network.get_buffer(f"take_{name}"))
            for name in towers
        }
        return {name: tower(looks[name]) for name, tower in towers.items()}

    return features


def _dilated(backbone: Backbone) -> Backbone:
    import timm

    refusal = InputError(
        f"finer: {backbone.name} has no last stage that can be dilated; accepted: ResNets and "
        "others that timm builds with output_stride=16"
    )
    if backbone.name == SIMPLE_CNN:
        raise refusal
    first = backbone.body.get_parameter(f"{backbone.first_conv}.weight")
    try:
        with torch.random.fork_rng(devices=[]):  # its first weights are thrown away
            body = timm.create_model(
                backbone.name,
                pretrained=False,
                in_chans=first.shape[1],
                num_classes=0,
                global_pool="",
                output_stride=32 // FACTOR,
            )
        body.load_state_dict(backbone.body.state_dict())
    except (TypeError, RuntimeError, ValueError, AssertionError, NotImplementedError) as error:
        raise refusal from error
    made = Backbone(backbone.name, body, backbone.dim, backbone.first_conv)
    return made.requires_grad_(False).eval()


@torch.inference_mode()
def _check(coarse: Backbone, fine: Backbone) -> None:
    """Try both on noise."""
    first = coarse.body.get_parameter(f"{coarse.first_conv}.weight")
    noise = torch.Generator().manual_seed(0)
    x_1CHW = torch.randn(1, first.shape[1], _SIDE, _SIDE, generator=noise).to(first.device)
    wanted, found = coarse(x_1CHW), fine(x_1CHW)[:, :, ::FACTOR, ::FACTOR]
    bound = 1e-4 * float(wanted.abs().max())
    if found.shape != wanted.shape or float((found - wanted).abs().max()) > bound:
        raise InputError(
            f"finer: {coarse.name} with its last stage dilated does not give the same cells; "
            "accepted: ResNets"
        )
