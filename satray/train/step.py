"""One step of training: a stored batch becomes network input, the input a loss, the loss an update.

Shapes: B tiles of this worker's batch, b of a piece of it, C bands, H and W pixels, S the side of
the network's input, K classes.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_

from satray.config.train import OptimizerOptions, TrainRecipe
from satray.data.augment import Augment, send
from satray.data.order import samples
from satray.models.preprocess import Preprocess, normalize
from satray.train.losses import Loss
from satray.train.mixing import Mixing
from satray.train.optim import make_optimizer, parameter_groups, set_dropout, set_rate
from satray.train.plan import PlannedStage
from satray.train.process import add_up, resting_norms, world_size, wrap

Batch = dict[str, Any]
"""Of one worker, numpy arrays or tensors: `pixels` (B,C,H,W) as stored, `labels` (B,K) uint8, `row`
(B,) int64 row of the split's table, `valid` (B,) bool, False where the tile could not be read; to
train on also `copy` (B,) int64, how often the row came before in this pseudo-epoch."""

TrainInput = Callable[[Tensor, NDArray[np.int64], NDArray[np.int64], int], Tensor]
"""Makes the network's input, on their device, of (stored values, rows of the split, how often each
came before, pseudo-epoch)."""


@dataclass(frozen=True)
class AugmentedTiles:
    """The `TrainInput` of tiles: what is drawn is pure in (seed, pseudo-epoch, row, copy)."""

    preprocess: Preprocess
    """Shape after resizing, mean and deviation."""
    augment: Augment
    """Crop, symmetry and colour."""
    views: int | None = None
    """Draws a tile, after which they come again: the c-th copy of a tile in pseudo-epoch e has draw
    (e + c) mod `views`, which is the draw of that copy in pseudo-epoch 0. None: always new."""

    @classmethod
    def of(cls, recipe: TrainRecipe, preprocess: Preprocess, seed: int) -> AugmentedTiles:
        """What a recipe asks for, drawn with this seed."""
        augment = Augment.of(recipe.augment, recipe.input.size, seed)
        return cls(preprocess, augment, recipe.augment.views)

    def __call__(
        self,
        pixels_BCHW: Tensor,
        rows: NDArray[np.int64],
        copies: NDArray[np.int64],
        pseudo_epoch: int,
    ) -> Tensor:
        """x_BCSS float32 of stored pixels; see `train_input`."""
        if self.views is not None:
            copies, pseudo_epoch = view_of(copies, pseudo_epoch, self.views), 0
        drawn = samples(rows, copies)
        return train_input(pixels_BCHW, drawn, pseudo_epoch, self.preprocess, self.augment)


def view_of(copies: NDArray[np.int64], pseudo_epoch: int, views: int) -> NDArray[np.int64]:
    """Which of a tile's draws each copy has in a pseudo-epoch: 0 to `views` - 1."""
    return (copies + pseudo_epoch) % views


def train_input(
    pixels_BCHW: Tensor,
    rows: NDArray[np.int64],
    pseudo_epoch: int,
    preprocess: Preprocess,
    augment: Augment,
) -> Tensor:
    """Resize where needed, crop and turn, normalise, recolour: x_BCSS float32.

    Pixels stay integers until the crop is taken, unless they must be resized first or mean
    something else than they are (`input.radiometry`). Crops that are resized themselves
    (`augment.crop: resized`) are taken from the tile in its own size.

    Args:
        pixels_BCHW: as stored, on the device.
        rows: a number for each tile that augmentation is drawn from: its row of the split's table,
            or another for each time that it comes again (`satray.data.order.samples`).
        pseudo_epoch: 0 for the first; the other thing that it is drawn from.
        preprocess: shape after resizing, mean and deviation.
        augment: crop, symmetry and colour.
    """
    x_BCHW = preprocess.values(pixels_BCHW)
    height, width = preprocess.resized(x_BCHW.shape[2], x_BCHW.shape[3])
    if augment.crop != "resized" and x_BCHW.shape[2:] != (height, width):
        x_BCHW = preprocess.resample(x_BCHW, height, width)
    x_BCSS = normalize(augment(x_BCHW, rows, pseudo_epoch), preprocess.mean, preprocess.std)
    return augment.finish(x_BCSS, rows, pseudo_epoch)


@dataclass(frozen=True)
class Inputs:
    """A batch as a step, or an evaluation, takes it; tensors are on the device."""

    x_BCSS: Tensor  # noqa: N815
    """Input of the network, floating."""
    labels_BK: Tensor  # noqa: N815
    """0 to 1, floating."""
    weight_B: Tensor  # noqa: N815
    """Float32: 1 for a tile that could be read, else 0."""
    rows: NDArray[np.int64]
    """(B,) rows of the split."""
    valid: NDArray[np.bool_]
    """(B,) whether each tile could be read."""


def inputs_of(
    batch: Batch,
    make: TrainInput,
    device: torch.device,
    pseudo_epoch: int = 0,
    mixing: Mixing | None = None,
) -> Inputs:
    """Turn a stored batch into what a step takes.

    Readable tiles of the batch stand, with weight 0, where one could not be read: so batch norms
    see tiles only.

    Args:
        batch: as it was read.
        make: input of stored values.
        device: where the network is.
        pseudo_epoch: 0 for the first; augmentation and mixing are drawn from it.
        mixing: mixup and cutmix; None: neither.
    """
    rows, valid = (torch.as_tensor(batch[name]).cpu().numpy() for name in ("row", "valid"))
    copies = np.zeros_like(rows) if "copy" not in batch else np.asarray(batch["copy"])
    stored = torch.as_tensor(batch["pixels"])
    if valid.any() and not valid.all():
        take = np.arange(len(valid))
        take[~valid] = np.resize(np.flatnonzero(valid), int((~valid).sum()))
        carried = stored.view(torch.int16) if stored.dtype == torch.uint16 else stored
        stored = carried[torch.from_numpy(take)].view(stored.dtype)
    x_BCSS = make(send(stored, device), rows, copies, pseudo_epoch)
    labels_BK = send(torch.as_tensor(batch["labels"]), device).float()
    if mixing is not None:
        drawn = samples(rows, copies)
        x_BCSS, labels_BK = mixing(x_BCSS, labels_BK, drawn, pseudo_epoch, valid)
    weight_B = send(torch.from_numpy(valid.astype(np.float32)), device)
    return Inputs(x_BCSS, labels_BK, weight_B, rows, valid)


def ahead(inputs: Iterator[Inputs], device: torch.device) -> Iterator[Inputs]:
    """The same inputs; for a GPU each is made while the device is at the one before.

    A thread of its own pins and copies, on a CUDA stream of its own, and draws augmentation there.
    """
    if device.type != "cuda":
        yield from inputs
        return
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def make() -> tuple[Inputs, Any] | None:
        with torch.cuda.device(device), torch.cuda.stream(stream):
            made = next(inputs, None)
            return None if made is None else (made, stream.record_event())

    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(make)
        while (found := coming.result()) is not None:
            coming = pool.submit(make)
            made, ready = found
            now = torch.cuda.current_stream(device)
            now.wait_event(ready)
            for tensor in (made.x_BCSS, made.labels_BK, made.weight_B):
                tensor.record_stream(now)
            yield made


class TrainStep:
    """Learns from a batch, in a stage: with its trainable weights, and an optimiser of its own.

    A step whose loss or gradient is not finite, and one without a readable tile, leaves weights and
    optimiser as they are. Nothing waits for the device: the caller looks at what a step gave when
    it likes.
    """

    def __init__(
        self,
        network: nn.Module,
        options: OptimizerOptions,
        stage: PlannedStage,
        loss: Loss,
        *,
        accumulate: int = 1,
        bf16: bool = False,
        compile: bool = False,
    ) -> None:
        """Begin: freeze and thaw; on several ranks wrap, and send rank 0's buffers to all.

        Args:
            network: logits_BK from x_BCSS, on its device, with `set_trainable`.
            options: the optimiser, and the largest norm of the gradient of all weights together.
            stage: what is trained, its dropout and layer decay.
            loss: (logits_BK, labels_BK) -> loss_B.
            accumulate: pieces that a batch goes through the network in, for one update; batch norm
                sees each for itself.
            bf16: autocast to bfloat16.
            compile: by `torch.compile`.

        Raises:
            InputError: the stage trains nothing, or a block that there is not.
        """
        cast(Callable[[str], None], network.set_trainable)(stage.options.trainable)
        network.zero_grad(set_to_none=True)
        network.train()
        set_dropout(network, stage.dropout)
        groups = parameter_groups(network, stage.options.layer_decay)
        self.optimizer = optimizer = make_optimizer(options, groups)
        """Over what is trainable."""
        self._network, self._loss = network, loss
        self._clip, self._accumulate, self._bf16 = options.clip, accumulate, bf16
        self._wrapped = wrap(network, next(network.parameters()).device)
        self._forward: Any = torch.compile(self._wrapped) if compile else self._wrapped
        self._weights = [w for group in optimizer.param_groups for w in group["params"]]
        for group in optimizer.param_groups if isinstance(optimizer, torch.optim.SGD) else ():
            for weight in group["params"] if group["momentum"] else ():
                # Else torch leaves momentum undefined where the first step is skipped.
                optimizer.state[weight].setdefault("momentum_buffer", torch.zeros_like(weight))

    def __call__(self, inputs: Inputs, rate: float, momentum: float | None = None) -> Tensor:
        """Take a step.

        Args:
            inputs: this worker's part of the global batch.
            rate: learning rate.
            momentum: (Adam: beta1); None: as it is.

        Returns:
            float64 (3,), on the device, over all workers: sum of the losses, readable tiles, and 1
            where the step was not finite and nothing was learnt from it, else 0.
        """
        set_rate(self.optimizer, rate, momentum)
        self.optimizer.zero_grad(set_to_none=True)
        readable = add_up(inputs.weight_B.sum())
        # DDP averages gradients over ranks; this makes it the mean over all readable tiles.
        scale = world_size() / readable.clamp(min=1.0)
        total = torch.zeros((), dtype=torch.float64, device=readable.device)
        idle = not inputs.valid.any()
        parts = (inputs.x_BCSS, inputs.labels_BK, inputs.weight_B)
        pieces = list(zip(*(each.chunk(self._accumulate) for each in parts), strict=True))
        for number, (x_bCSS, labels_bK, weight_b) in enumerate(pieces):
            with ExitStack() as stack:
                last = number == len(pieces) - 1
                if isinstance(self._wrapped, DistributedDataParallel) and not last:
                    stack.enter_context(self._wrapped.no_sync())
                if idle:  # nothing for batch norms to learn
                    stack.enter_context(resting_norms(self._network))
                    x_bCSS = torch.zeros_like(x_bCSS)
                with torch.autocast(x_bCSS.device.type, torch.bfloat16, enabled=self._bf16):
                    logits_bK = self._forward(x_bCSS)
                loss = (self._loss(logits_bK.float(), labels_bK) * weight_b).sum()
                torch.autograd.backward(loss * scale)
            total += loss.detach()
        add_up(total)
        norm = clip_grad_norm_(self._weights, self._clip or math.inf)
        bad = ~(total.isfinite() & norm.isfinite())
        # Fused kernels do nothing where it is 1, as `torch.amp.GradScaler` has them; an `if` here
        # would make a GPU wait.
        optimizer: Any = self.optimizer
        optimizer.grad_scale, optimizer.found_inf = None, (bad | (readable == 0)).float()
        optimizer.step()
        return torch.stack([total, readable.double(), bad.double()])


class Results:
    """What steps gave, read once it is there: a GPU is not waited for."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._coming: deque[tuple[Tensor, Any]] = deque()

    def add(self, result: Tensor) -> None:
        """Note what a `TrainStep` gave."""
        event: Any = None
        if self._on_gpu:
            host = torch.empty(result.shape, dtype=result.dtype, pin_memory=True)
            result = host.copy_(result, non_blocking=True)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record()
        self._coming.append((result, event))

    @property
    def busy(self) -> bool:
        """Whether the device is still at a step."""
        return self._on_gpu and bool(self._coming) and not self._coming[-1][1].query()

    def ready(self, wait: bool = False) -> Iterator[list[float]]:
        """Give, in order, what has come since the last call.

        Args:
            wait: for all of it.
        """
        while self._coming:
            result, event = self._coming[0]
            if event is not None and not event.query():
                if not wait:
                    return
                event.synchronize()
            self._coming.popleft()
            yield result.tolist()
