"""What data-parallel training needs of `torch.distributed`; with one rank it all does nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel


def world_size() -> int:
    """Ranks that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's number, 0 to `world_size` - 1."""
    return dist.get_rank() if world_size() > 1 else 0


def unwrap(network: nn.Module) -> nn.Module:
    """The network without a DDP wrapper."""
    return network.module if isinstance(network, DistributedDataParallel) else network


def wrap(network: nn.Module, device: torch.device) -> nn.Module:
    """The network as this rank trains it; wrap anew when other weights are to be trained."""
    if world_size() == 1:
        return network
    # Buffers are not sent at each step: running statistics matter in evaluation only, and
    # `share_running_statistics` sees to them there.
    ids = [device] if device.type == "cuda" else None
    return DistributedDataParallel(network, device_ids=ids, broadcast_buffers=False)


def add_up(values: Tensor) -> Tensor:
    """Sum over all ranks, in place."""
    if world_size() > 1:
        dist.all_reduce(values)
    return values


def gather(mine: Any) -> list[Any]:
    """Every rank's value, by rank; pickled."""
    if world_size() == 1:
        return [mine]
    shards: list[Any] = [None] * world_size()
    dist.all_gather_object(shards, mine)
    return shards


def live_norms(network: nn.Module) -> Iterator[_BatchNorm]:
    """Batch norms that use batch statistics as the network's mode stands; frozen ones do not."""
    return (each for each in network.modules() if isinstance(each, _BatchNorm) and each.training)


def synchronised(network: nn.Module) -> nn.Module:
    """The network with batch statistics over all ranks; same weights, same state dict.

    By timm's conversion: torch's own drops the activations that timm's norms carry.
    """
    import timm.layers

    layers: Any = timm.layers
    converted: nn.Module = layers.convert_sync_batchnorm(network)
    return converted


@contextmanager
def resting_norms(network: nn.Module) -> Iterator[None]:
    """Batch norms neither use nor note the batch for a while; live ones are live again after it.

    Synchronised ones go on: the other ranks wait for this one's statistics.
    """
    norms = [norm for norm in live_norms(network) if not isinstance(norm, nn.SyncBatchNorm)]
    for norm in norms:
        norm.eval()
    try:
        yield
    finally:
        for norm in norms:
            norm.train()


def share_running_statistics(network: nn.Module) -> None:
    """Give all ranks the mean of their batch norms' running statistics."""
    if world_size() == 1:
        return
    for norm in live_norms(network):
        for buffer in (norm.running_mean, norm.running_var):
            if buffer is not None:
                buffer.copy_(add_up(buffer.clone()) / world_size())
