"""Which floating-point type a worker computes in. No torch at import."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def takes_bf16(precision: str, device: torch.device) -> bool:
    """Whether to autocast to bfloat16, as the recipe's `precision` says.

    `auto` does on GPUs that compute in it; older ones (before NVIDIA's Ampere) only emulate it,
    slower than fp32. To be asked on the worker: the driver may have no GPU, or another.
    """
    import torch

    if precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return precision == "bf16"


def line(bf16: bool) -> str:
    """One line for the log."""
    return f"precision: {'bf16 autocast' if bf16 else 'fp32'}"
