"""The moving average over the weights of a run, and what becomes of batch statistics."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel

from satray.train.parallel import live_norms, share_running_statistics
from satray.train.state import model_state


class MovingAverage:
    """The exponential moving average (EMA) of a run on one rank, where one is asked for.

    Every rank holds the same: parameters agree anyway, and running statistics of batch norms, which
    each rank keeps of its own tiles, are averaged before anybody looks at them.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        """Begin at the network as it is, on its device and in its memory format.

        Args:
            network: that trains.
            decay: a step; 0: there is no average.
        """
        self._network, self._decay = network, decay
        self._average: AveragedModel | None = None
        if decay:
            self._average = AveragedModel(network, multi_avg_fn=self._move, use_buffers=True)
            self._average.n_averaged += 1  # it begins as a copy; else its first update would copy
            self._average.eval()
        self._good: list[tuple[Tensor, Tensor]] = []

    @property
    def kept(self) -> nn.Module:
        """What is evaluated and kept: the average, else the network itself."""
        return self._network if self._average is None else self._average.module

    def begin(self) -> None:
        """Before a pseudo-epoch: note the running statistics that `mend` falls back to."""
        norms = live_norms(self._network)
        self._good = [(each, each.clone()) for norm in norms for each in norm.buffers()]

    @torch.no_grad()
    def settle(self) -> None:
        """After a stage froze and thawed: what is frozen now rests in the average too.

        That is: parameters without gradients, and buffers of modules in evaluation mode.
        """
        for theirs, ours in self._pairs():
            still = [n for n, w in ours.named_parameters(recurse=False) if not w.requires_grad]
            if not ours.training:
                still += [name for name, _ in ours.named_buffers(recurse=False)]
            for name in still:
                getattr(theirs, name).copy_(getattr(ours, name))

    def update(self) -> None:
        """After each step: average += (1 - decay) * (network - average).

        The decay warms up as min(decay, (1 + t) / (10 + t)) over the updates t = 0, 1, ..., so that
        the random start is soon forgotten (TensorFlow's `ExponentialMovingAverage`).
        """
        if self._average is not None:
            self._average.update_parameters(self._network)

    def _move(self, average: Any, live: Any, _: Any) -> None:
        if not average[0].is_floating_point():  # counts of batches are the network's own
            torch._foreach_copy_(average, live)
            return
        assert self._average is not None
        t = int(self._average.n_averaged) - 1  # which is on the CPU: nothing waits for a GPU
        torch._foreach_lerp_(average, live, 1 - min(self._decay, (1 + t) / (10 + t)))

    @torch.no_grad()
    def mend(self) -> None:
        """After a step that was not finite: running statistics are those that `begin` noted."""
        for buffer, good in self._good:
            buffer.copy_(good)
        for theirs, ours in self._pairs():
            if isinstance(ours, _BatchNorm):
                for name, buffer in ours.named_buffers(recurse=False):
                    getattr(theirs, name).copy_(buffer)

    def share(self) -> None:
        """Give all ranks the same running statistics, in the network and in its average."""
        share_running_statistics(live_norms(self._network))
        share_running_statistics(
            theirs
            for theirs, ours in self._pairs()
            if isinstance(ours, _BatchNorm) and ours.training
        )

    def state(self) -> dict[str, Tensor]:
        """For `TrainState.average`; live tensors, none where there is no average."""
        return {} if self._average is None else model_state(self._average)

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from a `state`."""
        if self._average is not None:
            self._average.load_state_dict(state)

    def _pairs(self) -> Iterator[tuple[nn.Module, nn.Module]]:
        """Modules of the average, each with the network's own."""
        if self._average is not None:
            yield from zip(self.kept.modules(), self._network.modules(), strict=True)
