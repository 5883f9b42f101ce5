"""What a training run needs to go on as if it had never stopped.

States are taken at pseudo-epoch ends only. Randomness needs no place in them: sample order and
augmentation are pure in (seed, pseudo-epoch, row), and torch's generators (dropout) are seeded
anew for each (seed, pseudo-epoch, rank).
"""

from __future__ import annotations

import io
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from satray.data.augment import counter_hash
from satray.errors import InputError

_FORMAT = 1
_TORCH_STREAM = 1001
"""Keeps the generators' seeds apart from the augmentation's draws."""


@dataclass(frozen=True)
class TrainState:
    """A run after a whole number of pseudo-epochs. Tensors and plain types only."""

    pseudo_epoch: int
    """Pseudo-epochs finished; the next one to run."""

    step: int
    """Steps taken, each a global batch."""

    global_batch: int
    """Tiles a step, over all workers."""

    stage: int
    """The stage that the optimiser belongs to."""

    model: dict[str, torch.Tensor]
    """State dict of the network: parameters and buffers, contiguous."""

    optimizer: dict[str, Any]
    """State dict of the optimiser."""

    history: tuple[dict[str, Any], ...]
    """One flat row an evaluation so far (`EpochReport.row`)."""

    extra: dict[str, Any]
    """Averages of the weights (`Averages.state`)."""

    @property
    def kept(self) -> dict[str, torch.Tensor]:
        """State dict of what is evaluated and goes into the bundle."""
        average: dict[str, torch.Tensor] | None = self.extra.get("ema", {}).get("weights")
        return self.model if average is None else average

    @property
    def samples_seen(self) -> int:
        """Samples seen, over all workers."""
        return self.step * self.global_batch

    def to_bytes(self) -> bytes:
        """The state as `torch.save` writes it."""
        buffer = io.BytesIO()
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        plain["history"] = list(self.history)
        torch.save({"format": _FORMAT, **plain}, buffer)
        return buffer.getvalue()

    def copied(self) -> TrainState:
        """The same in the CPU's memory, where training changes nothing any more."""
        return replace(
            self, **{name: _copied(getattr(self, name)) for name in ("model", "optimizer", "extra")}
        )

    @classmethod
    def from_bytes(cls, data: bytes, device: torch.device | str = "cpu") -> TrainState:
        """Read what `to_bytes` wrote; runs no code from the file.

        Raises:
            InputError: the bytes are not a train state of this version.
        """
        try:
            plain = torch.load(io.BytesIO(data), map_location=device, weights_only=True)
            if plain.pop("format") != _FORMAT:
                raise KeyError("format")
            return cls(**{**plain, "history": tuple(plain["history"])})
        except Exception as error:
            raise InputError(
                f"checkpoint: not a train state of this version ({type(error).__name__})"
            ) from error


def _copied(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {name: _copied(each) for name, each in value.items()}
    return [_copied(each) for each in value] if isinstance(value, list | tuple) else value


def model_state(network: nn.Module) -> dict[str, torch.Tensor]:
    """The network's parameters and buffers, contiguous (the loop trains channels-last)."""
    return {name: value.detach().contiguous() for name, value in network.state_dict().items()}


def seed_torch(seed: int, *counters: int) -> None:
    """Seed torch's generators, on all devices, from (seed, counters)."""
    no_row = np.zeros(1, dtype=np.int64)
    bits = counter_hash(seed, _TORCH_STREAM, *counters, rows=no_row)[0]
    torch.manual_seed(int(bits >> np.uint64(1)))


def seed_all(seed: int) -> None:
    """Seed Python's, numpy's and torch's generators, as a training process does first."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def begin(seed: int, deterministic: bool) -> None:
    """What a process that trains does first, before CUDA starts.

    Seeds all generators; where repeatable kernels will be asked for, fixes cuBLAS' workspaces,
    which it reads once.
    """
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    seed_all(seed)


def takes_bf16(precision: str, device: torch.device) -> bool:
    """Whether to autocast to bfloat16, as the recipe's `precision` says.

    `auto` does on GPUs and processors that compute in it. Others (GPUs before NVIDIA's Ampere,
    processors without AVX-512 BF16 or AMX) only emulate it, slower than fp32. To be asked on the
    worker: the driver's machine may be another.
    """
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


@contextmanager
def determinism(on: bool) -> Iterator[None]:
    """Ask torch for bitwise repeatable kernels for a while.

    On GPUs the process has to have begun that way (`begin`).
    """
    before = torch.are_deterministic_algorithms_enabled()
    benchmark = torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(on or before)
    torch.backends.cudnn.benchmark = (
        not on
    )  # tiles have one shape: the fastest kernel is found once
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        torch.backends.cudnn.benchmark = benchmark
