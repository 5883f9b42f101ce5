"""A process that trains: its rank among others, torch's generators and kernels, its batch norms.

What several ranks need of `torch.distributed` does nothing where there is one.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from satray.data.augment import counter_hash

T = TypeVar("T")
_TORCH_STREAM = 1001
"""Keeps the generators' seeds apart from the augmentation's draws."""


# Ranks


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


# The network


def model_state(network: nn.Module) -> dict[str, Tensor]:
    """The network's parameters and buffers, contiguous (the loop trains channels-last)."""
    return {name: value.detach().contiguous() for name, value in network.state_dict().items()}


def live_norms(network: nn.Module) -> Iterator[_BatchNorm]:
    """Batch norms that use batch statistics as the network's mode stands; frozen ones do not."""
    return (each for each in network.modules() if isinstance(each, _BatchNorm) and each.training)


@contextmanager
def resting_norms(network: nn.Module) -> Iterator[None]:
    """Batch norms neither use nor note the batch for a while; live ones are live again after it."""
    norms = list(live_norms(network))
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


# Generators and kernels


def seed_torch(seed: int, *counters: int) -> None:
    """Seed torch's generators, on all devices, from (seed, counters)."""
    no_row = np.zeros(1, dtype=np.int64)
    bits = counter_hash(seed, _TORCH_STREAM, *counters, rows=no_row)[0]
    torch.manual_seed(int(bits >> np.uint64(1)))


def begin(seed: int, deterministic: bool = False) -> None:
    """What a process that trains does first, before CUDA starts.

    Seeds Python's, numpy's and torch's generators; where repeatable kernels will be asked for,
    fixes cuBLAS' workspaces, which it reads once.
    """
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def takes_bf16(precision: str, device: torch.device) -> bool:
    """Whether to autocast to bfloat16, as the recipe's `precision` says.

    `auto` does on GPUs and processors that compute in it. Others (GPUs before NVIDIA's Ampere,
    processors without AVX-512 BF16 or AMX) only emulate it, slower than fp32. To be asked on the
    worker: the driver's machine may be another.
    """
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


@contextmanager
def determinism(on: bool) -> Iterator[None]:
    """Ask torch for float32 that is float32, and maybe bitwise repeatable kernels, for a while.

    On GPUs the process has to have begun that way (`begin`).
    """
    before = torch.are_deterministic_algorithms_enabled()
    benchmark, tf32 = torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32
    torch.use_deterministic_algorithms(on or before)
    # Tiles have one shape: the fastest kernel is found once.
    torch.backends.cudnn.benchmark = not on
    # Else convolutions in float32 would be in TF32; bf16 autocast has no use for either.
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32 = benchmark, tf32
