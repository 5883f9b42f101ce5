"""The job `export`: a bundle's backbones as encoders, and the whole classifier as a program.

Each product is run before it is published, and compared with the bundle on the same tiles.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from satray.config.score import ExportRecipe
from satray.data.values import filled, sentinel, valid_values
from satray.errors import SatrayError
from satray.models.spec import bundle_digest, bundle_digests, read_spec
from satray.runs.run import Outcome, Run, to_json
from satray.storage import Storage, join

if TYPE_CHECKING:  # it imports torch
    from satray.models.bundle import Bundle
    from satray.models.spec import BundleSpec

Arrays = tuple[NDArray[Any], ...]

TOLERANCE = 1e-4
"""Largest difference of any logit and score from the bundle's, relative where logits are above 1,
that is let through."""
TRIED = (1, 3)
"""Tiles in the batches that products are compared on."""


@dataclass(frozen=True)
class Described:
    """A bundle, as it describes itself."""

    spec: "BundleSpec"
    """Its description."""
    digests: dict[str, str]
    """Of its files."""


def read(recipe: ExportRecipe, storage: Storage) -> Described:
    """Read the bundle's description and digest.

    Raises:
        InputError: no bundle.
    """
    found = bundle_digest(bundle_digests(recipe.bundle, storage))
    return Described(read_spec(recipe.bundle, storage), {"bundle": found})


def plan(recipe: ExportRecipe, found: Described, storage: Storage) -> list[str]:
    """Say what would be written."""
    del storage
    spec = found.spec
    height, width = spec.tile_shape
    towers = [f"{tower.name} ({tower.backbone})" for tower in spec.variant.towers]
    lines = {
        "encoder": f"encoder: {', '.join(towers)}: encoder/TOWER.safetensors",
        "onnx": f"onnx: tiles of {height} x {width} px in {spec.dtype}: classifier.onnx",
        "torch": f"torch: tiles of {height} x {width} px in {spec.dtype}: classifier.pt2",
    }
    return [lines[name] for name in dict.fromkeys(recipe.formats)]


def work(recipe: ExportRecipe, found: Described, run: Run) -> Outcome:
    """Publish `encoder/`, `classifier.onnx`, `classifier.pt2` and `export.json`."""
    del found
    from satray.models.bundle import load_bundle

    bundle = load_bundle(recipe.bundle, run.storage)
    spec = bundle.spec
    encoders, programs, lines = [], [], []
    for tower in spec.variant.towers if "encoder" in recipe.formats else ():
        encoders.append(_export_encoder(run, bundle, tower.name))
        strides = ", ".join(str(level["stride"]) for level in encoders[-1]["levels"])
        lines.append(f"{encoders[-1]['file']}: strides {strides}")
    wanted: list[str] = [name for name in ("onnx", "torch") if name in recipe.formats]
    if wanted:
        programs = _export_programs(run, bundle, wanted)
    for made in programs:
        said = f"largest difference from the bundle {made['difference']:.1e}"
        lines.append(f"{made['file']}: {said}")
    about = {  # what a program needs to be told, for people who have no satray
        "model_id": bundle.model_id,
        "input": {
            "name": "pixels",
            "shape": ["batch", len(spec.bands), *spec.tile_shape],
            "dtype": spec.dtype,
            "bands": list(spec.bands),
            "nodata": spec.nodata,
            "meaning": "pixels as stored, neither scaled nor normalised; nodata and what is not "
            "finite are filled inside, with the mean of the tile's other pixels",
        },
        "outputs": {
            "logits": "(batch, classes) float32, raw",
            "scores": "(batch, classes) float32, 0 to 1, after the temperature",
        },
        "task": spec.task,
        "classes": list(spec.classes),
        "thresholds": list(spec.thresholds),
        **({"encoders": encoders} if encoders else {}),
        **({"programs": programs} if programs else {}),
    }
    run.publish("export.json", to_json(about))
    return Outcome(
        counts={"encoders": len(encoders), "programs": len(programs)},
        metrics={f"{made['format']}_difference": made["difference"] for made in programs},
        summary=tuple(lines),
    )


def _export_encoder(run: Run, bundle: "Bundle", tower: str) -> dict[str, Any]:
    from satray.models.encoder import encoder_file, load_encoder

    path = f"encoder/{tower}.safetensors"
    with run.activity("encoders"):
        run.publish(path, encoder_file(bundle, tower))
    made = load_encoder(join(run.out, path), run.storage)  # as a stranger will
    levels = zip(made.strides, made.channels, strict=True)
    return {
        "file": path,
        "tower": tower,
        "levels": [{"stride": stride, "channels": channels} for stride, channels in levels],
    }


def _export_programs(run: Run, bundle: "Bundle", names: list[str]) -> list[dict[str, Any]]:
    from satray.score.deploy import onnx_file, torch_file, trace

    run.progress("tracing the network")
    with run.activity("tracing"):
        program = trace(bundle)
    made = []
    for name in names:
        path, write, read = {
            "onnx": ("classifier.onnx", onnx_file, _run_onnx),
            "torch": ("classifier.pt2", torch_file, _run_torch),
        }[name]
        with run.activity(f"writing {name}"):
            data = write(program, bundle)
        with run.activity("comparing"):
            difference = compare(read(data), bundle)
        if not difference <= TOLERANCE:
            raise SatrayError(
                f"{path}: differs from the bundle by {difference:.2e}, accepted: {TOLERANCE:g}; "
                "not published"
            )
        run.publish(path, data)
        made.append({"file": path, "format": name, "difference": difference})
    return made


def compare(program: Callable[[NDArray[Any]], Arrays], bundle: "Bundle") -> float:
    """The largest difference of a program from the bundle it was made of, nodata included.

    Args:
        program: logits and scores of stored pixels (B, C, H, W).
        bundle: the bundle.

    Returns:
        Over batches of one and of three random tiles: max |difference| of any score, or of any
        logit divided by max(1, |logit|). NaN where a program's number is not finite.
    """
    import torch

    nodata, most = (bundle.spec.nodata,) * len(bundle.spec.bands), 0.0
    for seed, tiles in enumerate(TRIED):
        pixels_BCHW = random_tiles(bundle.spec, tiles, seed)
        logits, scores = (np.asarray(out, dtype=np.float64) for out in program(pixels_BCHW))
        shown = [filled(x_CHW, valid_values(x_CHW, nodata)) for x_CHW in pixels_BCHW]
        own = bundle.logits(torch.from_numpy(np.stack(shown)))
        wanted, own_scores = own.double().numpy(), bundle.scores(own).numpy()
        gaps = np.abs(logits - wanted) / np.maximum(1, np.abs(wanted)), np.abs(scores - own_scores)
        most = float(np.max([most, *(gap.max() for gap in gaps)]))
    return most


def random_tiles(spec: "BundleSpec", tiles: int, seed: int) -> NDArray[Any]:
    """Noise around levels that differ from band to band, within the dtype: (B, C, H, W).

    Where the dtype has nodata, it is a quarter of the columns, and more of the first band.
    """
    rng = np.random.default_rng(seed)
    dtype = np.dtype(spec.dtype)
    if dtype.kind in "iu":
        low, high = 0.0, min(float(np.iinfo(dtype).max), 20_000.0)
    else:
        low, high = min(spec.mean) - 2 * max(spec.std), max(spec.mean) + 2 * max(spec.std)
    level = rng.uniform(0.1, 0.8, (tiles, len(spec.bands), 1, 1))
    values = level + rng.uniform(-0.1, 0.2, (tiles, len(spec.bands), *spec.tile_shape))
    pixels: NDArray[Any] = (low + values * (high - low)).astype(dtype)
    void = sentinel(dtype, spec.nodata)
    if void is None and dtype.kind == "f":
        void = np.nan
    if void is not None:
        height, width = spec.tile_shape
        pixels[..., : width // 4] = pixels[:, 0, : height // 8] = void
    return pixels


def _run_onnx(data: bytes) -> Callable[[NDArray[Any]], Arrays]:
    import onnxruntime

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return lambda pixels: tuple(session.run(None, {"pixels": pixels}))


def _run_torch(data: bytes) -> Callable[[NDArray[Any]], Arrays]:
    import torch

    module = torch.export.load(io.BytesIO(data)).module()

    def call(pixels: NDArray[Any]) -> Arrays:
        with torch.inference_mode():
            return tuple(out.numpy() for out in module(torch.from_numpy(pixels)))

    return call
