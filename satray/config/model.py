"""Keys that describe a variant: towers, pooling, head."""

from typing import Literal

from pydantic import field_validator

from satray.config.base import Section, key

Pooling = Literal["avg", "max", "lse"]
FirstConv = Literal["kaiming", "zero", "mean", "copy", "in_place"]


class TowerOptions(Section):
    """One backbone and the bands it looks at."""

    name: str = key(..., "name of the tower, [a-z0-9]+", pattern=r"^[a-z0-9]+$")
    backbone: str = key(..., "simple_cnn or any timm model name (resnet18, mobilenetv2_100, ...)")
    bands: tuple[str, ...] = key(
        ..., "bands in input order; a repeated name repeats the band", min_length=1
    )


class VariantOptions(Section):
    """Towers, a pooling and a head over their concatenated pooled features."""

    towers: tuple[TowerOptions, ...] = key(..., "one or more towers", min_length=1)
    pooling: Pooling = key("avg", "avg = GAP, max = GMP, lse = log-sum-exp")
    head: Literal["linear", "dense"] = key("linear", "linear, or dense (no CAMs)")

    @field_validator("towers")
    @classmethod
    def _distinct(cls, towers: tuple[TowerOptions, ...]) -> tuple[TowerOptions, ...]:
        names = [tower.name for tower in towers]
        if len(set(names)) != len(names):
            raise ValueError(f"tower names must differ, found {', '.join(names)}")
        return towers
