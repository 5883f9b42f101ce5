"""Backbones by name: `simple_cnn`, or any timm model that gives a feature map.

timm is imported only within the functions that build: it costs two seconds or three.

Legend: B tiles, C input bands, H W pixels, D feature channels, h w feature cells, N tokens.
"""

from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn

from satray.errors import InputError

SIMPLE_CNN = "simple_cnn"
NO_BRANCHES = "drop_path={:g}: {} has no residual branches that timm can drop; accepted: 0"

AFTER_FEATURES = (
    "head", "heads", "fc", "classifier", "conv_head", "norm_head", "fc_norm", "attn_pool",
)  # fmt: skip
"""Modules that timm uses after the features only, in some models; with parameters left there,
DistributedDataParallel would wait for gradients that never come."""

# Containers whose children are blocks of their own (`stages.3`), not one block.
_CONTAINERS = ("blocks", "stages", "features", "layers")
_CHANNELS = (24, 48, 96, 128, 128)
_GROUPS = 8


class Backbone(nn.Module):
    """One convolutional trunk: x_BCHW (normalised, float) -> f_BDhw.

    `dim` is D, `first_conv` the name of its first convolution in `body`, and `body` the network
    itself.
    """

    def __init__(self, name: str, body: nn.Module, dim: int, first_conv: str | None) -> None:
        super().__init__()
        self.name = name
        self.body = body
        self.dim = dim
        self.first_conv = first_conv

    @property
    def blocks(self) -> tuple[str, ...]:
        """Names of its parts with parameters, in forward order (`stages[].trainable`)."""
        names: list[str] = []
        for name, child in self.body.named_children():
            parts = {name: child}
            if name in _CONTAINERS:
                parts = {f"{name}.{inner}": block for inner, block in child.named_children()}
            names += [part for part, block in parts.items() if _has_parameters(block)]
        return tuple(names)

    def block(self, name: str) -> nn.Module:
        """The part of that name."""
        return self.body.get_submodule(name)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Features of a batch; maps with channels last are turned round, patch tokens laid out."""
        body: Any = self.body
        f: Tensor = body.forward_features(x_BCHW)
        if f.ndim == 3:  # tokens, after a class token and registers
            h, w = body.patch_embed.dynamic_feat_size(tuple(x_BCHW.shape[2:]))
            f_BND = f[:, body.num_prefix_tokens :]
            return f_BND.transpose(1, 2).reshape(len(f_BND), self.dim, h, w)
        if f.ndim == 4 and f.shape[1] != self.dim and f.shape[-1] == self.dim:
            f = f.permute(0, 3, 1, 2)
        return f


class SimpleCNN(nn.Module):
    """Our small network: five convolutions with group normalisation; 310 thousand parameters.

    x_BCHW -> f_BDhw with D = 128, h = H // 8, w = W // 8. Group normalisation has no running state
    and does not look across the batch, so N workers train as one does, and small batches work.
    Pools of 2 without padding keep the cells centred: cell i looks at 4 + 8 i px.
    """

    def __init__(self, in_chans: int) -> None:
        super().__init__()
        before = in_chans
        self.feature_info = [  # as timm's networks have it
            {"num_chs": _CHANNELS[block - 1], "reduction": stride, "module": f"block{block}"}
            for block, stride in ((1, 2), (2, 4), (5, 8))
        ]
        for number, channels in enumerate(_CHANNELS, start=1):
            layers = [
                nn.Conv2d(before, channels, 3, padding=1, bias=False),
                nn.GroupNorm(_GROUPS, channels),
                nn.ReLU(inplace=True),
            ]
            pool = [nn.MaxPool2d(2)] if number <= 3 else []
            self.add_module(f"block{number}", nn.Sequential(*layers, *pool))
            before = channels
        self.num_features = before

    def forward_features(self, x_BCHW: Tensor) -> Tensor:
        """The features of a batch, f_BDhw."""
        for block in self.children():
            x_BCHW = block(x_BCHW)
        return x_BCHW


def build(name: str, in_chans: int, drop_path: float = 0.0) -> Backbone:
    """A backbone with fresh random weights (torch's global generator).

    Args:
        name: `simple_cnn` or a timm model name, with or without a tag (`resnet18.tv_in1k`).
        in_chans: input channels.
        drop_path: stochastic depth: share of the last residual branch's uses that are skipped in
            training, rising from 0 at the first (timm's `drop_path_rate`).

    Raises:
        InputError: the name is not known, the model gives no feature map, or it has no residual
            branches to drop.
    """
    if name == SIMPLE_CNN:
        if drop_path > 0:
            raise InputError(NO_BRANCHES.format(drop_path, name))
        simple = SimpleCNN(in_chans)
        return Backbone(name, simple, simple.num_features, "block1.0")
    options: dict[str, Any] = {"num_classes": 0, "drop_path_rate": drop_path or None}
    try:
        body = timm_model(name, in_chans, global_pool="", **options)
    except InputError:  # some cannot do without their own pooling, which is not run
        body = timm_model(name, in_chans, **options)
    first = body.default_cfg.get("first_conv")
    backbone = Backbone(
        name, body, int(body.num_features), first if isinstance(first, str) else None
    )
    _check_features(backbone, in_chans)
    return backbone


def timm_model(name: str, in_chans: int, **options: Any) -> Any:
    """A network of timm's with fresh random weights, that takes inputs of any size if it can.

    Args:
        name: of timm, with a tag or without.
        in_chans: input channels.
        options: further ones of `timm.create_model`.

    Raises:
        InputError: timm does not know the name, or cannot build it so.
    """
    import timm

    if not timm.is_model(name):
        near = get_close_matches(name, [SIMPLE_CNN, *timm.list_models()], n=3)
        hint = f"nearest: {', '.join(near)}" if near else "see timm.list_models()"
        raise InputError(f"backbone={name!r} is not simple_cnn nor a timm model; {hint}")
    try:
        try:  # transformers with a fixed input size can be told to take any
            return timm.create_model(name, in_chans=in_chans, dynamic_img_size=True, **options)
        except TypeError:
            return timm.create_model(name, in_chans=in_chans, **options)
    except (AttributeError, TypeError, RuntimeError, ValueError, AssertionError) as error:
        if "drop_path_rate" in str(error):
            raise InputError(NO_BRANCHES.format(options["drop_path_rate"], name)) from error
        raise InputError(
            f"backbone={name!r} cannot be built for {in_chans} bands: {error}"
        ) from error


def _check_features(backbone: Backbone, in_chans: int) -> None:
    """Check that features are a map, and drop the children that come after them.

    Only models that keep parameters in such a child, or are not plainly convolutional, are run
    (once, on one tile of their usual size).
    """
    body: Any = backbone.body
    suspects = [
        name
        for name, child in body.named_children()
        if name in AFTER_FEATURES and _has_parameters(child)
    ]
    convolutional = any(isinstance(module, nn.BatchNorm2d) for module in body.modules())
    if convolutional and not suspects:
        return
    side = 96 if convolutional else int(body.default_cfg["input_size"][-1])
    try:
        f = backbone.eval()(torch.zeros(1, in_chans, side, side))
    except (AttributeError, RuntimeError, AssertionError) as error:
        raise InputError(
            f"backbone={backbone.name!r} gives no feature map ({error}); accepted: convolutional "
            "models, and transformers over patches"
        ) from error
    if f.ndim != 4 or f.shape[1] != backbone.dim:
        raise InputError(
            f"backbone={backbone.name!r} gives features of shape {tuple(f.shape)}, not a map"
        )
    for name in suspects:
        parameters = tuple(body.get_submodule(name).parameters())
        moved = torch.autograd.grad(f.sum(), parameters, retain_graph=True, allow_unused=True)
        if all(gradient is None for gradient in moved):
            setattr(body, name, nn.Identity())
    backbone.train()


def _has_parameters(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None
