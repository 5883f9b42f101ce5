"""Keys of `export`."""

from typing import ClassVar

from pydantic import field_validator

from satray.config.base import ReadPath, Recipe, key

FORMATS = ("encoder", "onnx", "torch")


class ExportRecipe(Recipe):
    """Take a bundle out of satray: its backbones as encoders, and the classifier as a program."""

    makes: ClassVar[str] = "encoder/TOWER.safetensors, classifier.onnx, classifier.pt2, export.json"

    bundle: ReadPath = key(..., "bundle: the `out` of a train run, or the bundle folder")
    formats: tuple[str, ...] = key(
        FORMATS,
        "encoder: a feature pyramid a tower, for satray.models.encoder.load_encoder; onnx and "
        "torch (.pt2): the whole classifier on stored pixels",
        min_length=1,
    )
    tile: tuple[int, int] | None = key(
        None,
        "onnx, torch: height and width of the tiles to be given; default the training tiles'",
        unit="px",
    )
    tolerance: float = key(
        1e-4,
        "largest difference of any logit and score from the bundle's, relative where logits are "
        "above 1, that is let through",
        gt=0,
    )

    @field_validator("formats")
    @classmethod
    def _known(cls, formats: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [name for name in formats if name not in FORMATS]
        if unknown:
            raise ValueError(f"found {', '.join(unknown)}; accepted: {', '.join(FORMATS)}")
        return formats
