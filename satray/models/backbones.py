"""Backbones by name: `simple_cnn`, or any timm model that gives a feature map.

timm is imported within `build` only: it costs two seconds or three.
"""

from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn

from satray.errors import InputError
from satray.models.simple_cnn import SimpleCNN

SIMPLE_CNN = "simple_cnn"

# Containers whose children are blocks of their own (`stages.3`), not one block.
_CONTAINERS = ("blocks", "stages", "features", "layers")

# Modules that timm uses after the features only, in some models; with parameters left there,
# DistributedDataParallel would wait for gradients that never come.
AFTER_FEATURES = ("head", "fc", "classifier", "conv_head", "norm_head", "fc_norm")


class Backbone(nn.Module):
    """One convolutional trunk: x_BCHW (normalised, float) -> f_BDhw.

    `dim` is D, `blocks` its parts in forward order (names for `stages[].trainable`), `first_conv`
    the name of its first convolution in `body`, and `body` the network itself.
    """

    def __init__(self, name: str, body: nn.Module, dim: int, first_conv: str | None) -> None:
        super().__init__()
        self.name = name
        self.body = body
        self.dim = dim
        self.first_conv = first_conv
        self.blocks = _block_names(body)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Features of a batch; maps with channels last are turned round."""
        f: Tensor = self.body.forward_features(x_BCHW)  # type: ignore[operator]
        if f.ndim == 3:
            return self._as_map(f, x_BCHW.shape[2], x_BCHW.shape[3])
        if f.ndim == 4 and f.shape[1] != self.dim and f.shape[-1] == self.dim:
            f = f.permute(0, 3, 1, 2)
        return f

    def _as_map(self, f_BND: Tensor, height: int, width: int) -> Tensor:
        """Patch tokens as a map, without the class token and registers."""
        body: Any = self.body
        h, w = body.patch_embed.dynamic_feat_size((height, width))
        f_BnD = f_BND[:, body.num_prefix_tokens :]
        return f_BnD.transpose(1, 2).reshape(len(f_BnD), self.dim, h, w)

    def block(self, name: str) -> nn.Module:
        """The part of that name."""
        return self.body.get_submodule(name)


def build(name: str, in_chans: int) -> Backbone:
    """A backbone with fresh random weights (torch's global generator).

    Args:
        name: `simple_cnn` or a timm model name, with or without a tag (`resnet18.tv_in1k`).
        in_chans: input channels.

    Raises:
        InputError: the name is not known, or the model gives no feature map.
    """
    if name == SIMPLE_CNN:
        simple = SimpleCNN(in_chans)
        return Backbone(name, simple, simple.num_features, "block1.0")
    import timm

    if not timm.is_model(name):
        known = [SIMPLE_CNN, *timm.list_models()]
        near = get_close_matches(name, known, n=3)
        hint = f"nearest: {', '.join(near)}" if near else "see timm.list_models()"
        raise InputError(f"backbone={name!r} is not simple_cnn nor a timm model; {hint}")
    options: dict[str, Any] = {
        "pretrained": False,
        "in_chans": in_chans,
        "num_classes": 0,
        "global_pool": "",
    }
    try:
        try:  # transformers with a fixed input size can be told to take any
            body: Any = timm.create_model(name, **options, dynamic_img_size=True)
        except TypeError:
            body = timm.create_model(name, **options)
    except (TypeError, RuntimeError, ValueError, AssertionError) as error:
        raise InputError(
            f"backbone={name!r} cannot be built for {in_chans} bands without a head: {error}"
        ) from error
    first = body.default_cfg.get("first_conv")
    first = first if isinstance(first, str) else None
    backbone = Backbone(name, body, int(body.num_features), first)
    _check_features(backbone, in_chans)
    backbone.blocks = _block_names(body)
    return backbone


def _check_features(backbone: Backbone, in_chans: int) -> None:
    """Check that features are a map, and drop the children that come after them.

    Only models that keep parameters in such a child, or are not plainly convolutional, are run
    (once, on one tile of their usual size).
    """
    body: Any = backbone.body
    suspects = [
        child
        for child in AFTER_FEATURES
        if any(True for _ in getattr(body, child, nn.Identity()).parameters())
    ]
    convolutional = any(isinstance(module, nn.BatchNorm2d) for module in body.modules())
    if convolutional and not suspects:
        return
    called: set[str] = set()
    handles = [
        module.register_forward_hook(lambda *_, path=path: called.add(path))
        for path, module in body.named_modules()
    ]
    side = 96 if convolutional else int(body.default_cfg["input_size"][-1])
    try:
        with torch.no_grad():
            f = backbone.eval()(torch.zeros(1, in_chans, side, side))
    except (AttributeError, RuntimeError, AssertionError) as error:
        raise InputError(
            f"backbone={backbone.name!r} gives no feature map ({error}); accepted: convolutional "
            "models, and transformers over patches"
        ) from error
    finally:
        backbone.train()
        for handle in handles:
            handle.remove()
    if f.ndim != 4 or f.shape[1] != backbone.dim:
        raise InputError(
            f"backbone={backbone.name!r} gives features of shape {tuple(f.shape)}, not a map"
        )
    for child in suspects:
        if not any(path == child or path.startswith(f"{child}.") for path in called):
            setattr(body, child, nn.Identity())


def _block_names(body: nn.Module) -> tuple[str, ...]:
    """Direct children with parameters, in order; containers give their children instead."""
    names: list[str] = []
    for name, child in body.named_children():
        if not any(True for _ in child.parameters()):
            continue
        if name in _CONTAINERS:
            names += [
                f"{name}.{inner}"
                for inner, block in child.named_children()
                if any(True for _ in block.parameters())
            ]
        else:
            names.append(name)
    return tuple(names)
