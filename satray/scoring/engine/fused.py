"""The fused engine: convolution, bias, sum and activation in one oneDNN call, channels last.

The operators are the ones that torch's own compiler emits for CPUs. They need no C compiler and
take any input size. Where torch is built without them, folded convolutions run as they are.

Legend: B windows or tiles, C channels, H x W px or cells, D features, h x w cells.
"""

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from satray.models.backbones import Backbone
from satray.scoring.engine.graph import bypass, finish, folded, module_of, put
from satray.scoring.engine.trunk import UnfitError


@dataclass(frozen=True)
class Activation:
    """What oneDNN does to a sum before it is written."""

    name: str = "none"
    """oneDNN's name for it."""
    numbers: tuple[float, ...] = ()
    """Its constants: the bounds of a clamp."""


RELU, SWISH, HARDSWISH = Activation("relu"), Activation("swish"), Activation("hardswish")
RELU6 = Activation("hardtanh", (0.0, 6.0))
FUNCTIONS: dict[Any, Activation] = {
    torch.relu: RELU,
    torch.relu_: RELU,
    F.relu: RELU,
    F.relu6: RELU6,
    F.silu: SWISH,
    F.hardswish: HARDSWISH,
}
SUMS = (operator.add, operator.iadd, torch.add)


class FusedTrunk:
    """A backbone as a graph of fused convolutions."""

    def __init__(self, backbone: Backbone) -> None:
        """Rewrite the backbone, which stays as it is; the copy has weights of its own.

        Raises:
            UnfitError: it cannot be traced, or there is nothing to fuse.
        """
        graph = folded(backbone)
        if _has_fused_ops():
            count = _fuse(graph)
        else:
            count = sum(isinstance(m, nn.Conv2d) for m in graph.modules())
        if not count:
            raise UnfitError(f"{backbone.name} has no plain convolution to fuse")
        self._graph = graph
        self._dim = backbone.dim

    def __call__(self, x_BCHW: Tensor) -> Tensor:
        """Features of normalised input."""
        f_BDhw: Tensor = self._graph(x_BCHW.contiguous(memory_format=torch.channels_last))
        if f_BDhw.ndim != 4 or f_BDhw.shape[1] != self._dim:
            raise UnfitError(f"its features come as {tuple(f_BDhw.shape)}, which is no map")
        return f_BDhw


class FusedConv(nn.Module):
    """One convolution with what comes after it."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.w_OIkk = conv.weight.detach().contiguous(memory_format=torch.channels_last)
        self.b_O = None if conv.bias is None else conv.bias.detach()
        padding: Any = conv.padding  # numbers; `_takes` leaves words to torch
        self.geometry = (list(padding), list(conv.stride), list(conv.dilation), conv.groups)
        self.activation = Activation()
        self._packed: tuple[torch.Size, Tensor] | None = None

    def forward(self, x_BCHW: Tensor, other_BOhw: Tensor | None = None) -> Tensor:
        """Convolve, add `other_BOhw` where given, activate."""
        name, numbers = self.activation.name, list(self.activation.numbers)
        op: Any = torch.ops.mkldnn._convolution_pointwise
        weights = (self._laid_out(x_BCHW.shape), self.b_O, *self.geometry)
        y_BOhw: Tensor
        if other_BOhw is None:
            y_BOhw = op(x_BCHW, *weights, name, numbers, "")
        else:
            after = None if name == "none" else name
            y_BOhw = op.binary(x_BCHW, other_BOhw, *weights, "add", 1.0, after, numbers, None)
        return y_BOhw

    def _laid_out(self, shape: torch.Size) -> Tensor:
        """The weights as oneDNN wants them for such an input, which it else does in each call.

        Only the last is kept: windows of a scene have one shape. One made for another shape gives
        the same, slower than none.
        """
        if self._packed is None or self._packed[0] != shape:
            pack: Any = torch.ops.mkldnn._reorder_convolution_weight
            self._packed = shape, pack(self.w_OIkk, *self.geometry, list(shape))
        return self._packed[1]


def _has_fused_ops() -> bool:
    needed = ("_convolution_pointwise", "_reorder_convolution_weight")
    return bool(torch.backends.mkldnn.is_available()) and all(  # type: ignore[no-untyped-call]
        hasattr(torch.ops.mkldnn, name) for name in needed
    )


def _takes(conv: nn.Module | None) -> bool:
    """Whether a module is a convolution that oneDNN's call says wholly."""
    return (
        type(conv) is nn.Conv2d
        and conv.padding_mode == "zeros"
        and not isinstance(conv.padding, str)
        and conv.weight.dtype == torch.float32
        and conv.weight.device.type == "cpu"
    )


def _fuse(graph: torch.fx.GraphModule) -> int:
    """Put fused convolutions in place of plain ones, and take in sums and activations."""
    count = 0
    for name, conv in list(graph.named_modules()):
        if _takes(conv) and isinstance(conv, nn.Conv2d):
            put(graph, name, FusedConv(conv))
            count += 1
    calls = [str(node.target) for node in graph.graph.nodes if node.op == "call_module"]
    once = {name for name in calls if calls.count(name) == 1}
    _take_in(graph, once, _activated)
    _take_in(graph, once, _summed)
    _take_in(graph, once, _activated)  # what comes after a sum
    finish(graph)
    return count


def _take_in(
    graph: torch.fx.GraphModule,
    once: set[str],
    step: Callable[[torch.fx.GraphModule, torch.fx.Node, set[str]], None],
) -> None:
    for node in list(graph.graph.nodes):
        step(graph, node, once)


def _free(graph: torch.fx.GraphModule, node: Any, once: set[str]) -> FusedConv | None:
    """The fused convolution that a node calls, if only its reader needs it as it is."""
    conv = module_of(graph, node)
    if not isinstance(conv, FusedConv) or str(node.target) not in once or len(node.users) != 1:
        return None
    return conv if conv.activation == Activation() else None


def _activated(graph: torch.fx.GraphModule, node: torch.fx.Node, once: set[str]) -> None:
    """Take an activation into the convolution before it."""
    found = _activation(graph, node)
    conv = _free(graph, node.args[0], once) if found is not None and node.args else None
    if conv is not None and found is not None:
        conv.activation = found
        bypass(graph, node, node.args[0])  # type: ignore[arg-type]


def _summed(graph: torch.fx.GraphModule, node: torch.fx.Node, once: set[str]) -> None:
    """Take a sum of two maps into the later of the convolutions that it adds."""
    if node.op != "call_function" or node.target not in SUMS or node.kwargs:
        return
    if len(node.args) != 2 or node.args[0] is node.args[1]:
        return
    order = {each: place for place, each in enumerate(graph.graph.nodes)}
    pairs = [(node.args[0], node.args[1]), (node.args[1], node.args[0])]
    fitting = [
        (here, other)
        for here, other in pairs
        if isinstance(other, torch.fx.Node)
        and isinstance(here, torch.fx.Node)
        and len(here.args) == 1
        and _free(graph, here, once) is not None
    ]
    if not fitting:
        return
    here, other = max(fitting, key=lambda pair: order[pair[0]])
    # At the place of the sum, where both are there.
    with graph.graph.inserting_before(node):
        new = graph.graph.call_module(str(here.target), (here.args[0], other))
    bypass(graph, node, new)
    graph.graph.erase_node(here)


def _activation(graph: torch.fx.GraphModule, node: torch.fx.Node) -> Activation | None:
    """What a node does to its one input, if oneDNN can."""
    if node.op == "call_function":
        return FUNCTIONS.get(node.target)
    if node.op == "call_method":
        return RELU if node.target in ("relu", "relu_") else None
    module = module_of(graph, node)
    if isinstance(module, nn.Hardtanh):  # ReLU6 is one
        return Activation("hardtanh", (float(module.min_val), float(module.max_val)))
    kinds = {nn.ReLU: RELU, nn.SiLU: SWISH, nn.Hardswish: HARDSWISH}
    return kinds.get(type(module))  # type: ignore[arg-type]
