"""Which floating-point type a worker computes in. No torch at import."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def takes_bf16(precision: str, device: torch.device) -> bool:
    """Whether to autocast to bfloat16, as the recipe's `precision` says.

    `auto` does on GPUs and processors that compute in it. Others (GPUs before NVIDIA's Ampere,
    processors without AVX-512 BF16 or AMX) only emulate it, slower than fp32. To be asked on the
    worker: the driver's machine may be another.
    """
    import torch

    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def line(bf16: bool) -> str:
    """One line for the log."""
    return f"precision: {'bf16 autocast' if bf16 else 'fp32'}"
