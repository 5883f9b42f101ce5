"""A trained bundle on arrays in memory: what `satray.load` gives.

Legend: N tiles, C bands, H x W stored pixels, K classes, D feature channels, h x w feature cells.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from satray.data.bands import select
from satray.data.values import filled, resample, valid_values
from satray.errors import InputError, counted
from satray.models.bundle import Bundle, load_bundle
from satray.models.network import pool
from satray.models.spec import BundleSpec
from satray.score.forward import Scorer
from satray.score.results import CamKind, MapRequest
from satray.storage import Storage, absolute

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Prediction:
    """What a classifier says of N tiles; the same numbers as the columns of the job `score`.

    NaN, without a label, of tiles that it would fail: no pixel is measured in every band.
    """

    scores: Floats
    """(N, K) after the temperature, 0 to 1; those of a multiclass bundle add up to 1."""

    logits: Floats
    """(N, K) raw, before the temperature."""

    preds: NDArray[np.uint8]
    """(N, K) 1 where the score reaches the bundle's threshold of the class; multiclass: for the
    class of the highest score."""

    labels: tuple[tuple[str, ...], ...]
    """For each tile the names of the classes with `preds` 1."""


class Classifier:
    """A bundle, ready to predict.

    All methods take tiles as one array: (N, C, H, W), or (C, H, W) for one tile, which counts as
    N = 1. Pixels are as stored: the dtype that the bundle was trained on (`spec.dtype`), in its
    units (`spec.units`), neither scaled nor normalised. Tiles of another height and width than
    `spec.tile_shape` are resampled to it first, and what is no measurement is filled, as the jobs
    do: values that are not finite, those that are `spec.nodata`, and what `valid` says. Bands are
    `bands` in that order, or any others whose names are given.
    """

    def __init__(self, bundle: Bundle, batch: int = 64) -> None:
        """Take a bundle.

        Args:
            bundle: network and spec, on the device that is to compute.
            batch: tiles a forward pass; more need more memory.
        """
        self.bundle = bundle
        self._batch = batch

    @property
    def spec(self) -> BundleSpec:
        """All that the bundle says of itself: variant, statistics, thresholds, provenance."""
        return self.bundle.spec

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the K classes, in the order of scores and logits."""
        return self.spec.classes

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the C bands that tiles have, in their order."""
        return self.spec.bands

    def __repr__(self) -> str:
        """One line: what it looks at, and what it tells apart."""
        towers = ", ".join(tower.backbone for tower in self.spec.variant.towers)
        return (
            f"Classifier({towers}; {self.spec.task}, {counted(len(self.classes), 'class')}; bands "
            f"{', '.join(self.bands)} in {self.spec.dtype}; model {self.bundle.model_id})"
        )

    def predict(
        self,
        tiles: ArrayLike,
        bands: Sequence[str] | None = None,
        *,
        valid: ArrayLike | None = None,
        d4: bool = False,
    ) -> Prediction:
        """Scores, logits and labels of tiles.

        Args:
            tiles: (N, C, H, W) or (C, H, W), `spec.dtype`, pixels as stored.
            bands: names of the array's bands; default `self.bands`.
            valid: (N, H, W) or (N, C, H, W) bool, without N for one tile: where masks, alpha or
                else let pixels count; what is False never reaches the network.
            d4: average logits over the eight flips and transposes of each tile.

        Raises:
            InputError: another shape or dtype, or bands that the bundle looks at are not there.
        """
        pixels_NCHW, known_N = self._pixels(tiles, bands, valid)
        numbers = Scorer(self.bundle, batch=self._batch, d4=d4)(pixels_NCHW).numbers
        preds = numbers.preds * known_N[:, None]
        labels = tuple(
            tuple(name for name, yes in zip(self.classes, row, strict=True) if yes) for row in preds
        )
        scores, logits = _known(numbers.scores, known_N), _known(numbers.logits, known_N)
        return Prediction(scores, logits, preds, labels)

    def cam(
        self,
        tiles: ArrayLike,
        classes: Sequence[str] | None = None,
        kind: CamKind = "dense",
        bands: Sequence[str] | None = None,
        *,
        valid: ArrayLike | None = None,
    ) -> dict[str, Floats]:
        """Class activation maps of tiles, raw and on the feature grid.

        With average pooling the mean of a dense map over its cells, summed over towers, plus the
        head's bias is the logit; with maximum pooling the sum of an argmax map is. Where cells lie:
        `spec.grids`, `spec.preprocess().geometry(*spec.tile_shape)` and
        `satray.models.geometry.cam_transform`.

        Args:
            tiles: (N, C, H, W) or (C, H, W), `spec.dtype`, pixels as stored.
            classes: names of the classes to map; default all, in the order of `self.classes`.
            kind: dense: weighted features (Zhou et al., CVPR 2016); argmax: what a maximum pooling
                really used.
            bands: names of the array's bands; default `self.bands`.
            valid: see `predict`.

        Returns:
            By tower: (N, classes asked for, h, w), float32, in logit units; NaN of tiles without a
            pixel that is measured in every band.

        Raises:
            InputError: see `predict`; an unknown class, or a network whose head is dense.
        """
        names = self.classes if classes is None else tuple(classes)
        absent = [name for name in names if name not in self.classes]
        if absent or isinstance(classes, str):
            found = repr(classes) if isinstance(classes, str) else ", ".join(absent)
            raise InputError(
                f"classes: found {found}; accepted: a list out of {', '.join(self.classes)}"
            )
        if kind == "argmax" and self.spec.variant.pooling != "max":
            raise InputError(
                f"kind='argmax': this bundle pools with {self.spec.variant.pooling}; accepted: "
                "dense (argmax shows what a maximum pooling used)"
            )
        request = MapRequest(tuple(self.classes.index(name) for name in names), (kind,))
        pixels_NCHW, known_N = self._pixels(tiles, bands, valid)
        maps = Scorer(self.bundle, request, self._batch)(pixels_NCHW).maps
        return {name: _known(maps_NKhw, known_N) for name, maps_NKhw in maps.items()}

    @torch.inference_mode()
    def features(
        self,
        tiles: ArrayLike,
        pooled: bool = False,
        bands: Sequence[str] | None = None,
        *,
        valid: ArrayLike | None = None,
    ) -> dict[str, Floats]:
        """Each tower's last features of tiles, before dropout and head.

        Args:
            tiles: (N, C, H, W) or (C, H, W), `spec.dtype`, pixels as stored.
            pooled: give one vector a tile, pooled as the bundle's head sees it.
            bands: names of the array's bands; default `self.bands`.
            valid: see `predict`.

        Returns:
            By tower: (N, D, h, w), or (N, D) where pooled; float32, without units; NaN as of `cam`.

        Raises:
            InputError: see `predict`.
        """
        stored_NCHW, known_N = self._pixels(tiles, bands, valid)
        pixels_NCHW = torch.from_numpy(stored_NCHW)
        parts: dict[str, list[Floats]] = {}
        for start in range(0, len(pixels_NCHW), self._batch):
            chunk = pixels_NCHW[start : start + self._batch]
            features = self.bundle.features(chunk)
            for name, f_BDhw in features.items():
                taken = pool(f_BDhw, self.spec.variant.pooling) if pooled else f_BDhw
                parts.setdefault(name, []).append(taken.float().cpu().numpy())
        return {name: _known(np.concatenate(arrays), known_N) for name, arrays in parts.items()}

    def _pixels(
        self, tiles: ArrayLike, bands: Sequence[str] | None, valid: ArrayLike | None
    ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Tiles as (N, C, H, W), C the bundle's bands in its order, in the shape of training.

        Besides, of which of them a pixel is measured in every band, (N,).
        """
        array = np.asarray(tiles)
        names = self.bands if bands is None else tuple(bands)
        fits = array.ndim in (3, 4) and 0 not in array.shape and array.shape[-3] == len(names)
        if not fits or str(array.dtype) != self.spec.dtype:
            raise InputError(
                f"tiles: found {array.dtype} of shape {array.shape}; accepted: {self.spec.dtype}, "
                f"pixels as stored, (N, C, H, W), or (C, H, W) for one tile, of {len(names)} bands "
                f"({', '.join(names)})"
            )
        shown = None if valid is None else np.asarray(valid)
        flat = array.shape[:-3] + array.shape[-2:]
        if shown is not None and (shown.dtype != bool or shown.shape not in (array.shape, flat)):
            raise InputError(
                f"valid: found {shown.dtype} of shape {shown.shape}; accepted: bool of the tiles' "
                f"shape {array.shape}, with or without bands"
            )
        if array.ndim == 3:
            array, shown = array[None], None if shown is None else shown[None]
        nodata, masks = (self.spec.nodata,) * array.shape[1], [None] * len(array)
        pairs = zip(array, masks if shown is None else shown, strict=True)
        valid_N = [valid_values(x_CHW, nodata, s) for x_CHW, s in pairs]
        array = np.stack(list(map(filled, array, valid_N)))
        take = list(select(names, self.bands))
        known_N = np.array([v is None or v[take].all(axis=0).any() for v in valid_N])
        if names != self.bands:
            array = array[:, take]
        if array.shape[2:] != self.spec.tile_shape:
            array = np.stack([resample(x_CHW, *self.spec.tile_shape) for x_CHW in array])
        # a copy of read-only and negatively strided arrays, which torch does not take
        return np.require(array, requirements=["C", "W"]), known_N


def _known(values: Floats, known_N: NDArray[np.bool_]) -> Floats:
    """Numbers of N tiles, NaN of those that are not known."""
    if known_N.all():
        return values
    values = values.copy()
    values[~known_N] = np.nan
    return values


def load_classifier(
    uri: str, storage: Storage | None = None, device: str = "cpu", batch: int = 64
) -> Classifier:
    """Read a bundle; see `satray.load`."""
    return Classifier(load_bundle(absolute(uri), storage or Storage(), device), batch)
