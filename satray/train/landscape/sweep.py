"""One sweep of the learning-rate range test, in plain torch: a network, batches, a loss.

Shapes: B tiles of the global batch, C bands, H and W pixels, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from satray.config.train import RangeOptions
from satray.train.landscape.range_test import Curve, Smoother, rates
from satray.train.loop.losses import Loss
from satray.train.loop.optimizers import set_rate
from satray.train.loop.undisturbed import undisturbed

Inputs = tuple[Tensor, Tensor]
"""x_BCHW (normalised, on the network's device) and labels_BK (floating)."""


def sweep(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterator[Inputs],
    loss: Loss,
    options: RangeOptions,
    *,
    parts: int = 1,
    bf16: bool = False,
    tell: Callable[[int, float], None] | None = None,
) -> Curve:
    """Train while the learning rate grows from step to step, and give the losses met.

    It ends where the batches do, where a loss is not finite, or where the smoothed loss is
    `options.stop` times its best. Network, optimiser and generators are then as they were.

    Args:
        network: logits_BK from x_BCHW, its trainable part chosen.
        optimizer: over what is trainable (`make_optimizer`).
        batches: the global batches.
        loss: (logits_BK, labels_BK) -> loss_B.
        options: rates, steps, smoothing, stop.
        parts: pieces that a batch goes through the network in, as it does with so many workers;
            batch norm sees each for itself.
        bf16: autocast to bfloat16, as training will.
        tell: called after each step with its number (1 is the first) and its loss.
    """
    found: list[tuple[float, float, float]] = []
    smoother, best = Smoother(options.smoothing), math.inf
    with undisturbed(network, optimizer):
        network.train()
        for rate, (x_BCHW, labels_BK) in zip(rates(options).tolist(), batches, strict=False):
            set_rate(optimizer, rate)
            value = take_step(network, optimizer, x_BCHW, labels_BK, loss, parts, bf16)
            if not math.isfinite(value):
                break
            smoothed = smoother.add(value)
            found.append((rate, value, smoothed))
            if tell is not None:
                tell(len(found), value)
            if smoothed > options.stop * best:
                break
            best = min(best, smoothed)
    columns = zip(*found, strict=True) if found else ((), (), ())
    rate_T, loss_T, smoothed_T = (tuple(column) for column in columns)
    return Curve(rate_T, loss_T, smoothed_T, options.steps)


def take_step(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    x_BCHW: Tensor,
    labels_BK: Tensor,
    loss: Loss,
    parts: int = 1,
    bf16: bool = False,
) -> float:
    """One step on the mean loss of the batch; gives that loss, before the step.

    A loss that is not finite is not learnt from.
    """
    optimizer.zero_grad(set_to_none=True)
    total, tiles = 0.0, len(x_BCHW)
    for x_bCHW, labels_bK in zip(x_BCHW.chunk(parts), labels_BK.chunk(parts), strict=True):
        with torch.autocast(x_BCHW.device.type, torch.bfloat16, enabled=bf16):
            logits_bK = network(x_bCHW)
        share = loss(logits_bK.float(), labels_bK).sum() / tiles
        torch.autograd.backward(share)
        total += share.item()
    if math.isfinite(total):
        optimizer.step()
    return total
