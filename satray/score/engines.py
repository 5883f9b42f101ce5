"""What computes a bundle's features: eager torch, or OpenVINO on CPUs; in float32 or bfloat16.

OpenVINO folds normalisations, fuses activations and lays weights out for the processor at hand
(bench/RESULTS.md has what it gives); its features are equal to eager torch's within `TOLERANCE`. A
backbone is converted where it is used, in a second or two, for any batch, height and width; where
one cannot be, or gives other features, all stay eager.

Legend: B windows or tiles, C bands, H x W px, D features, h x w cells.
"""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from satray.errors import InputError, one_line
from satray.models.backbones import SIMPLE_CNN, Backbone
from satray.models.bundle import Bundle, load_bundle
from satray.score.deploy import quiet
from satray.score.forward import Features
from satray.storage import Storage

if TYPE_CHECKING:
    from satray.cluster import Workers

EngineKey = Literal["auto", "eager", "openvino"]
PrecisionKey = Literal["auto", "fp32", "bf16"]
PAYS = 16 << 20
"""Px of network input from which on a process converts its backbones under `engine=auto`."""
TOLERANCE = 1e-4
"""Largest difference of a feature from eager torch's, as a share of the largest feature."""
TRACED, TRIED = (1, 160, 224), (2, 224, 192)
"""Batch, height and width that a backbone is traced with, and compared on: what a trace takes for
constant must not be."""


@dataclass(frozen=True)
class Loaded:
    """A bundle, ready to compute."""

    bundle: Bundle
    """On its device."""
    features: Features | None
    """Another way to its network's features; None: the network, in float32."""
    engine: str
    """Library and precision, for products and people: `eager fp32`."""


def load_engine(
    uri: str, model_id: str, storage: Storage, gpu: bool, engine: EngineKey, precision: PrecisionKey
) -> Loaded:
    """Load a bundle in the process that computes with it.

    Args:
        uri: bundle folder, or a train run's `out`.
        model_id: the bundle's, as the driver saw it.
        storage: how it is reached.
        gpu: whether to compute on a GPU.
        engine: on CPUs. openvino: for all towers; auto: for all, where it can run each and one is
            faster by it; eager: for none.
        precision: of the backbones. auto: bf16 on GPUs that compute in it, where the bundle's
            training was allowed to; else fp32. Heads and maps are in float32 always.

    Raises:
        InputError: the bundle is another now, or OpenVINO is asked for and cannot run it.
    """
    bundle = load_bundle(uri, storage, "cuda" if gpu else "cpu")
    if bundle.model_id != model_id:
        raise InputError(
            f"bundle={uri}: changed while the job was running ({model_id} -> {bundle.model_id}); "
            "rerun"
        )
    bf16 = precision == "bf16" or (
        precision == "auto"
        and gpu
        and bundle.spec.provenance.get("precision") in ("auto", "bf16")
        and torch.cuda.is_bf16_supported(including_emulation=False)
    )
    asked, why = "bf16" if bf16 else "fp32", ""
    # Group normalisation is slower there (bench/RESULTS.md).
    slower = all(tower.backbone == SIMPLE_CNN for tower in bundle.spec.variant.towers)
    if not (gpu or engine == "eager" or (engine == "auto" and slower)):
        try:
            features, got = openvino_features(bundle, bf16)
            return Loaded(bundle, features, f"openvino {got}")
        except ValueError as error:
            if engine == "openvino":
                raise InputError(f"engine: {error}; accepted: auto, eager") from error
            why = f"({error}) "
    return Loaded(bundle, bf16_features(bundle) if bf16 else None, f"eager {why}{asked}")


def bf16_features(bundle: Bundle) -> Features:
    """A bundle's features by eager torch under autocast, on its device; in float32."""

    @torch.inference_mode()
    def features(x_BCHW: Tensor) -> dict[str, Tensor]:
        with torch.autocast(bundle.device.type, torch.bfloat16):
            found = bundle.network.features(x_BCHW)
        return {name: f_BDhw.float() for name, f_BDhw in found.items()}

    return features


def openvino_features(bundle: Bundle, bf16: bool = False) -> tuple[Features, str]:
    """A bundle's features by OpenVINO, all towers; the bundle is on the CPU, and stays as it is.

    Args:
        bundle: on the CPU.
        bf16: compute in bfloat16, where the processor does.

    Returns:
        The features, in float32, and what they are computed in: `fp32` or `bf16`.

    Raises:
        ValueError: it cannot run a tower.
    """
    bands, backbones = bundle.spec.bands, bundle.network.backbones()
    towers: dict[str, tuple[list[int], Callable[[Tensor], Tensor]]] = {}
    precision = "fp32"
    for tower in bundle.spec.variant.towers:
        try:
            forward, precision = converted(backbones[tower.name], len(tower.bands), bf16)
        except Exception as error:  # of any class; whatever a model's Python holds
            why = one_line(error)[:200]
            raise ValueError(f"openvino cannot run tower {tower.name}: {why}") from error
        towers[tower.name] = [bands.index(band) for band in tower.bands], forward
    every = list(range(len(bands)))

    @torch.inference_mode()
    def features(x_BCHW: Tensor) -> dict[str, Tensor]:
        return {
            name: forward(x_BCHW if take == every else x_BCHW[:, take])
            for name, (take, forward) in towers.items()
        }

    return features, precision


def engine_for(key: EngineKey, px: float, workers: "Workers | None") -> EngineKey:
    """What each of the workers that share so many px of network input is to compute with.

    Args:
        key: the recipe's.
        px: of all of them together.
        workers: on Ray; None: this process.
    """
    small = key == "auto" and px < PAYS * (workers.count if workers is not None else 1)
    return "eager" if small or (workers is not None and workers.gpu) else key


@torch.inference_mode()
def converted(backbone: Backbone, bands: int, bf16: bool) -> tuple[Callable[[Tensor], Tensor], str]:
    """A backbone compiled by OpenVINO, with as many threads as torch has here.

    Args:
        backbone: in eval mode, on the CPU; stays as it is.
        bands: C.
        bf16: compute in bfloat16, where the processor does.

    Returns:
        Its forward, and what that computes in: `fp32` or `bf16`.

    Raises:
        ValueError: its features in float32 differ from eager torch's.
        Exception: OpenVINO or torch's tracer do not take it; of many classes.
    """
    # It would report every import and conversion to its makers.
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    import openvino

    noise = torch.Generator().manual_seed(0)
    shown, tried = (torch.randn(B, bands, H, W, generator=noise) for B, H, W in (TRACED, TRIED))
    with quiet():
        traced: Any = torch.jit.trace(backbone, shown, check_trace=False)  # type: ignore[no-untyped-call]
        traced = torch.jit.freeze(traced)
        shape = openvino.PartialShape([-1, bands, -1, -1])
        model = openvino.convert_model(traced, example_input=shown, input=shape)
    laid = openvino.preprocess.PrePostProcessor(model)  # batches come channels last: no copy
    laid.input().tensor().set_layout(openvino.Layout("NHWC"))
    laid.input().model().set_layout(openvino.Layout("NCHW"))
    built = laid.build()

    def compiled(hint: str) -> Any:
        return openvino.Core().compile_model(
            built,
            "CPU",
            {
                "INFERENCE_NUM_THREADS": torch.get_num_threads(),
                "INFERENCE_PRECISION_HINT": hint,
                "CPU_DENORMALS_OPTIMIZATION": True,
            },
        )

    def features(program: Any, x_BCHW: Tensor) -> Tensor:
        x_BHWC = x_BCHW.permute(0, 2, 3, 1).contiguous()
        return torch.from_numpy(program(x_BHWC.numpy())[0])

    program = compiled("f32")
    gap = difference(features(program, tried), backbone(tried))
    if not gap <= TOLERANCE:
        raise ValueError(f"its features differ from eager torch's by {gap:.1e} of the largest")
    if bf16:
        program = compiled("bf16")
    taken = program.get_property("INFERENCE_PRECISION_HINT").to_string()
    return partial(features, program), "bf16" if taken == "bf16" else "fp32"


def difference(f_BDhw: Tensor, eager_BDhw: Tensor) -> float:
    """The largest difference of any feature, over the largest feature of eager torch.

    Infinite where shapes differ or a number is not finite.
    """
    if f_BDhw.shape != eager_BDhw.shape or not bool(f_BDhw.isfinite().all()):
        return math.inf
    most = float(eager_BDhw.abs().max())
    gap = float((f_BDhw.double() - eager_BDhw.double()).abs().max())
    return gap / most if most else gap
