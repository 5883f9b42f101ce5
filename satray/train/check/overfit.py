"""Overfitting one batch, in plain torch, and gathering evidence where it fails.

Shapes: B tiles, C bands, H and W pixels, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from satray.config.train import CheckOptions
from satray.train.check.diagnose import BURST, Evidence, Trace
from satray.train.landscape.sweep import Inputs, take_step
from satray.train.loop.losses import Loss
from satray.train.loop.optimizers import set_rate
from satray.train.loop.undisturbed import undisturbed

FACTORS = (10.0, 100.0, 0.1, 0.01, 0.001)
"""Learning rates tried where the one asked for fails, as multiples of it; lower ones first where
the loss has burst."""
PUSHES = 60
PUSH_RATE = 0.05
"""Steps of Adam, and their rate, that push outputs to see whether they are bounded."""


@dataclass(frozen=True)
class Setting:
    """What an attempt needs beside network and batch."""

    task: str
    """`binary`, `multilabel` or `multiclass`."""

    loss: Loss
    """(logits_BK, labels_BK) -> loss_B; training's, without smoothing."""

    options: CheckOptions
    """Steps and aims."""

    optimizer: Callable[[nn.Module], torch.optim.Optimizer]
    """Makes an optimiser over what is trainable."""

    bf16: bool = False
    """Autocast to bfloat16."""

    tell: Callable[[float, int, float], None] = lambda rate, step, loss: None  # noqa: ARG005
    """Called after each step with learning rate, steps taken, loss."""


def examine(
    network: nn.Module, batch: Callable[[int], Inputs], rate: float, setting: Setting
) -> Evidence:
    """Try to learn one batch; where that fails, find out why. The network is then as it was.

    Args:
        network: logits_BK from x_BCHW, its trainable part chosen, without dropout.
        batch: time -> the batch, the same tiles in the same order each time: x_BCHW normalised,
            labels_BK floating.
        rate: learning rate.
        setting: what else there is to know.
    """
    x_BCHW, labels_BK = batch(0)
    changed_B = torch.zeros(len(labels_BK), dtype=torch.bool, device=labels_BK.device)

    def watched(time: int) -> Inputs:
        found = batch(time)
        if found[1] is not labels_BK:
            torch.logical_or(changed_B, (found[1] != labels_BK).any(dim=1), out=changed_B)
        if found[0] is not x_BCHW:
            torch.logical_or(changed_B, (found[0] != x_BCHW).flatten(1).any(dim=1), out=changed_B)
        return found

    main = attempt(network, watched, rate, setting)
    changed = int(changed_B.sum())
    constant = bool((labels_BK == labels_BK[0]).all())
    contradictions = contradicting(x_BCHW, labels_BK)
    bounded = False
    others: tuple[Trace, ...] = ()
    dealt: tuple[float, ...] = ()
    if main.learnt and not changed and not constant:
        dealt = _dealt(network, (x_BCHW, labels_BK), main, setting)
    elif not (changed or constant or contradictions) and main.gradient > 0:
        bounded = is_bounded(network, x_BCHW)
        others = () if bounded else _others(network, batch, main, setting)
    return Evidence(
        main=main,
        tiles=len(labels_BK),
        labels_constant=constant,
        changed=changed,
        contradictions=contradictions,
        bounded=bounded,
        others=others,
        dealt=dealt,
    )


def attempt(
    network: nn.Module,
    batch: Callable[[int], Inputs],
    rate: float,
    setting: Setting,
    steps: int | None = None,
) -> Trace:
    """Train on the batch until it is learnt, or for so many steps (default: as the options say).

    Loss and accuracy are those of the forward passes that are trained on.
    """
    limit = setting.options.steps if steps is None else steps
    losses: list[float] = []
    gradient = math.nan
    accuracy, one_class, learnt = 0.0, False, False
    with undisturbed(network):
        optimizer = setting.optimizer(network)
        set_rate(optimizer, rate)
        network.train()
        outputs: list[Tensor] = []
        hook = network.register_forward_hook(lambda _, __, out: outputs.append(out.detach()))
        try:
            for step in range(limit + 1):
                x_BCHW, labels_BK = batch(step)
                outputs.clear()
                value = take_step(
                    network, optimizer, x_BCHW, labels_BK, setting.loss, bf16=setting.bf16
                )
                if step == 0:
                    gradient = _norm(network)
                losses.append(value)
                setting.tell(rate, step, value)
                if not math.isfinite(value):
                    break
                right_BK, one_class = decisions(outputs[0].float(), labels_BK, setting.task)
                accuracy = float(right_BK.float().mean())
                learnt = value < setting.options.loss and bool(right_BK.all())
                if learnt and steps is None:
                    break
        finally:
            hook.remove()
    return Trace(rate, tuple(losses), accuracy, learnt, one_class, gradient)


def decisions(logits_BK: Tensor, labels_BK: Tensor, task: str) -> tuple[Tensor, bool]:
    """Which decisions are right, and whether all tiles get the same while labels differ."""
    if task == "multiclass":
        given_B, true_B = logits_BK.argmax(dim=1), labels_BK.argmax(dim=1)
        same = bool((given_B == given_B[0]).all()) and not bool((true_B == true_B[0]).all())
        return given_B == true_B, same
    given_BK, true_BK = logits_BK >= 0, labels_BK > 0.5
    varied_K = (true_BK != true_BK[0]).any(dim=0)
    same_K = (given_BK == given_BK[0]).all(dim=0)
    return given_BK == true_BK, bool(varied_K.any()) and bool(same_K[varied_K].all())


def contradicting(x_BCHW: Tensor, labels_BK: Tensor) -> int:
    """Tiles that have the same values as another one and other labels."""
    flat = x_BCHW.flatten(1).cpu().contiguous().numpy()
    labels = labels_BK.cpu().numpy()
    found: dict[bytes, list[int]] = {}
    for place, values in enumerate(flat):
        found.setdefault(values.tobytes(), []).append(place)
    return sum(
        len(places) for places in found.values() if (labels[places] != labels[places[0]]).any()
    )


def is_bounded(network: nn.Module, x_BCHW: Tensor) -> bool:
    """Whether outputs stay within 0 to 1 when they are pushed up, and when pushed down.

    Logits of a network that trains go anywhere; those after a sigmoid or softmax do not.
    """
    for way in (1.0, -1.0):
        with undisturbed(network):
            weights = [each for each in network.parameters() if each.requires_grad]
            optimizer = torch.optim.Adam(weights, lr=PUSH_RATE)
            network.train()
            for _ in range(PUSHES):
                optimizer.zero_grad(set_to_none=True)
                outputs_BK = network(x_BCHW).float()
                if not bool(((outputs_BK >= 0) & (outputs_BK <= 1)).all()):
                    return False
                torch.autograd.backward(-way * outputs_BK.mean())
                optimizer.step()
    return True


def _others(
    network: nn.Module, batch: Callable[[int], Inputs], main: Trace, setting: Setting
) -> tuple[Trace, ...]:
    """Other learning rates, the likelier ones first, until one does it."""
    factors = sorted(FACTORS, key=lambda f: f > 1) if main.worst > BURST * main.first else FACTORS
    found: list[Trace] = []
    for factor in factors:
        found.append(attempt(network, batch, factor * main.learning_rate, setting))
        if found[-1].learnt:
            break
    return tuple(found)


def _dealt(network: nn.Module, batch: Inputs, main: Trace, setting: Setting) -> tuple[float, ...]:
    """Mean loss over as many steps with the rows of labels dealt out at random."""
    x_BCHW, labels_BK = batch
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(setting.options.permutations):
        order_B = torch.randperm(len(labels_BK), generator=generator).to(labels_BK.device)
        inputs = (x_BCHW, labels_BK[order_B])
        trace = attempt(network, partial(_same, inputs), main.learning_rate, setting, main.steps)
        found.append(sum(trace.losses) / len(trace.losses))
    return tuple(found)


def _same(inputs: Inputs, time: int) -> Inputs:  # noqa: ARG001
    return inputs


def _norm(network: nn.Module) -> float:
    gradients = [weight.grad for weight in network.parameters() if weight.grad is not None]
    return math.sqrt(sum(float(each.double().square().sum()) for each in gradients))
