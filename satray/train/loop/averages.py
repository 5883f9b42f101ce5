"""Averages over the weights of a run: the moving one, and snapshots taken on the way.

Every rank holds the same: parameters agree anyway, and running statistics of batch norms, which
each rank keeps of its own tiles, are averaged before anybody looks at them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from satray.config.train import AverageOptions
from satray.errors import InputError
from satray.train.loop.parallel import add_up, live_norms, share_running_statistics, world_size
from satray.train.loop.state import model_state
from satray.train.plan import TrainingPlan, snapshot_steps

Keep = Callable[[int, dict[str, Tensor]], None]
"""(steps taken, state dict) -> None: keeps a snapshot."""


class MovingAverage:
    """Exponential moving average of a network's parameters and floating-point buffers.

    Integer buffers (counts of batches) are the network's own. The decay warms up as
    min(decay, (1 + t) / (10 + t)) over the updates t = 0, 1, ..., so that the random start is
    soon forgotten (TensorFlow's `ExponentialMovingAverage`).
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        """Start at the network as it is, which must keep its tensors' storage from here on."""
        self._network = network
        self._decay = decay
        self._updates = 0
        state = network.state_dict()
        self._live = {name: v.detach() for name, v in state.items() if v.is_floating_point()}
        self._average = {name: v.clone() for name, v in self._live.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the network as it is now: average += (1 - decay) * (network - average)."""
        t = self._updates
        decay = min(self._decay, (1 + t) / (10 + t))
        self._updates += 1
        torch._foreach_lerp_(list(self._average.values()), list(self._live.values()), 1 - decay)

    @torch.no_grad()
    def settle(self) -> None:
        """Take the network's own value of what is frozen now, so that it rests here too.

        That is: parameters without gradients, and buffers of modules in evaluation mode.
        """
        for path, module in self._network.named_modules():
            own = module.named_parameters(recurse=False)
            still = [name for name, weight in own if not weight.requires_grad]
            if not module.training:
                still += [name for name, _ in module.named_buffers(recurse=False)]
            for name in (f"{path}.{name}" if path else name for name in still):
                if name in self._average:
                    self._average[name].copy_(self._live[name])

    @torch.no_grad()
    def share(self) -> None:
        """Give all ranks the mean of their averages of live batch norms' running statistics."""
        if world_size() == 1:
            return
        live = {id(norm) for norm in live_norms(self._network)}
        for path, module in self._network.named_modules():
            if id(module) not in live:
                continue
            for buffer in ("running_mean", "running_var"):
                value = self._average.get(f"{path}.{buffer}")
                if value is not None:
                    value.copy_(add_up(value.clone()) / world_size())

    @torch.no_grad()
    def follow(self, buffers: set[int]) -> None:
        """Take the network's own values of some buffers, by their ids."""
        for name, buffer in self._network.named_buffers():
            if id(buffer) in buffers and name in self._average:
                self._average[name].copy_(buffer)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The network carries the average for a while; its own weights come back unchanged."""
        live = list(self._live.values())
        with torch.no_grad():
            own = [value.clone() for value in live]
            torch._foreach_copy_(live, list(self._average.values()))
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(live, own)

    def weights(self) -> dict[str, Tensor]:
        """State dict of the network with the average in it, contiguous; live tensors."""
        return model_state(self._network) | {
            name: value.contiguous() for name, value in self._average.items()
        }

    def state(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {"updates": self._updates, "weights": self.weights()}

    @torch.no_grad()
    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a `state`."""
        self._updates = int(state["updates"])
        for name, value in self._average.items():
            value.copy_(state["weights"][name])


class Averages:
    """The averages of one run on one rank; does nothing where none is asked for."""

    def __init__(
        self,
        network: nn.Module,
        plan: TrainingPlan,
        options: AverageOptions,
        keep: Keep | None = None,
    ) -> None:
        """Begin.

        Args:
            network: on its device, in the memory format that it stays in.
            plan: says when snapshots are due.
            options: which averages.
            keep: called on every rank with each snapshot; its tensors are the live ones.
        """
        self._network = network
        self._ema = MovingAverage(network, options.ema) if options.ema else None
        self._keep = keep
        self._good: list[tuple[Tensor, Tensor]] = []
        self._due = frozenset(snapshot_steps(plan, options)) if keep is not None else frozenset()

    def begin(self) -> None:
        """Before a pseudo-epoch: note the running statistics that `mend` falls back to."""
        norms = live_norms(self._network)
        self._good = [(each, each.clone()) for norm in norms for each in norm.buffers()]

    def settle(self) -> None:
        """After a stage froze and thawed: what is frozen does not move in the average either."""
        if self._ema is not None:
            self._ema.settle()

    def update(self) -> None:
        """After each step of the optimiser."""
        if self._ema is not None:
            self._ema.update()

    @torch.no_grad()
    def mend(self) -> None:
        """After a step that was not finite: running statistics are those that `begin` noted."""
        for buffer, good in self._good:
            buffer.copy_(good)
        if self._ema is not None:
            self._ema.follow({id(buffer) for buffer, _ in self._good})

    def share(self) -> None:
        """Give all ranks the same running statistics, in the network and in its average."""
        share_running_statistics(self._network)
        if self._ema is not None:
            self._ema.share()

    def snapshot(self, steps: int) -> None:
        """Keep the weights where a snapshot is due after so many steps of the run."""
        if self._keep is None or steps not in self._due:
            return
        self.share()
        self._keep(steps, self.weights())

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The network carries what is to be evaluated, the same on all ranks."""
        self.share()
        if self._ema is None:
            yield
            return
        with self._ema.applied():
            yield

    def weights(self) -> dict[str, Tensor]:
        """State dict of what is evaluated and kept; live tensors."""
        return model_state(self._network) if self._ema is None else self._ema.weights()

    def state(self) -> dict[str, Any]:
        """For `TrainState.extra`."""
        return {} if self._ema is None else {"ema": self._ema.state()}

    def restore(self, extra: dict[str, Any]) -> None:
        """Go on from a `state`.

        Raises:
            InputError: it holds no moving average, and one is asked for.
        """
        if self._ema is None:
            return
        if "ema" not in extra:
            raise InputError(
                "checkpoint: holds no moving average of the weights, and average.ema asks for one"
            )
        self._ema.restore(extra["ema"])
