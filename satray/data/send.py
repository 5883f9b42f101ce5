"""Tensors on their way to the device."""

from __future__ import annotations

import torch
from torch import Tensor


def send(values: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device; a GPU is given it without waiting for what it is at.

    From pageable memory it would be waited for, so that it idles until the next kernel comes.
    """
    if device.type == "cuda" and values.device.type == "cpu":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)
