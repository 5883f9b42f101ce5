"""The state of torch in a process that trains: generators, kernels, precision."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from satray.data.augment import counter_hash

_TORCH_STREAM = 1001
"""Keeps the generators' seeds apart from the augmentation's draws."""


def model_state(network: nn.Module) -> dict[str, torch.Tensor]:
    """The network's parameters and buffers, contiguous (the loop trains channels-last)."""
    return {name: value.detach().contiguous() for name, value in network.state_dict().items()}


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
    np.random.seed(seed % 2**32)
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
    """Ask torch for bitwise repeatable kernels for a while.

    On GPUs the process has to have begun that way (`begin`).
    """
    before = torch.are_deterministic_algorithms_enabled()
    benchmark = torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(on or before)
    # Tiles have one shape: the fastest kernel is found once.
    torch.backends.cudnn.benchmark = not on
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        torch.backends.cudnn.benchmark = benchmark
