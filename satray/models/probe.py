"""Find a backbone's feature grid by looking at what comes out of ramps.

In a copy of the network, every convolution becomes a box filter over the mean channel and every
normalisation is taken out. What is left adds and averages positions: fed with the coordinate
itself, each cell gives the coordinate of its centre. Maxima lean to the upper end of a ramp, and
to the lower end of the reversed ramp by as much, so half the difference is exact. A large base
value keeps activations in their linear part and gates (sigmoids of means) fully open. A constant
input gives the gain. Only the cells in the middle are looked at, where zero padding is far.

The halo is exact: a second run marks a strip at either end, takes maxima in place of means, and
counts how many cells the mark spreads over.

Only one axis is probed, on a long and low input: the networks are the same along both.
"""

import math
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from satray.models.backbones import Backbone, build
from satray.models.geometry import FeatureGrid

_LENGTH = 2048
_LOW = 96
_BASE = 1e4
_STRIP = 256
_TOLERANCE = 1e-3  # px

_NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm, nn.InstanceNorm2d)
# Their statistics run over the whole map, so that a far pixel moves every cell.
_GLOBAL_NORMS = (nn.GroupNorm, nn.InstanceNorm2d)
_GLOBAL_FUNCTIONS = {"adaptive_avg_pool2d", "adaptive_max_pool2d", "softmax"}


class _Box(nn.Module):
    """A convolution that averages: the mean over channels, then over the window."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.kernel, self.stride, self.dilation = conv.kernel_size, conv.stride, conv.dilation
        self.inputs = conv.in_channels
        self.outputs = 1
        self.all_outputs = conv.out_channels
        self.padding = conv.padding
        self.spread = False  # maxima in place of means
        self.same = type(conv).__name__.endswith("Same")

    def forward(self, x_BCHW: Tensor) -> Tensor:
        mean = torch.amax if self.spread else torch.mean
        x_B1HW = mean(x_BCHW, 1, keepdim=True)
        padding: Any = self.padding
        if self.same:
            from timm.layers.padding import pad_same

            kernel, stride, dilation = map(list, (self.kernel, self.stride, self.dilation))
            x_B1HW, padding = pad_same(x_B1HW, kernel, stride, dilation), 0
        weight = x_B1HW.new_full((1, 1, *self.kernel), 1 / math.prod(self.kernel))
        y_B1hw = F.conv2d(x_B1HW, weight, None, self.stride, padding, self.dilation)
        # All channels would be the same, so that one does unless the network counts them.
        return y_B1hw if self.outputs == 1 else y_B1hw.repeat(1, self.outputs, 1, 1)


class _Mean(nn.Module):
    """A linear map over the last axis that averages."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.outputs = 1
        self.all_outputs = linear.out_features
        self.spread = False

    def forward(self, x: Tensor) -> Tensor:
        y = (torch.amax if self.spread else torch.mean)(x, -1, keepdim=True)
        return y if self.outputs == 1 else y.expand(*y.shape[:-1], self.outputs).contiguous()


class _AttentionError(Exception):
    """The network attends: it is no filter, and there is no use in going on."""


class _Watch(TorchFunctionMode):
    """Notes whether anything looked at the whole map at once; ends at attention."""

    def __init__(self) -> None:
        super().__init__()
        self.is_global = False

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name == "scaled_dot_product_attention":
            raise _AttentionError
        if name in _GLOBAL_FUNCTIONS:
            self.is_global = True
        elif name == "mean" and isinstance(args[0], Tensor) and args[0].ndim == 4:
            dims = args[1] if len(args) > 1 else kwargs.get("dim")
            if dims is None or (isinstance(dims, list | tuple) and len(dims) > 1):
                self.is_global = True
        return func(*args, **kwargs)


@lru_cache(maxsize=64)
def probe_grid(backbone: str) -> FeatureGrid:
    """The feature grid of a backbone by name; found once in a process, in a second or so.

    Raises:
        InputError: the backbone is not known, or gives no feature map.
    """
    with torch.random.fork_rng(devices=[]):  # its weights are thrown away
        return probe(build(backbone, 1))


def probe(backbone: Backbone) -> FeatureGrid:
    """Stride, first centre and halo of a backbone's cells.

    Where the network is no shift-invariant filter (attention), cells are taken as the centred
    patches of their stride, with no halo. The backbone is taken apart: give one built for this.
    """
    net = backbone.double().eval().requires_grad_(False)
    has_global_norm = any(isinstance(module, _GLOBAL_NORMS) for module in net.modules())
    _flatten(net)
    centre_px = torch.arange(_LENGTH, dtype=torch.float64) + 0.5
    ramps_3W = torch.stack(
        (_BASE + centre_px, _BASE + (_LENGTH - centre_px), torch.full_like(centre_px, _BASE))
    )
    try:
        with _Watch() as watch:
            up_n, down_n, gain_n = _run_any(net, ramps_3W)
    except _AttentionError:
        return _patches(backbone)
    except (RuntimeError, AssertionError, AttributeError, ValueError):  # a fixed input size, say
        return _patches(backbone)
    n = len(gain_n)
    centres_n = (up_n - down_n) / (2 * gain_n / _BASE) + _LENGTH / 2
    inner = slice(n // 2 - n // 8, n // 2 + n // 8)  # where zero padding is far
    centres_i, i = centres_n[inner], torch.arange(n, dtype=torch.float64)[inner]
    if len(i) < 2:
        return _patches(backbone)
    stride = float((centres_i[-1] - centres_i[0]) / (i[-1] - i[0]))
    first = float(centres_i[0] - stride * i[0])
    if abs(stride * n / _LENGTH - 1) > 0.05 or not bool(
        ((centres_i - (first + stride * i)).abs() < _TOLERANCE).all()
    ):
        return _patches(backbone)
    halo = None if watch.is_global or has_global_norm else _halo(net, stride)
    return FeatureGrid(round(stride, 6), round(first, 6), halo)


def _run_any(net: Backbone, lines_NW: Tensor) -> Tensor:
    """`_run` with one channel, or with all where the network splits channels."""
    try:
        return _run(net, lines_NW)
    except (RuntimeError, AssertionError, ValueError, IndexError):
        for module in net.modules():
            if isinstance(module, _Box | _Mean):
                module.outputs = module.all_outputs
        return _run(net, lines_NW)


def _run(net: Backbone, lines_NW: Tensor) -> Tensor:
    """The mean channel of the middle row of features, y_Nw, of N lines repeated downwards."""
    first = next(module for module in net.modules() if isinstance(module, _Box))
    x_NCHW = lines_NW[:, None, None, :].expand(-1, first.inputs, _LOW, -1)
    with torch.no_grad():
        f_NDhw: Tensor = net(x_NCHW)
    return f_NDhw[:, :, f_NDhw.shape[2] // 2].mean(1)


def _halo(net: Backbone, stride: float) -> int | None:
    """Cells from a border that what lies beyond it can reach; None if that is nearly all."""
    for module in net.modules():
        if isinstance(module, _Box | _Mean):
            module.spread = True
    cells = max(1, round(_STRIP / stride))
    strip = round(cells * stride)
    marks_2W = torch.zeros(2, _LENGTH, dtype=torch.float64)
    marks_2W[0, :strip] = 1
    marks_2W[1, -strip:] = 1
    spread_2n = _run(net, marks_2W)
    clean_left, clean_right = ((row == 0).nonzero().flatten().tolist() for row in spread_2n)
    if not clean_left or not clean_right:
        return None
    last = spread_2n.shape[1] - cells - 1  # last cell of an input that ends before the strip
    return int(max(clean_left[0] - cells, last - clean_right[-1], 0))


def _flatten(module: nn.Module) -> None:
    """Turn convolutions into box filters, drop normalisations and clamps, average linear maps."""
    for name, child in module.named_children():
        if isinstance(child, nn.Conv2d):
            setattr(module, name, _Box(child))
        elif isinstance(child, _NORMS):
            act = getattr(child, "act", None)  # timm fuses activations into normalisations
            setattr(module, name, act if isinstance(act, nn.ReLU) else nn.Identity())
        elif isinstance(child, nn.Hardtanh):
            setattr(module, name, nn.Identity())
        elif isinstance(child, nn.Linear):
            setattr(module, name, _Mean(child))
        else:
            _flatten(child)


def _patches(backbone: Backbone) -> FeatureGrid:
    """Cells as centred patches: the stride that timm states, no halo."""
    info: Any = getattr(backbone.body, "feature_info", None)
    last = info[-1] if isinstance(info, list) else {}
    stride = float(last.get("reduction", 32))
    return FeatureGrid(stride, stride / 2, None)
