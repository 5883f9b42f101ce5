"""Trying things with a network and leaving no trace."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

import numpy as np
import torch
from torch import nn


@contextmanager
def undisturbed(
    network: nn.Module, optimizer: torch.optim.Optimizer | None = None
) -> Iterator[None]:
    """Put everything back at the end, bit by bit, whatever the block did or raised.

    That is: parameters and buffers (batch statistics), gradients, what is trainable, each module's
    mode, the optimiser's state and settings, and the generators of Python, numpy and torch (of the
    CPU, and of the network's device).
    """
    with torch.no_grad():
        tensors = [*chain(network.parameters(), network.buffers())]
        values = [tensor.detach().clone() for tensor in tensors]
    weights = [(each, each.grad, each.requires_grad) for each in network.parameters()]
    modes = [(module, module.training) for module in network.modules()]
    settings = None if optimizer is None else copy.deepcopy(optimizer.state_dict())
    python, arrays = random.getstate(), np.random.get_state()
    devices = {tensor.device for tensor in tensors if tensor.device.type == "cuda"}
    try:
        with torch.random.fork_rng(list(devices)):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(arrays)
        with torch.no_grad():
            for tensor, value in zip(tensors, values, strict=True):
                tensor.copy_(value)
        for weight, gradient, trainable in weights:
            weight.requires_grad_(trainable)
            weight.grad = gradient
        for module, mode in modes:
            module.training = mode
        if optimizer is not None and settings is not None:
            optimizer.load_state_dict(settings)
