"""Numbers of a recipe as tensors, brought to a GPU once and not with each batch."""

from __future__ import annotations

import functools

import torch
from torch import Tensor


def by_band(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A number a band, to broadcast over x_BCHW: (1, C, 1, 1). Not to be written to."""
    # A copy from pageable memory would wait for all that the GPU is at. On CPUs nothing is gained,
    # and a tracer (torch.export) must not leave its stand-ins behind.
    return _kept(values, dtype, device) if device.type == "cuda" else _made(values, dtype, device)


def _made(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=dtype, device=device).view(1, -1, 1, 1)


@functools.lru_cache(maxsize=64)
def _kept(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # one born in inference could not be trained through
        return _made(values, dtype, device)
