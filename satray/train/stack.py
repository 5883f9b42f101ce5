"""Linear heads that see the same batches, and take a step of training as one.

A step of one head is a hundred small calls, and its arithmetic the least of it, so that several
cost little more than one (bench/RESULTS.md, sweeps).

Letters: S heads, B tiles of a batch, F features of a tile, K classes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from satray.config.train import TrainRecipe
from satray.train.checkpoints import State
from satray.train.evaluation import Predictions
from satray.train.loop import Batches, Loop, MovingAverage, Row
from satray.train.losses import Loss
from satray.train.optim import make_optimizer, set_dropout, set_rate
from satray.train.plan import PlannedStage
from satray.train.process import model_state, rank, seed_torch
from satray.train.step import Batch, Inputs


class HeadStack:
    """Heads side by side, as a linear layer of S K outputs, for the steps of a pseudo-epoch.

    The optimiser tells how far weights move at a learning rate of 1, without decay; clipping, decay
    and rates are applied head by head. What is not finite stays among its own head's weights.
    """

    def __init__(
        self,
        network: nn.Module,
        parts: Sequence[list[State]],
        stage: PlannedStage,
        recipe: TrainRecipe,
        loss: Loss,
    ) -> None:
        """Put heads together as they are.

        Args:
            network: logits (B, S K) from features (B, F), its weights yet to be filled in.
            parts: of each head, as of `parts`; of an optimiser that `stage` makes anew nothing.
            stage: of the next step.
            recipe: the heads' own, which are alike but for learning rates and schedules.
            loss: (logits_BK, labels_BK) -> loss_B.
        """
        self._network, self._heads, self._recipe, self._loss = network, len(parts), recipe, loss
        state, average, *states = map(_side_by_side, zip(*parts, strict=True))
        network.load_state_dict(state)
        self._average = MovingAverage(network, recipe.average.ema)
        self._average.restore(average)
        self.enter(stage)
        for move, known in zip(self._moves, states, strict=True):
            if known:
                self._optimizer.state[move] = known

    def enter(self, stage: PlannedStage) -> None:
        """Begin a stage, with its dropout and an optimiser of its own."""
        set_dropout(self._network, stage.dropout)
        options = self._recipe.optimizer.model_copy(update={"weight_decay": 0.0})
        weights = self._network.parameters()
        self._moves: list[Tensor] = [nn.Parameter(torch.zeros_like(each)) for each in weights]
        self._optimizer = make_optimizer(options, [{"params": self._moves, "share": 1.0}])

    def step(self, inputs: Inputs, rates_S: Tensor, momentum: float | None) -> Tensor:
        """What `TrainStep` does and returns, for each head: float64 (3, S).

        Args:
            inputs: the batch that all heads see.
            rates_S: learning rates.
            momentum: of all; None: as it is.
        """
        heads, readable = self._heads, inputs.weight_B.sum()
        self._network.zero_grad(set_to_none=True)
        logits_BSK = self._network(inputs.x_BCSS).view(len(inputs.rows), heads, -1)
        labels = inputs.labels_BK.repeat(heads, 1)
        losses = self._loss(logits_BSK.transpose(0, 1).flatten(0, 1), labels)
        total_S = (losses.view(heads, -1) * inputs.weight_B).sum(dim=1)
        torch.autograd.backward(total_S.sum() / readable.clamp(min=1.0))
        total_S = total_S.detach().double()
        norm_S = self._learn(rates_S[:, None], momentum, idle=not inputs.valid.any())
        self._average.update()
        bad_S = ~(total_S.isfinite() & norm_S.isfinite())
        return torch.stack([total_S, readable.double().expand(heads), bad_S.double()])

    @torch.no_grad()
    def _learn(self, rates_S1: Tensor, momentum: float | None, idle: bool) -> Tensor:
        """Change the weights, unless no tile could be read: norms of the gradients."""
        options, weights, gradients = self._recipe.optimizer, list[Tensor](), list[Tensor]()
        for weight, move in zip(self._network.parameters(), self._moves, strict=True):
            assert weight.grad is not None
            move.grad = weight.grad
            weights.append(weight.view(self._heads, -1))
            gradients.append(weight.grad.view(self._heads, -1))
        norms = [torch.linalg.vector_norm(each, dim=1) for each in gradients]
        norm_S: Tensor = torch.linalg.vector_norm(torch.stack(norms), dim=0)
        if idle:
            return norm_S
        if options.clip:
            scale_S = (options.clip / (norm_S + 1e-6)).clamp(max=1.0)
            for gradient in gradients:
                gradient.mul_(scale_S[:, None])
        if options.name == "adamw":  # biases do not decay
            weights[0].mul_(1 - rates_S1 * options.weight_decay)
        else:
            gradients[0].add_(weights[0], alpha=options.weight_decay)
        set_rate(self._optimizer, 1.0, momentum)
        self._optimizer.step()
        for each, move in zip(weights, self._moves, strict=True):
            each.addcmul_(move.view(self._heads, -1), rates_S1)
            move.zero_()
        return norm_S

    def parts(self, number: int) -> list[State]:
        """Of a head: its state, that of its average, and the optimiser's of each of its weights."""
        classes = self._moves[1].numel() // self._heads
        rows = slice(number * classes, (number + 1) * classes)
        states = [self._network.state_dict(), self._average.state()]
        return [
            {name: (v[rows] if v.ndim else v).detach().clone() for name, v in each.items()}
            for each in (*states, *(self._optimizer.state[move] for move in self._moves))
        ]


def _side_by_side(states: Sequence[State]) -> State:
    """Tensors of each name in a row; what has no axis (counts of steps) is the same in all."""
    return {
        name: torch.cat([each[name] for each in states]) if value.ndim else value.clone()
        for name, value in states[0].items()
    }


@dataclass(frozen=True)
class Trained:
    """What a pseudo-epoch in a stack has made of a head."""

    stage: PlannedStage
    """Of the last step."""
    parts: list[State]
    """As of `HeadStack.parts`."""
    taken: list[list[float]]
    """What each step gave."""
    waited: float
    """The head's share of the seconds without a batch."""
    spent: float
    """Its share of all seconds."""


class HeadLoop(Loop):
    """The loop of a linear head, which can take the steps of a pseudo-epoch together with others.

    Its network has `several(S)`: a network of S times its outputs, on the same device.
    """

    def train_with(
        self, others: Sequence[HeadLoop], train_batches: Batches
    ) -> list[Trained | None]:
        """Train for a pseudo-epoch together with heads of the same stack that are as far.

        None of the loops changes: they `take` what comes of it.

        Args:
            others: theirs.
            train_batches: as of `step`.

        Returns:
            Of each head, this one first; None where a step was not finite, which `TrainStep` leaves
            out: such a head is to train by itself, from then on, since its optimiser lags behind.
        """
        loops, plan, end = (self, *others), self._plan, self._plan.ends[self.pseudo_epoch]
        first = end - plan.steps_in(self.pseudo_epoch)
        stage = plan.stage_at(first)
        rates = [[loop._plan.learning_rate(i) for loop in loops] for i in range(first, end)]
        results: list[Tensor] = []
        began, waited = time.perf_counter(), 0.0
        with self._apart():
            parts = [loop._parts(stage) for loop in loops]
            several = cast(Callable[[int], nn.Module], self._network.several)(len(loops))
            stack = HeadStack(several, parts, stage, self._recipe, self._loss)
            seed_torch(self._recipe.seed, self.pseudo_epoch, rank())
            inputs = self._inputs(train_batches(self.pseudo_epoch))
            rates_TS = torch.tensor(rates, device=self._device)
            for step, rates_S in zip(range(first, end), rates_TS, strict=True):
                if plan.stage_at(step).number != stage.number:
                    stage = plan.stage_at(step)
                    stack.enter(stage)
                asked = time.perf_counter()
                batch_now = next(inputs)
                waited += time.perf_counter() - asked
                results.append(stack.step(batch_now, rates_S, plan.momentum(step)))
            taken_ST3 = torch.stack(results).permute(2, 0, 1).tolist()
        seconds = [each / len(loops) for each in (waited, time.perf_counter() - began)]
        return [
            None if any(bad for *_, bad in taken)
            else Trained(stage, stack.parts(number), taken, *seconds)
            for number, taken in enumerate(taken_ST3)
        ]  # fmt: skip

    def take(
        self, trained: Trained, val_batches: Callable[[], Iterator[Batch]]
    ) -> tuple[Row, Predictions | None]:
        """What `step` does, but that the steps were taken in a stack."""
        network, average, *states = trained.parts
        with self._apart():
            if self._stage is None or self._stage.number != trained.stage.number:
                self._enter(trained.stage)
            self._network.load_state_dict(network)
            self._average.restore(average)
            for weight, state in zip(self._network.parameters(), states, strict=True):
                self._optimizer.state[weight].update(state)
            row = self._row(trained.taken, trained.waited, trained.spent)
            return self._judged(row, val_batches)

    def _parts(self, stage: PlannedStage) -> list[State]:
        """As it is, for a `HeadStack` that begins a stage, or goes on with it."""
        there = self._stage is not None and self._stage.number == stage.number
        weights = self._network.parameters()
        states = [self._optimizer.state[weight] if there else {} for weight in weights]
        return [model_state(self._network), self._average.state(), *states]
