"""Averages over the weights of a run: a moving one (EMA), and one of a few moments of it (SWA).

Every rank holds the same: parameters agree anyway, and running statistics of batch norms, which
each rank keeps of its own tiles, are averaged before anybody looks at them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel

from satray.config.train import AverageOptions
from satray.train.parallel import live_norms, share_running_statistics
from satray.train.state import model_state


class Averages:
    """The averages of one run on one rank; does nothing where none is asked for."""

    def __init__(self, network: nn.Module, options: AverageOptions) -> None:
        """Begin at the network as it is, on its device and in its memory format."""
        self._network = network
        self._decay = options.ema
        self._ema: AveragedModel | None = None
        if options.ema:
            self._ema = AveragedModel(network, multi_avg_fn=self._move, use_buffers=True)
            self._ema.n_averaged += 1  # it begins as a copy; else its first update would copy
            self._ema.eval()
        self.swa = AveragedModel(network) if options.swa else None
        """Mean of the weights so far; None where none is asked for."""
        self._good: list[tuple[Tensor, Tensor]] = []

    @property
    def kept(self) -> nn.Module:
        """What is evaluated and kept: the moving average, else the network itself."""
        return self._network if self._ema is None else self._ema.module

    def begin(self) -> None:
        """Before a pseudo-epoch: note the running statistics that `mend` falls back to."""
        norms = live_norms(self._network)
        self._good = [(each, each.clone()) for norm in norms for each in norm.buffers()]

    @torch.no_grad()
    def settle(self) -> None:
        """After a stage froze and thawed: what is frozen now rests in the moving average too.

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
        if self._ema is not None:
            self._ema.update_parameters(self._network)

    def _move(self, average: Any, live: Any, _: Any) -> None:
        """One update of tensors of one type; counts of batches are the network's own."""
        if not average[0].is_floating_point():
            torch._foreach_copy_(average, live)
            return
        assert self._ema is not None
        t = int(self._ema.n_averaged) - 1  # which is on the CPU: nothing waits for a GPU
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

    def snapshot(self) -> None:
        """Take the weights as they are into the mean."""
        if self.swa is not None:
            self.share()
            self.swa.update_parameters(self.kept)

    def state(self) -> dict[str, Any]:
        """For `TrainState.averages`; live tensors."""
        return {name: model_state(each) for name, each in self._models()}

    def restore(self, averages: dict[str, Any]) -> None:
        """Go on from a `state`."""
        for name, each in self._models():
            each.load_state_dict(averages[name])

    def _models(self) -> Iterator[tuple[str, AveragedModel]]:
        for name, each in (("ema", self._ema), ("swa", self.swa)):
            if each is not None:
                yield name, each

    def _pairs(self) -> Iterator[tuple[nn.Module, nn.Module]]:
        """Modules of the moving average, each with the network's own."""
        if self._ema is not None:
            yield from zip(self.kept.modules(), self._network.modules(), strict=True)


@torch.no_grad()
def renew_statistics(network: nn.Module, inputs: Callable[[], Iterator[Tensor]]) -> None:
    """Running statistics anew: the mean over batches, as `torch.optim.swa_utils.update_bn` does.

    But frozen batch norms keep theirs, and all else is in evaluation mode, so that dropout draws
    nothing. On several ranks each takes its own batches, then all take the mean. Without live batch
    norms no batch is asked for.

    Args:
        network: left in evaluation mode.
        inputs: batches of x_BCSS on the network's device; empty ones are left out.
    """
    network.train()
    norms = [norm for norm in live_norms(network) if norm.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    network.eval()
    if not norms:
        return
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative
        norm.train()
    synchronous = any(isinstance(norm, nn.SyncBatchNorm) for norm in norms)
    for x_BCSS in inputs():
        if len(x_BCSS) or synchronous:  # then all ranks must come along
            network(x_BCSS)
    share_running_statistics(norms)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.eval()
