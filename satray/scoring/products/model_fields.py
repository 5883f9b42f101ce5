"""What a catalogue entry says of the model: the fields of STAC's Machine Learning Model extension.

The extension (1.4.0) asks for an asset that holds the weights, so the bundle's file is one; its
digest is in `file:checksum`, and the short id that tables and rasters carry in `satray:model_id`.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # it imports torch
    from satray.models.spec import BundleSpec

MLM = "https://stac-extensions.github.io/mlm/v1.4.0/schema.json"

FORMAT = "safetensors.torch.save"
"""How the weights were written."""


@dataclass(frozen=True)
class ModelFacts:
    """A bundle, as an Item names it."""

    model_id: str
    """First 12 hex digits of the bundle's digest."""
    weights: str
    """URI of its `model.safetensors`."""
    sha256: str | None
    """Digest of that file, hexadecimal."""
    spec: "BundleSpec"
    """The bundle's."""


def model_properties(model: ModelFacts) -> dict[str, Any]:
    """Properties of an Item."""
    spec = model.spec
    backbones = dict.fromkeys(tower.backbone for tower in spec.variant.towers)
    height, width = spec.tile_shape
    return {
        "mlm:name": f"satray-{model.model_id}",
        "mlm:architecture": " + ".join(backbones),
        "mlm:tasks": ["scene-classification"],
        "mlm:framework": "PyTorch",
        "mlm:input": [
            {
                "name": "tile",
                "description": _description(spec),
                "bands": list(spec.bands),
                "input": {
                    "shape": [-1, len(spec.bands), height, width],
                    "dim_order": ["batch", "bands", "height", "width"],
                    "data_type": spec.dtype,
                },
                "value_scaling": _scaling(spec),
                "resize_type": "interpolation-linear",
            }
        ],
        "mlm:output": [
            {
                "name": "scores",
                "description": f"{spec.task}; classes in order: {', '.join(spec.classes)}",
                "tasks": ["scene-classification"],
                "result": {
                    "shape": [-1, len(spec.classes)],
                    "dim_order": ["batch", "class"],
                    "data_type": "float32",
                },
            }
        ],
        # the extension wants names in mlm:input to be those of described bands
        "bands": [{"name": name} for name in spec.bands],
        "satray:model_id": model.model_id,
        "satray:classes": list(spec.classes),
        "satray:thresholds": list(spec.thresholds),
        "satray:temperature": spec.temperature,
    }


def model_asset(model: ModelFacts) -> dict[str, Any]:
    """Fields of the asset `model` besides its href."""
    fields: dict[str, Any] = {
        "type": "application/octet-stream",
        "title": "weights of the bundle that scored the scene",
        "roles": ["mlm:model"],
        "mlm:artifact_type": FORMAT,
    }
    if model.sha256:
        fields["file:checksum"] = multihash(model.sha256)
    return fields


def multihash(sha256: str) -> str:
    """A SHA-256 as `file:checksum` writes it: code 0x12, length 0x20, digest."""
    return f"1220{sha256}"


def _scaling(spec: "BundleSpec") -> list[dict[str, Any]] | None:
    """Per-band normalisation of stored values; None where another radiometry comes before it."""
    if spec.radiometry.name != "stored":
        return None
    pairs = zip(spec.mean, spec.std, strict=True)
    return [{"type": "z-score", "mean": mean, "stddev": std} for mean, std in pairs]


def _description(spec: "BundleSpec") -> str:
    sides = " x ".join(f"{side:.4g}" for side in (spec.resolution, spec.resolution_y) if side)
    ground = f" at {sides} m a pixel" if sides else ""
    return (
        f"{spec.tile_shape[0]} x {spec.tile_shape[1]} px{ground}, radiometry "
        f"{spec.radiometry.name}, resized to {spec.resize or spec.size} px ({spec.evaluate})"
    )
