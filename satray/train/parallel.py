"""What data-parallel training needs of `torch.distributed`; with one rank it all does nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

T = TypeVar("T")


def world_size() -> int:
    """Ranks that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's number, 0 to `world_size` - 1."""
    return dist.get_rank() if world_size() > 1 else 0


def wrap(network: nn.Module, device: torch.device) -> nn.Module:
    """The network as this rank trains it; wrap anew when other weights are to be trained."""
    if world_size() == 1:
        return network
    # Buffers are not sent at each step: running statistics matter in evaluation only, and
    # `share_running_statistics` sees to them there.
    return DistributedDataParallel(
        network,
        device_ids=[device] if device.type == "cuda" else None,
        broadcast_buffers=False,
        gradient_as_bucket_view=True,
    )


def add_up(values: Tensor) -> Tensor:
    """Sum over all ranks, in place."""
    if world_size() > 1:
        dist.all_reduce(values)
    return values


def by_rank_0(mine: Any, function: Callable[[list[Any]], T]) -> T:
    """What rank 0 makes of every rank's value, in their order, on every rank.

    Values and what is made of them are pickled. What `function` raises, all ranks raise.
    """
    if world_size() == 1:
        return function([mine])
    shards: list[Any] | None = [None] * world_size() if rank() == 0 else None
    dist.gather_object(mine, shards)
    made: list[Any] = [None]
    if shards is not None:
        try:
            made = [function(shards)]
        except Exception as error:  # else the others would wait for it
            made = [error]
    dist.broadcast_object_list(made)
    if isinstance(made[0], Exception):
        raise made[0]
    found: T = made[0]
    return found


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


def share_running_statistics(norms: Iterable[nn.Module]) -> None:
    """Give all ranks the mean of some batch norms' running statistics."""
    if world_size() == 1:
        return
    for norm in norms:
        for name in ("running_mean", "running_var"):
            buffer = getattr(norm, name)
            if buffer is not None:
                buffer.copy_(add_up(buffer.clone()) / world_size())
