"""A backbone's forward as a graph, with normalisations folded into convolutions.

In evaluation mode a batch norm is an affine map a channel. Behind a convolution that nothing else
reads, it goes into the convolution's weights (exact but for rounding) and costs nothing more.
"""

from typing import Any

import torch.fx
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from satray.models.backbones import Backbone
from satray.scoring.engine.trunk import UnfitError


class _Body(nn.Module):
    """The body alone: what `Backbone` does to its output is in Python and cannot be traced."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.body = backbone.body

    def forward(self, x_BCHW: Tensor) -> Tensor:
        f: Tensor = self.body.forward_features(x_BCHW)  # type: ignore[operator]
        return f


class _Tracer(torch.fx.Tracer):
    """Keeps convolutions and normalisations whole, timm's own ones too."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        whole = isinstance(m, nn.Conv2d | nn.modules.batchnorm._BatchNorm)
        return whole or super().is_leaf_module(m, module_qualified_name)


def folded(backbone: Backbone) -> torch.fx.GraphModule:
    """The body of a backbone as a graph; modules that did not change are shared with it.

    Args:
        backbone: in eval mode; it stays as it is.

    Raises:
        UnfitError: its forward cannot be traced, since it depends on values or shapes.
    """
    body = _Body(backbone)
    try:
        graph = _Tracer().trace(body)
    except Exception as error:  # of many classes; whatever Python a model's forward holds
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UnfitError(f"torch.fx cannot trace {backbone.name}: {said[:200]}") from error
    module = torch.fx.GraphModule(body, graph)
    _drop_idle(module)
    _fold(module)
    finish(module)
    return module


def finish(module: torch.fx.GraphModule) -> None:
    """Make a changed graph runnable again."""
    module.graph.lint()
    module.delete_all_unused_submodules()
    module.recompile()


def module_of(owner: torch.fx.GraphModule, node: Any) -> nn.Module | None:
    """The module that a node calls; None where it calls none."""
    if not isinstance(node, torch.fx.Node) or node.op != "call_module":
        return None
    return owner.get_submodule(str(node.target))


def put(owner: torch.fx.GraphModule, name: str, module: nn.Module) -> None:
    """Set a submodule by its dotted name."""
    parent, _, last = name.rpartition(".")
    setattr(owner.get_submodule(parent), last, module)


def bypass(owner: torch.fx.GraphModule, node: torch.fx.Node, by: torch.fx.Node) -> None:
    """Take a node out; what read it reads another instead."""
    node.replace_all_uses_with(by)
    owner.graph.erase_node(node)


def _drop_idle(module: torch.fx.GraphModule) -> None:
    """Take out what does nothing in evaluation, so that neighbours stand side by side."""
    for node in list(module.graph.nodes):
        if isinstance(module_of(module, node), nn.Identity | nn.Dropout | nn.Dropout2d):
            bypass(module, node, node.args[0])


def _fold(module: torch.fx.GraphModule) -> None:
    for node in list(module.graph.nodes):
        norm = module_of(module, node)
        if not isinstance(norm, nn.BatchNorm2d) or norm.running_mean is None:
            continue
        activation = _activation(norm)
        source = node.args[0]
        conv = module_of(module, source)
        # Only the plain class: others compute their weights, or their padding, in forward.
        if activation is None or type(conv) is not nn.Conv2d or len(source.users) != 1:
            continue
        if max(_calls(module, source), _calls(module, node)) > 1:  # one set of weights for two
            continue
        put(module, str(source.target), fuse_conv_bn_eval(conv, _plain(norm)))
        if isinstance(activation, nn.Identity):
            bypass(module, node, source)
        else:
            put(module, str(node.target), activation)


def _calls(module: torch.fx.GraphModule, node: torch.fx.Node) -> int:
    return sum(n.op == "call_module" and n.target == node.target for n in module.graph.nodes)


def _plain(norm: nn.BatchNorm2d) -> nn.BatchNorm2d:
    """The normalisation alone, of a class of timm's that has an activation in it."""
    plain = nn.BatchNorm2d(norm.num_features, norm.eps, affine=norm.affine).to(
        next(iter(norm.buffers())).device
    )
    state = {name: value for name, value in norm.state_dict().items() if name in _STATE}
    plain.load_state_dict(state)
    return plain.eval().requires_grad_(False)


_STATE = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}


def _activation(norm: nn.BatchNorm2d) -> nn.Module | None:
    """What a normalisation does after normalising; None where it cannot be told."""
    if type(norm) is nn.BatchNorm2d:
        return nn.Identity()
    act = getattr(norm, "act", None)  # timm's BatchNormAct2d
    return act if isinstance(act, nn.Module) else None
