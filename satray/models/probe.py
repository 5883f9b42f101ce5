"""Find a backbone's feature grid by asking which columns of the input move which cells.

In a copy of the network, every convolution becomes a box filter over the mean channel, and every
normalisation is taken out. What is left adds and averages positions, so that the gradient of a cell
is a footprint on the input: its centre of gravity is the cell's centre, its ends are those of the
receptive field. Maxima hand all to the upper end of a ramp, and to the lower end of the reversed
one, so both together are even. A large base value keeps activations in their linear part and gates
(sigmoids of means) fully open. A tiny one leaves gates half open: a cell that then moves with every
column looks at the whole map (squeeze-excite, say).

Only one axis is probed, on a long and low input: the networks are the same along both.

Legend: C channels, H W pixels, h w feature cells.
"""

import math
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from satray.models.backbones import Backbone, build
from satray.models.geometry import FeatureGrid

_LENGTH = 2048
_LOW = 96
_OPEN = 1e4
_HALF_OPEN = 1e-20
_TOLERANCE = 1e-3  # px

_NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm, nn.InstanceNorm2d)
# Their statistics run over the whole map, so that a far pixel moves every cell.
_GLOBAL_NORMS = (nn.GroupNorm, nn.InstanceNorm2d)


class _Box(nn.Module):
    """A convolution that averages: the mean over channels, then over the window."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.kernel, self.stride, self.dilation = conv.kernel_size, conv.stride, conv.dilation
        self.outputs, self.all_outputs = 1, conv.out_channels
        self.padding = conv.padding
        self.same = type(conv).__name__.endswith("Same")

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_B1HW = x_BCHW.mean(1, keepdim=True)
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
        self.outputs, self.all_outputs = 1, linear.out_features

    def forward(self, x: Tensor) -> Tensor:
        y = x.mean(-1, keepdim=True)
        return y if self.outputs == 1 else y.expand(*y.shape[:-1], self.outputs).contiguous()


@lru_cache(maxsize=64)
def probe_grid(backbone: str) -> FeatureGrid:
    """The feature grid of a backbone by name; found once in a process, in a second or so.

    Where the network is no shift-invariant filter (attention), cells are taken as the centred
    patches of the stride that timm states, with no halo.

    Raises:
        InputError: the backbone is not known, or gives no feature map.
    """
    with torch.random.fork_rng(devices=[]):  # its weights are thrown away
        net = build(backbone, 1).double().eval().requires_grad_(False)
    info: Any = getattr(net.body, "feature_info", None)
    stated = float(info[-1]["reduction"]) if isinstance(info, list) else 32.0
    return _filter_grid(net) or FeatureGrid(stated, stated / 2, None)


def _filter_grid(net: Backbone) -> FeatureGrid | None:
    """The grid of a network that is a filter; None if it is none. The network is taken apart."""
    kinds = {type(module).__name__ for module in net.modules()}
    if any("Attention" in kind for kind in kinds):
        return None
    is_global = any(isinstance(module, _GLOBAL_NORMS) for module in net.modules())
    is_global = is_global or "GlobalResponseNorm" in kinds
    _flatten(net)
    try:
        (first, middle, last), footprints_3W, n = _footprints(net, _OPEN)
        if not is_global:
            _, far_3W, _ = _footprints(net, _HALF_OPEN)
            is_global = bool(far_3W[1, 0] != 0 and far_3W[1, -1] != 0)
    except (RuntimeError, AssertionError, AttributeError, ValueError, IndexError):
        return None  # a fixed input size, say
    centre_W = torch.arange(_LENGTH, dtype=torch.float64) + 0.5
    centres = [float((f_W * centre_W).sum() / f_W.sum()) for f_W in footprints_3W]
    stride = (centres[2] - centres[0]) / (last - first)
    regular = abs(centres[0] + centres[2] - 2 * centres[1]) < _TOLERANCE
    touched = footprints_3W[1].nonzero().flatten()
    left, right = int(touched[0]), _LENGTH - 1 - int(touched[-1])  # px that it is from the ends
    if not regular or abs(stride * n / _LENGTH - 1) > 0.05 or left == right == 0:
        return None
    clear = [math.floor(px / stride + _TOLERANCE) for px in (left, right)]
    halo = None if is_global else max(middle - clear[0], n - 1 - middle - clear[1], 0)
    return FeatureGrid(round(stride, 6), round(centres[1] - stride * middle, 6), halo)


def _footprints(net: Backbone, base: float) -> tuple[list[int], Tensor, int]:
    """Three cells in the middle of a row, where zero padding is far, and what moves them.

    Returns:
        the cells, how much each column of the input moves each (3, W), and all cells of the row.
    """
    ramp_W = base * (1 + torch.arange(_LENGTH, dtype=torch.float64) / _OPEN)
    ramps_2W = torch.stack((ramp_W, ramp_W.flip(0)))
    x_2CHW = ramps_2W[:, None, None].repeat(1, 1, _LOW, 1).requires_grad_()
    try:
        f_2Dhw = net(x_2CHW)
    except (RuntimeError, AssertionError, ValueError, IndexError):  # it counts channels
        for module in net.modules():
            if isinstance(module, _Box | _Mean):
                module.outputs = module.all_outputs
        f_2Dhw = net(x_2CHW)
    row_w = f_2Dhw[:, :, f_2Dhw.shape[2] // 2].sum((0, 1))
    n = len(row_w)
    cells = [n // 2 - n // 8, n // 2, n // 2 + n // 8]
    footprints = [
        torch.autograd.grad(row_w[cell], x_2CHW, retain_graph=True)[0].sum((0, 1, 2))
        for cell in cells
    ]
    return cells, torch.stack(footprints), n


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
