"""The ONNX Runtime engine: a backbone exported once, any number and size of inputs.

Legend: B windows or tiles, C bands, H x W px, D features, h x w cells.
"""

from typing import Any

import torch
from torch import Tensor
from torch.export import Dim

from satray.models.backbones import Backbone
from satray.models.deploy import first_line, quiet
from satray.scoring.engine.exported import ExportCache
from satray.scoring.engine.trunk import UnfitError

INPUT, OUTPUT = "x", "f"
TRACED = (160, 224)
"""Height and width that the network is traced with, px; they differ, so that neither is taken for
the other."""


class OnnxTrunk:
    """A backbone in ONNX Runtime."""

    def __init__(
        self, backbone: Backbone, bands: int, threads: int, cache: ExportCache, key: tuple[str, ...]
    ) -> None:
        """Read the exported graph, or export it; the backbone stays as it is.

        Args:
            backbone: in eval mode, on the CPU.
            bands: C.
            threads: that one call may use.
            cache: where exported graphs are kept.
            key: what tells its weights from others': its bundle's model id, and its tower.

        Raises:
            UnfitError: it cannot be exported, or ONNX Runtime does not take it.
        """
        data = cache.get(lambda: exported(backbone, bands), *key)
        try:
            self._session = _session(data, threads)
        except Exception as error:  # ONNX Runtime has classes of its own
            cache.forget(*key)  # a file that was cut short, say: made anew the next time
            raise UnfitError(f"ONNX Runtime does not take it: {first_line(error)}") from error

    def __call__(self, x_BCHW: Tensor) -> Tensor:
        """Features of normalised input."""
        given = {INPUT: x_BCHW.contiguous().numpy()}
        try:
            (f_BDhw,) = self._session.run(None, given)
        except Exception as error:
            raise UnfitError(f"ONNX Runtime: {first_line(error)}") from error
        return torch.from_numpy(f_BDhw)


def exported(backbone: Backbone, bands: int) -> bytes:
    """A backbone as an ONNX file: input `x`, output `f`; batch, height and width are free.

    Args:
        backbone: in eval mode, on the CPU.
        bands: C.

    Raises:
        UnfitError: torch cannot export it with a free height and width.
    """
    x_BCHW = torch.zeros(2, bands, *TRACED)
    shapes = (dict.fromkeys((0, 2, 3), Dim.DYNAMIC),)  # how small they may get, torch finds
    try:
        with quiet():
            program = torch.export.export(backbone, (x_BCHW,), dynamic_shapes=shapes)
            made = torch.onnx.export(
                program,
                dynamo=True,
                input_names=[INPUT],
                output_names=[OUTPUT],
                optimize=False,  # ONNX Runtime does that by itself
                verbose=False,
            )
    except Exception as error:  # of many classes, one a stage of the exporter
        raise UnfitError(f"torch cannot export {backbone.name}: {first_line(error)}") from error
    if made is None:
        raise UnfitError(f"torch cannot export {backbone.name}")
    model: Any = made.model_proto
    data: bytes = model.SerializeToString()
    return data


def _session(data: bytes, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    # An arena only ever grows, and windows are large: memory goes back after each call.
    options.enable_cpu_mem_arena = False
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    # Threads that wait for work would take the cores that decode the next window.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
