"""A bundle as one program that needs nothing of satray: ONNX, or torch's own `.pt2`.

The program takes stored pixels and gives logits and scores: nodata, radiometry, resizing, cropping
and normalisation are inside. The number of tiles is free, their height and width are fixed.

Legend: B tiles, C bands, H x W stored px, K classes.
"""

import io
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from satray.data.values import HUGE, sentinel, together
from satray.errors import InputError, one_line
from satray.models.bundle import Bundle
from satray.models.spec import SPEC, BundleSpec

INPUT = "pixels"
OUTPUTS = ("logits", "scores")


class Filled(nn.Module):
    """pixels_BCHW (stored) -> the same, what is no measurement filled as scoring does; known_B1.

    `filled` and `valid_values` of `satray.data.values` as tensor operations: each band's mean over
    the tile's px that are measured stands where one is not finite or `spec.nodata`. Known are
    tiles of which a px is measured in every band, as `refuse_empty` has it.
    """

    def __init__(self, spec: BundleSpec) -> None:
        super().__init__()
        dtype = np.dtype(spec.dtype)
        value = sentinel(dtype, spec.nodata)
        # as tensors: ONNX's exporter makes plain numbers float32, which has not each of 32 bits
        self._huge = nn.Buffer(torch.tensor(HUGE, dtype=torch.float64))
        self._nodata = (
            None if value is None else nn.Buffer(torch.tensor(value, dtype=torch.float64))
        )
        self._together = together(dtype, spec.nodata)

    def forward(self, pixels_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """In float64, which holds every number of up to 32 bits, and sums of them exactly."""
        floats = pixels_BCHW.is_floating_point()
        if self._nodata is None and not floats:
            return pixels_BCHW, torch.ones_like(pixels_BCHW[:, 0, :1, 0], dtype=torch.bool)
        x_BCHW = pixels_BCHW.double()
        valid_BCHW = x_BCHW.abs() < self._huge
        if self._nodata is not None:
            hole_BCHW = x_BCHW == self._nodata
            if self._together:
                hole_BCHW = hole_BCHW.all(1, keepdim=True)
            valid_BCHW = valid_BCHW & ~hole_BCHW
        total_BC11 = x_BCHW.where(valid_BCHW, 0).sum((2, 3), keepdim=True)
        mean_BC11 = total_BC11 / valid_BCHW.sum((2, 3), keepdim=True).clamp(min=1)
        if not floats:
            mean_BC11 = mean_BC11.round()
        known_B1 = valid_BCHW.all(1).flatten(1).any(1, keepdim=True)
        return x_BCHW.where(valid_BCHW, mean_BC11).to(pixels_BCHW.dtype), known_B1


class Whole(nn.Module):
    """pixels_BCHW (stored) -> logits_BK, scores_BK (both float32); NaN of tiles without data."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__()
        self._filled = Filled(bundle.spec)
        self.network = bundle.network
        self._way = bundle.spec.preprocess()
        self._temperature = bundle.spec.temperature
        self._softmax = bundle.spec.task == "multiclass"

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Logits before, scores after the temperature."""
        filled, known_B1 = self._filled(pixels)
        logits_BK = self.network(self._way(filled)).where(known_B1, torch.nan)
        z_BK = logits_BK / self._temperature
        return logits_BK, z_BK.softmax(1) if self._softmax else z_BK.sigmoid()


def trace(bundle: Bundle) -> ExportedProgram:
    """The program of a bundle on the CPU, for tiles of the shape that it was trained on.

    Raises:
        InputError: torch cannot trace the network.
    """
    spec = bundle.spec
    # Two tiles, since torch would take one for a constant.
    shape = 2, len(spec.bands), *spec.tile_shape
    pixels_BCHW = torch.zeros(shape, dtype=getattr(torch, spec.dtype))
    try:
        with quiet():
            return torch.export.export(
                Whole(bundle).eval(), (pixels_BCHW,), dynamic_shapes={INPUT: {0: Dim("batch")}}
            )
    except Exception as error:  # of many classes, one a stage of the tracer
        raise InputError(
            f"bundle: torch cannot export this network: {one_line(error)[:200]}"
        ) from error


def torch_file(program: ExportedProgram, bundle: Bundle) -> bytes:
    """The `.pt2` file: `torch.export.load(file).module()(pixels)` gives (logits, scores).

    The bundle's `model.json` is among its extra files.
    """
    sink = io.BytesIO()
    torch.export.save(program, sink, extra_files={SPEC: bundle.spec.to_json().decode()})
    return sink.getvalue()


def onnx_file(program: ExportedProgram, bundle: Bundle) -> bytes:
    """The ONNX file: input `pixels`, outputs `logits` and `scores`, first axis `batch`.

    Its metadata hold `model_id`, and `classes` and `bands` as JSON lists.

    Raises:
        InputError: an operator that ONNX does not have.
    """
    try:
        with quiet():
            made: Any = torch.onnx.export(
                program, dynamo=True, input_names=[INPUT], output_names=list(OUTPUTS), verbose=False
            )
    except Exception as error:  # of many classes, one a stage of the exporter
        raise InputError(f"bundle: not exportable to ONNX: {one_line(error)[:200]}") from error
    model: Any = made.model_proto
    about = {
        "model_id": bundle.model_id,
        "classes": json.dumps(bundle.spec.classes, ensure_ascii=False),
        "bands": json.dumps(bundle.spec.bands, ensure_ascii=False),
    }
    for name, text in about.items():
        model.metadata_props.add(key=name, value=text)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    data: bytes = model.SerializeToString()
    return data


@contextmanager
def quiet() -> Iterator[None]:
    """The exporters tell of themselves; none of it is for the person."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.disable(before)
